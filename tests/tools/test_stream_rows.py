"""Many streams in one: inputs that come when they like, resets, and streams opened and closed."""

import contextlib
import threading
from itertools import pairwise

import keras
import numpy as np
import pytest

import ostinato
from ostinato import native
from ostinato.streaming.turns import Turns
from support import ON_ONE_BACKEND, on_one_backend, sample
from tools.stream_zoo import ZOO, lstm, stack
from tools.streamed import assert_nests_close, cut, data_for, floats, run_whole

T = 8
# Each way that states are kept: cells, masks, routines, windows, pools, ids; and by Keras.
NAMES = (
    *("a voice detector", "windows behind zeros", "a mean under a mask", "all merges", "dicts"),
    *(
        "cells of one's own under a mask",
        "Embedding with a mask",
        "windows in Keras",
        "a mean under a mask, in Keras",
    ),
    *("a cell of all rows, zeros where masked", "a cell of all rows that begins with ones"),
)

# What the backend has a part in beside the weights: what Keras runs; programs that it traced.
BY_BACKENDS = ("cells of one's own under a mask", "windows in Keras")


def assert_equals_pieces(outputs, model, data, resets, tolerance):
    """Asserts that outputs of every timestep are the model's on each row's pieces, begun anew."""
    for row, flags in enumerate(resets):
        edges = [0, *(t for t in range(1, T) if flags[t]), T]
        for begin, end in pairwise(edges):
            part = run_whole(model, cut(data, slice(row, row + 1), slice(begin, end)))
            for y, expected in zip(
                keras.tree.flatten(outputs), keras.tree.flatten(part), strict=True
            ):
                got = y[row : row + 1, begin:end]
                got = got if got.shape == expected.shape else got[:, -1]
                np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def make(name, rows, seed=0):
    """A model of the zoo, its data, resets, and all that its stream gives in one call."""
    model, rng = ZOO[name].make(), np.random.default_rng(seed)
    data = data_for(model, ZOO[name].padding, rows=rows, timesteps=T)
    resets = rng.random((rows, T)) < 0.2
    stream = ostinato.stream(model, streams=rows)
    return model, data, resets, stream


@pytest.mark.parametrize("name", sample(NAMES, *BY_BACKENDS))
def test_resets_are_pieces(name):
    model, data, resets, stream = make(name, 3)
    outputs = stream.run(data, resets=resets)
    assert_equals_pieces(outputs, model, data, resets, 4e-6)
    stream.reset()
    steps = [stream.step(cut(data, slice(None), t), resets=resets[:, t]) for t in range(T)]
    stacked = keras.tree.map_structure(lambda *ys: np.stack(ys, 1), *steps)
    assert_nests_close(stacked, outputs, 0 if not stream.why_not_native else 1e-6)


@pytest.mark.parametrize("rows", [5, 200])
@pytest.mark.parametrize("name", sample(NAMES, *BY_BACKENDS))
def test_arrivals_at_random(name, rows):
    if rows > 5 and (not ON_ONE_BACKEND or ZOO[name].why_not_native):
        pytest.skip("the same on every backend")
    _, data, resets, stream = make(name, rows, seed=1)
    expected = stream.run(data, resets=resets)
    stream.reset()
    rng, at = np.random.default_rng(2), np.zeros(rows, int)
    while (at < T).any():
        clock = rng.choice(at[at < T])
        arrived = rng.permutation(np.flatnonzero((at == clock) & (rng.random(rows) < 0.6)))
        index = (arrived, clock)
        got = stream.step(cut(data, *index), rows=arrived, resets=resets[index])
        assert_nests_close(got, cut(expected, *index), 2e-6)
        at[arrived] += 1


def test_one_stream_is_reset():
    model = ZOO["a voice detector"].make()
    data, resets = data_for(model, rows=1, timesteps=T), np.zeros((1, T), bool)
    resets[0, 3] = True
    stream = ostinato.stream(model)
    outputs = stream.run(data[0], resets=resets[0])
    assert_equals_pieces([y[None] for y in outputs], model, data, resets, 2e-6)
    stream.reset()
    for t in range(T):
        got = stream.step(data[0, t], resets=bool(resets[0, t]))
        assert_nests_close(got, cut(outputs, t), 0)


@pytest.mark.parametrize("name", sample(("a voice detector", BY_BACKENDS[1]), BY_BACKENDS[1]))
def test_streams_open_and_close_while_others_go_on(name):
    _, data, _, stream = make(name, 3)
    expected = stream.run(data)
    stream.reset()
    stream.run(cut(data, slice(None), slice(0, 2)))
    stream.close([1])
    assert stream.streams == 2
    assert stream.rows.tolist() == [0, 2]
    got = stream.step(cut(data, [0, 2], 2))
    assert_nests_close(got, cut(expected, [0, 2], 2), 2e-6)
    assert all(part.shape[0] == 2 for parts in stream.state.values() for part in parts)
    assert stream.open(3) == [1, 3, 4]
    assert stream.streams == 5
    order = [0, 2, 1]  # 3 and 4 begin with the second row's data
    got = stream.step(cut(data, [0, 1, 2, 1, 0], [3, 0, 3, 0, 0]))
    assert_nests_close(cut(got, order), cut(expected, order, [3, 3, 0]), 2e-6)
    assert_nests_close(cut(got, [3, 4]), cut(expected, [1, 0], [0, 0]), 2e-6)
    got = stream.step(cut(data, [0, 1], [1, 1]), rows=[4, 1])
    assert_nests_close(got, cut(expected, [0, 1], [1, 1]), 2e-6)


def test_hundreds_are_opened():
    _, data, _, stream = make("a voice detector", 3)
    expected = stream.run(data)
    few = stream.another(3)
    few.run(cut(data, slice(None), slice(0, 4)))
    assert len(few.open(400)) == 400
    rest = few.run(cut(data, slice(None), slice(4, T)), rows=range(3))
    assert_nests_close(rest, cut(expected, slice(None), slice(4, T)), 2e-6)
    many = cut(data, np.arange(400) % 3)
    assert_nests_close(few.run(many, rows=range(3, 403)), cut(expected, np.arange(400) % 3), 2e-6)


def test_a_reset_is_of_its_rows_alone():
    for count in (4, 300):
        model = stack(lstm(4), keras.layers.Conv1D(3, 2, padding="causal"))
        stream = ostinato.stream(model, streams=count)
        x = floats(count, 3, 3)
        expected = stream.run(x)
        stream.reset([2, 0])
        again = stream.step(x[:, 0])
        np.testing.assert_allclose(again[[0, 2]], expected[[0, 2], 0], rtol=2e-6, atol=2e-6)
        assert np.abs(again[[1, 3]] - expected[[1, 3], 0]).min() > 1e-6


@pytest.mark.skipif(native.why_not() is not None, reason="the native engine isn't there")
def test_weights_are_shared_and_stay_ones_own():
    model = stack(lstm(64), features=64)
    first = ostinato.stream(model)
    assert first.another()._runner._packed is ostinato.stream(model)._runner._packed
    x = floats(T, 64)
    before = first.run(x)
    second = first.another(streams=2)
    model.set_weights([0.5 * weight for weight in model.get_weights()])
    second.refresh()
    first.reset()
    np.testing.assert_array_equal(first.run(x), before)
    expected = run_whole(model, x[None])[0]
    np.testing.assert_allclose(second.run(np.stack([x, x]))[1], expected, rtol=2e-6, atol=2e-6)
    third = ostinato.stream(model)
    assert third._runner._packed is second._runner._packed
    first.refresh()
    first.reset()
    np.testing.assert_allclose(first.run(x), expected, rtol=2e-6, atol=2e-6)


def test_a_closed_stream_is_saved_by_nobody(tmp_path):
    model = ZOO["a voice detector"].make()
    stream, data = ostinato.stream(model, streams=3), data_for(model, rows=3, timesteps=T)
    expected = stream.run(data)
    stream.reset()
    stream.run(data[:, :3])
    stream.close(0)
    if stream.why_not_native:
        return
    stream.save(tmp_path / "some.stream")
    loaded = ostinato.Stream.load(tmp_path / "some.stream")
    assert loaded.streams == 2
    assert_nests_close(loaded.run(data[1:, 3:]), cut(expected, slice(1, 3), slice(3, T)), 2e-6)
    stream.save_state(tmp_path / "state.npz")
    stream.step(data[1:, 3])
    stream.load_state(tmp_path / "state.npz")
    assert_nests_close(stream.run(data[1:, 3:]), cut(expected, slice(1, 3), slice(3, T)), 2e-6)
    stream.close([1, 2])
    assert stream.step(data[:0, 0])[0].shape == (0, 2)
    with pytest.raises(ValueError, match="save: expected an open stream, and all are closed"):
        stream.save(tmp_path / "none.stream")


BAD_ROWS = {
    "beyond": ([0, 4], "0 to 3, got 4"),
    "negative": ([-1], "0 to 3, got -1"),
    "booleans": ([True, False, True, False], "got True"),
    "an array of booleans": (np.ones(4, bool), "0 to 3, got"),
    "floats": ([0.0, 1.0], "0 to 3, got 0.0"),
    "an array of floats": (np.arange(2.0), "0 to 3, got"),
    "negative in an array": (np.array([0, -1]), "0 to 3, got -1"),
    "huge": ([2**70], f"0 to 3, got {2**70}"),
    "huge among others": ([0, 3, 2**70, 1], f"0 to 3, got {2**70}"),
    "too large among huge ones": ([1, 4, 2**70], "0 to 3, got 4"),
    "negative and huge": ([-(2**70)], f"0 to 3, got {-(2**70)}"),
    "unsigned": (np.array([2**64 - 1], "uint64"), "0 to 3, got"),
    "two axes": (np.zeros((2, 2), int), "0 to 3, got"),
    "text": ("0", "0 to 3, got '0'"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_are_refused(name):
    rows, text = BAD_ROWS[name]
    stream = ostinato.stream(stack(lstm(3)), streams=4)
    before = stream.state
    for call in (
        lambda: stream.step(floats(2, 3), rows=rows),
        lambda: stream.run(floats(2, T, 3), rows=rows),
        lambda: stream.reset(rows),
        lambda: stream.close(rows),
    ):
        with pytest.raises(ValueError, match=r"stream of \w+: .*" + text.replace(".", r"\.")):
            call()
    assert_nests_close(stream.state, before, 0)


def test_other_arguments_that_are_refused():
    stream = ostinato.stream(stack(lstm(3)), streams=4)
    with pytest.raises(ValueError, match="close: expected numbers of streams, 0 to 3, got None"):
        stream.close(None)
    x = floats(4, 3)
    with pytest.raises(ValueError, match=r"expected x of shape \(2, 3\).*got \(4, 3\)"):
        stream.step(x, rows=[0, 3])
    for resets in (np.zeros(4), np.zeros(3, bool), np.zeros((4, 1), bool), True):
        with pytest.raises(ValueError, match=r"expected resets of shape \(4,\) and bool"):
            stream.step(x, resets=resets)
    with pytest.raises(ValueError, match=r"expected resets of shape \(4, 5\) and bool"):
        stream.run(floats(4, 5, 3), resets=np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match="expected each stream once, got 3 twice"):
        stream.step(x[:3], rows=[3, 0, 3])
    for rows in ({3, 0}, {3: 0, 0: 1}, frozenset({1, 2})):
        with pytest.raises(
            ValueError, match=r"expected rows in the order of the arrays, .* a \w+\."
        ):
            stream.step(x[:2], rows=rows)
    stream.close(2)
    with pytest.raises(ValueError, match="expected open streams, got 2, which is closed"):
        stream.step(x[:1], rows=[2])
    for count in (0, -1, 1.5, True, None, "2", 2**24, 2**70):
        text = (
            rf"open: expected a positive number of streams, .*16777216 with .* 3 .* got {count!r}"
        )
        with pytest.raises(ValueError, match=text):
            stream.open(count)
    for count in (2**24 + 1, 2**70):
        with pytest.raises(ValueError, match=rf"another: .* or None, and .* 16777216, got {count}"):
            stream.another(count)
    np.testing.assert_array_equal(stream.rows, [0, 1, 3])
    single = ostinato.stream(stack(lstm(3)))
    for call in (single.open, lambda: single.close(0), lambda: single.rows):
        with pytest.raises(ValueError, match="expected a stream that was made with streams=N"):
            call()


def test_rows_in_any_form_and_more_than_once():
    stream, x = ostinato.stream(stack(lstm(3)), streams=5), floats(5, 3)
    fresh = stream.step(x)
    for rows in (
        [1, 3],
        (3, 1),
        {1, 3},
        range(1, 4, 2),
        np.array([3, 1], "uint8"),
        [np.int64(1), 3],
    ):
        for again in (rows, [*rows, *rows]):
            stream.step(x)
            stream.reset(again)
            got = stream.step(x)
            np.testing.assert_allclose(got[[1, 3]], fresh[[1, 3]], rtol=2e-6, atol=2e-6)
            assert np.abs(got[[0, 2, 4]] - fresh[[0, 2, 4]]).min() > 1e-6
    state = stream.state
    stream.reset([])
    assert_nests_close(stream.state, state, 0)
    assert stream.step(x[:0], rows=[]).shape == (0, 3)


def test_the_numbers_of_open_streams_are_the_users_to_change():
    stream, x = ostinato.stream(stack(lstm(9), features=8), streams=3), floats(2, 8)
    stream.close(0)
    rows = stream.rows
    rows[:] = 0
    assert stream.rows.tolist() == [1, 2]
    assert stream.step(x).shape == (2, 9)


def test_states_are_set_of_open_streams_alone():
    stream, x = ostinato.stream(stack(lstm(9), features=8), streams=4), floats(4, 5, 8)
    expected = stream.another(4).run(x)
    stream.run(x[:, :2])
    stream.close([0, 2])
    state = stream.state
    stream.run(x[[1, 3], 3:])
    stream.state = state
    np.testing.assert_allclose(stream.run(x[[1, 3], 2:]), expected[[1, 3], 2:], 2e-6, 2e-6)
    stream.state = {name: [part[::-1] for part in parts] for name, parts in state.items()}
    np.testing.assert_allclose(stream.run(x[[3, 1], 2:]), expected[[3, 1], 2:], 2e-6, 2e-6)


@pytest.mark.skipif(native.why_not() is not None, reason="what Keras runs can't be in int8")
def test_a_quantized_stream_has_the_numbers_of_the_one_it_was_made_of():
    stream, x = ostinato.stream(stack(lstm(9), features=8), streams=4), floats(4, 6, 8)
    whole = ostinato.quantize(stream).run(x)
    stream.close([0, 2])
    small = ostinato.quantize(stream)
    assert small.rows.tolist() == [1, 3]
    small.run(x[[3, 1], :2], rows=[3, 1])
    with pytest.raises(ValueError, match="expected open streams, got 2, which is closed"):
        small.step(x[:1, 0], rows=[2])
    with pytest.raises(ValueError, match=r"\(4, 8\)"):  # which all four would have
        small.step(x[:, 0])
    assert small.open() == [0]
    assert stream.rows.tolist() == [1, 3]
    with pytest.raises(ValueError, match="expected open streams, got 0, which is closed"):
        stream.step(x[:1, 0], rows=[0])
    np.testing.assert_allclose(small.run(x[[1, 3], 2:], rows=[1, 3]), whole[[1, 3], 2:], 1e-5, 1e-6)
    np.testing.assert_allclose(small.run(x[:1], rows=[0]), whole[:1], 1e-5, 1e-6)
    stream.close([1, 3])
    none = ostinato.quantize(stream)
    assert none.streams == 0
    assert none.open(2) == [0, 1]
    np.testing.assert_allclose(none.run(x[:2]), whole[:2], 1e-5, 1e-6)


@on_one_backend
def test_opening_what_was_closed_makes_no_room():
    stream, x = ostinato.stream(stack(lstm(9), features=8), streams=3), floats(3, 4, 8)
    expected = stream.another(3).run(x)
    stream.run(x)
    for closed in ([1], [2, 0], [0, 1, 2]):
        stream.close(closed)
        assert stream.open(len(closed)) == sorted(closed)
    assert (stream._rows.room, stream._rows.open) == (3, None)  # all, none of them by its number
    np.testing.assert_allclose(stream.run(x), expected, 2e-6, 2e-6)


@on_one_backend
def test_a_change_that_waits_comes_before_the_next_call_and_after_it_calls_wait_for_nobody():
    turns = Turns("stream")
    with turns.change():
        assert turns.is_wanted
    assert not turns.is_wanted
    with turns:
        assert turns.use.locked()


@on_one_backend
def test_opening_and_closing_wait_for_a_run():
    stream = ostinato.stream(stack(lstm(64), lstm(64), features=64), streams=3)
    x = floats(3, 4000, 64)
    results = []

    def run(data):
        results.append(stream.run(data))

    for change in (lambda: stream.close(1), lambda: stream.open(1), lambda: stream.close([0, 2])):
        before = stream.streams
        thread = threading.Thread(target=run, args=(x[:before],))
        thread.start()
        while not stream._turns.use.locked() and thread.is_alive():
            pass
        assert thread.is_alive(), "it was over too soon to say anything"
        change()
        thread.join()
        assert results.pop().shape == (before, 4000, 64)


@on_one_backend
def test_clients_come_and_go_while_others_go_on():
    """Each client, in a thread of its own, has what a stream of its own would give."""
    model = stack(lstm(5), keras.layers.Conv1D(4, 3, padding="causal"))
    shared, one = ostinato.stream(model, streams=1), ostinato.stream(model)
    failures = []

    def client(seed):
        rng = np.random.default_rng(seed)
        mine = one.another()
        for _ in range(15):
            (row,) = shared.open()
            mine.reset()
            for _ in range(int(rng.integers(1, 6))):
                x = rng.normal(size=(int(rng.integers(1, 4)), 3)).astype("float32")
                while True:
                    with contextlib.suppress(RuntimeError):
                        got = shared.run(x[None], rows=[row])[0]
                        break
                if not np.allclose(got, mine.run(x), 2e-6, 2e-6):
                    failures.append((seed, row))
            shared.close(row)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert shared.streams == 1


@on_one_backend
def test_another_thread_opens_more():
    """Whatever meets, a step is run or refused; opening waits."""
    stream = ostinato.stream(stack(lstm(32), features=32), streams=100)
    failures = []

    def steps():
        for _ in range(200):
            rows = stream.rows
            try:
                stream.step(np.zeros((len(rows), 32), "float32"), rows=rows)
            except RuntimeError as error:
                if "in use in another thread" not in str(error):
                    failures.append(error)

    threads = [threading.Thread(target=steps) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        stream.open(5)
    for thread in threads:
        thread.join()
    assert not failures
    assert stream.streams == 250
