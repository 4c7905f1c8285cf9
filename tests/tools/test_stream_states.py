"""What a stream keeps: states, several streams, weights; and that it keeps no more."""

import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import ostinato
from ostinato import native
from ostinato.layers import LSTM, RNN, GRUCell, LSTMCell
from support import WHOLE, elsewhere_in_long, on_one_backend, sample
from tools.stream_zoo import (
    ZOO,
    OfAllRows,
    Own,
    give_weights,
    gru,
    lstm,
    of_all_rows,
    read,
    stack,
)
from tools.streamed import VOCABULARY, N, T, cut, data_for, floats, run_whole

ROWS = [[0, 3], (2,), np.array([1, 1]), 3, [], {0, 2}, range(4)]
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
needs_native = pytest.mark.skipif(native.why_not() is not None, reason="no native engine here")


@keras.saving.register_keras_serializable(package="tests")
class Counts(Own):
    """A cell that counts timesteps in integers."""

    def get_initial_state(self, batch_size=None, dtype=None):
        return [keras.ops.zeros((batch_size, self.units), "int32")]

    def call(self, inputs, states):
        new = states[0] + 1
        return keras.ops.cast(new, inputs.dtype), [new]


def twice_the_name(outer=gru):
    """A model whose LSTM and other layer, on another level, are both called "r"."""
    inner = keras.Sequential([keras.Input((None, 3)), lstm(4, name="r")], name="inner")
    x = keras.Input((None, 3))
    return give_weights(keras.Model(x, outer(2, name="r")(layers.Dense(3, name="d")(inner(x)))))


def resident():
    """Bytes of this process's memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def own(units, name):
    return RNN(Own(units), return_sequences=True, name=name)


@pytest.fixture(params=sample([None, Own, OfAllRows], OfAllRows))
def model(request):
    """Models whose streams the native engine runs, and one that Keras runs."""
    above = gru(3, name="b") if request.param is None else RNN(request.param(3), name="b")
    return stack(layers.Masking(), lstm(5, name="a"), above)


class TestSeveral:
    def test_are_as_many_alone(self, model):
        data = data_for(model, 0.0)
        together = ostinato.stream(model, streams=N).run(data)
        for row in range(N):
            alone = ostinato.stream(model).run(data[row])
            np.testing.assert_allclose(together[row], alone, **CLOSE)

    def test_reset(self, model):
        stream, data = ostinato.stream(model, streams=N), data_for(model, 0.0)
        first = stream.run(data)
        assert np.abs(stream.run(data) - first).max() > 1e-3
        stream.reset()
        np.testing.assert_array_equal(stream.run(data), first)

    @pytest.mark.parametrize("rows", ROWS if WHOLE else ROWS[:1])
    def test_reset_of_rows(self, model, rows):
        stream, data = ostinato.stream(model, streams=N), data_for(model, 0.0)
        first = stream.run(data)
        going_on = stream.run(data)
        stream.reset()
        stream.run(data)
        stream.reset(rows=rows)
        mixed = stream.run(data)
        anew = np.isin(np.arange(N), [rows] if isinstance(rows, int) else [*rows])
        np.testing.assert_array_equal(mixed[anew], first[anew])
        np.testing.assert_array_equal(mixed[~anew], going_on[~anew])

    @elsewhere_in_long
    @pytest.mark.parametrize(
        "rows", [[4], [-1], [0, 9], [True, False, True, False], [1.0], ["0"], 1.5, True]
    )
    def test_rows_that_are_not_there(self, model, rows):
        stream = ostinato.stream(model, streams=N)
        with pytest.raises(ValueError, match=r"reset: expected numbers of streams, 0 to 3, got"):
            stream.reset(rows=rows)

    @pytest.mark.parametrize("streams", [np.int64(N), np.uint8(N)])
    def test_a_number_of_numpy(self, model, streams):
        data = data_for(model)
        expected = ostinato.stream(model, streams=N).run(data)
        stream = ostinato.stream(model, streams=streams)
        assert type(stream.streams) is int
        np.testing.assert_array_equal(stream.run(data), expected)

    @elsewhere_in_long
    @pytest.mark.parametrize("streams", [0, -1, 1.5, "2", True, np.int64(0), np.True_])
    def test_a_number_that_is_none(self, model, streams):
        with pytest.raises(ValueError, match="expected a positive number of streams or None"):
            ostinato.stream(model, streams=streams)


class TestState:
    def test_going_on_from_a_copy(self, model):
        stream, data = ostinato.stream(model), data_for(model, 0.0)[0]
        stream.run(data)
        saved = stream.state
        after = stream.run(data)
        assert np.abs(saved["a"][0] - stream.state["a"][0]).max() > 1e-3, "not an alias"
        stream.state = saved
        np.testing.assert_array_equal(stream.run(data), after)
        for arrays in saved.values():
            for array in arrays:
                array[...] = 1  # the caller's, from now on
        stream.reset()
        first = stream.run(data)
        stream.reset()
        np.testing.assert_array_equal(stream.run(data), first)

    @pytest.mark.parametrize("streams", [None, 1, N])
    def test_of_a_layer_alone_is_its_final_state(self, streams):
        layer, data = LSTM(5, return_state=True, name="a"), floats(streams or 1, T, 3)
        _, *expected = run_whole(layer, data)
        stream = ostinato.stream(layer, streams=streams)
        stream.run(data if streams else data[0])
        assert list(stream.state) == ["a"]
        for got, wanted in zip(stream.state["a"], expected, strict=True):
            np.testing.assert_allclose(got, wanted if streams else wanted[0], **CLOSE)

    def test_set_before_a_sequence_is_the_initial_state(self):
        layer, data = lstm(5), floats(N, T, 3)
        states = [floats(N, 5, seed=3), floats(N, 5, seed=4)]
        expected = keras.ops.convert_to_numpy(layer(data, initial_state=states))
        stream = ostinato.stream(layer, streams=N)
        stream.state = {layer.name: states}
        np.testing.assert_allclose(stream.run(data), expected, **CLOSE)

    def test_of_some_layers_alone(self, model):
        stream, data = ostinato.stream(model), data_for(model)[0]
        stream.run(data)
        before, h = stream.state, floats(5)
        stream.state = {"a": [h, -h]}
        np.testing.assert_array_equal(stream.state["a"][0], h)
        np.testing.assert_array_equal(stream.state["a"][1], -h)
        np.testing.assert_array_equal(stream.state["b"][0], before["b"][0])

    @elsewhere_in_long
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ([1, 2], r"expected a dict by layer of \['a', 'b'\], got list"),
            ({"c": []}, r"expected a dict by layer of \['a', 'b'\], got \['c'\]"),
            ({"a": [np.zeros(5)]}, r"state of a: expected 2 arrays, got 1"),
            ({"a": [np.zeros(5), np.zeros(4)]}, r"of shape \(5,\), got \(4,\)"),
            ({"a": [np.zeros(5), np.zeros(6)]}, r"of shape \(5,\), got \(6,\)"),
            ({"a": [np.zeros((1, 5)), np.zeros(5)]}, r"of shape \(5,\), got \(1, 5\)"),
            ({"a": [np.zeros(5, complex), np.zeros(5)]}, r"of a: .*float32, got complex128"),
            ({"a": [["a"] * 5, np.zeros(5)]}, r"of a: .* and float32, got <U1"),
            ({"a": [[None] * 5, np.zeros(5)]}, r"of a: .* and float32, got object"),
            ({"a": [[[0], [0, 1]], np.zeros(5)]}, r"state of a: expected .*no array of"),
        ],
    )
    def test_that_does_not_fit(self, model, wrong, message):
        stream = ostinato.stream(model)
        stream.run(data_for(model)[0])
        before = stream.state
        with pytest.raises(ValueError, match=message):
            stream.state = wrong
        keras.tree.map_structure(np.testing.assert_array_equal, stream.state, before)

    @elsewhere_in_long
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (1.5, r"state of counts: .* and integers, got float64"),
            (True, r"state of counts: .* and integers, got bool"),
            (2**40, r"state of counts: expected values within int32, got 1099511627776"),
        ],
    )
    def test_of_integers(self, wrong, message):
        stream = ostinato.stream(stack(RNN(Counts(3), name="counts")))
        stream.state = {"counts": np.full(3, 7, "int64")}
        stream.step(floats(3))
        with pytest.raises(ValueError, match=message):
            stream.state = {"counts": np.full(3, wrong)}
        np.testing.assert_array_equal(stream.state["counts"][0], [8, 8, 8])

    @needs_native
    def test_of_whether_a_timestep_was_valid(self):
        stream = ostinato.stream(stack(layers.Masking(), lstm(2, name="a")))
        with pytest.raises(ValueError, match=r"of shape \(\) and bool, got float64"):
            stream.state = {"a": [np.zeros(2), np.zeros(2), 0.5]}

    def test_of_many_cells(self):
        model = stack(RNN([LSTMCell(2), GRUCell(3)], name="cells"))
        stream = ostinato.stream(model)
        stream.step(floats(3))
        assert [array.shape for array in stream.state["cells"]] == [(2,), (2,), (3,)]

    def test_of_a_layer_called_twice(self):
        model = ZOO["a shared layer"].make()
        stream, data = ostinato.stream(model), cut(data_for(model), 0)
        stream.run(data)
        (states,) = stream.state.values()
        assert len(states) == 4
        after = stream.run(data)
        stream.state = {next(iter(stream.state)): states}
        np.testing.assert_array_equal(stream.run(data), after)

    @pytest.mark.parametrize("outer", [gru, own])
    def test_of_layers_of_one_name(self, outer):
        stream = ostinato.stream(twice_the_name(outer))
        whole = stream.run(floats(5, 3))
        assert {name: len(parts) for name, parts in stream.state.items()} == {"inner/r": 2, "r": 1}
        before = stream.state
        stream.state = {"r": np.ones(2)}
        np.testing.assert_array_equal(stream.state["r"], [np.ones(2)])
        np.testing.assert_array_equal(stream.state["inner/r"], before["inner/r"])
        stream.state = {"inner/r": [np.zeros(4), np.zeros(4)], "r": np.zeros(2)}
        np.testing.assert_array_equal(stream.run(floats(5, 3)), whole)

    def test_is_unchanged_by_what_is_refused(self):
        model = read(layers.Embedding(VOCABULARY, 4), lstm(3))
        stream = ostinato.stream(model)
        stream.run([1, 2, 3])
        before = stream.state
        with pytest.raises(ValueError, match=f"expected ids of 0 to {VOCABULARY - 1}, got 99"):
            stream.run([1, 2, 99])
        keras.tree.map_structure(np.testing.assert_array_equal, stream.state, before)


class TestRefresh:
    def test_after_training(self):
        model = stack(layers.BatchNormalization(), lstm(4), layers.Dense(2))
        data = data_for(model)
        stream = ostinato.stream(model, streams=N)
        before = stream.run(data)
        model.compile("sgd", "mse")
        model.fit(data, floats(N, T, 2), verbose=0)
        stream.reset()
        np.testing.assert_array_equal(stream.run(data), before)
        stream.reset()
        stream.refresh()
        after = stream.run(data)
        assert np.abs(after - before).max() > 1e-3
        np.testing.assert_allclose(after, run_whole(model, data), **CLOSE)

    def test_keeps_the_states(self, model):
        stream, data = ostinato.stream(model), data_for(model)[0]
        stream.run(data)
        before = stream.state
        stream.refresh()
        keras.tree.map_structure(np.testing.assert_array_equal, stream.state, before)

    def test_in_keras(self):
        model = stack(RNN(OfAllRows(3), return_sequences=True))
        data, stream = data_for(model), ostinato.stream(model, streams=N)
        stream.run(data)
        give_weights(model, seed=8)
        stream.refresh()
        stream.reset()
        np.testing.assert_allclose(stream.run(data), run_whole(model, data), **CLOSE)

    @needs_native
    def test_of_another_structure(self):
        model = keras.Sequential([keras.Input((None, 3)), lstm(4)])
        stream = ostinato.stream(model)
        model.add(layers.Dense(2))
        with pytest.raises(ValueError, match="refresh: the model's layers have changed"):
            stream.refresh()

    @needs_native
    def test_says_what_the_kernel_no_longer_takes(self):
        model = stack(lstm(4, name="a"))
        stream = ostinato.stream(model)
        model.layers[0].cell.activation = of_all_rows
        changed = r"have changed since: LSTM layer 'a': .*: of_all_rows; .*\. Make"
        with pytest.raises(ValueError, match=changed):
            stream.refresh()

    def test_whatever_engine_is_forced(self, model):
        stream, data = ostinato.stream(model, streams=N), data_for(model, 0.0)
        give_weights(model, seed=8)
        with ostinato.use_engine("scan"):
            stream.refresh()
        expected = ostinato.stream(model, streams=N).run(data)
        np.testing.assert_allclose(stream.run(data), expected, **CLOSE)


class TestThreads:
    def test_each_with_its_own(self):
        model = stack(lstm(64), gru(17), features=3)
        data = data_for(model, rows=8, timesteps=200)
        streams = [ostinato.stream(model) for _ in range(8)]
        expected = [ostinato.stream(model).run(row) for row in data]

        def run(stream, row):
            return np.stack([stream.step(x) for x in row[:100]] + [*stream.run(row[100:])])

        with ThreadPoolExecutor(8) as pool:
            for got, wanted in zip(pool.map(run, streams, data), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)

    def test_one_for_all_is_right_or_refuses(self, model):
        data = data_for(model, rows=1, timesteps=20)[0]
        stream, ready = ostinato.stream(model), threading.Barrier(4)
        shape, outcomes = stream.run(data).shape, []

        def run():
            ready.wait()
            outcomes.extend(shape_or_refusal(stream, data) for _ in range(3))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 12
        assert set(outcomes) <= {shape, refusal(stream)}
        stream.reset()
        np.testing.assert_array_equal(stream.run(data), ostinato.stream(model).run(data))

    @needs_native
    def test_a_busy_one_refuses(self):
        stream = ostinato.stream(stack(lstm(128), features=64))
        data, outcomes = floats(20_000, 64), []
        thread = threading.Thread(target=lambda: outcomes.append(shape_or_refusal(stream, data)))
        thread.start()
        while thread.is_alive() and refusal(stream) not in outcomes:
            outcomes.append(shape_or_refusal(stream, data[:50]))
        thread.join()
        assert set(outcomes) <= {(20_000, 128), (50, 128), refusal(stream)}
        assert refusal(stream) in outcomes  # this thread's call, or the other's


def refusal(stream):
    """What a stream says that is in use."""
    return (
        f"stream of {stream.name}: a stream takes one call at a time; this one is in use in "
        "another thread."
    )


def shape_or_refusal(stream, data):
    """The shape of what a stream gives, or what it says where it gives nothing."""
    try:
        return stream.run(data).shape
    except RuntimeError as error:
        return str(error)


@needs_native
@on_one_backend
def test_memory_does_not_grow():
    stream = ostinato.stream(stack(lstm(2), features=1))
    x = floats(1)
    sizes = []
    for _ in range(4):
        for _ in range(250_000):
            stream.step(x)
        sizes.append(resident())
    assert sizes[-1] - sizes[0] < 1 << 20, sizes


@on_one_backend
def test_a_layer_of_a_nested_model_goes_by_its_name_where_no_other_has_it():
    def box(name):
        inner = LSTM(2, return_sequences=True, name="inner")
        return keras.Sequential([keras.Input((None, 3)), inner], name=name)

    alone = keras.Sequential([keras.Input((None, 3)), box("a"), layers.Dense(3)])
    assert [*ostinato.stream(alone).state] == ["inner"]
    two = keras.Sequential([*alone.layers, box("b")])
    assert [*ostinato.stream(two).state] == ["a/inner", "b/inner"]


@needs_native
@on_one_backend
@pytest.mark.slow
def test_ten_million_steps():
    """116 a second for a day: no drift in memory, and in the end the batch model's output."""
    model = stack(lstm(3), layers.Dense(1), features=1)
    stream, chunk, sizes = ostinato.stream(model), floats(1000, 1), []
    for _ in range(10):
        for _ in range(998):
            stream.run(chunk)
        for x in [*chunk, *chunk]:
            stream.step(x)
        sizes.append(resident())
    assert sizes[-1] - sizes[0] < 1 << 20, sizes
    # What came long before is forgotten, so that the model needs the end alone.
    expected = run_whole(model, np.concatenate([chunk, chunk, chunk])[None])[0, -1]
    last = stream.run(chunk)[-1]
    np.testing.assert_allclose(last, expected, rtol=1e-6, atol=1e-6)
