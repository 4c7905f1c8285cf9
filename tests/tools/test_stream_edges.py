"""Streams at the edges of their rules: options that look like defaults, steps that fail, flags."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops, tree

import ostinato
from ostinato.layers import GRU, RNN
from ostinato.streaming import looking_back
from tools.stream_zoo import OfAllRows, Own, lstm, stack
from tools.streamed import floats, run_whole


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.ReLU(threshold=0.2),
        lambda: layers.ReLU(max_value=0.3),
        lambda: layers.ReLU(negative_slope=0.5),
        lambda: layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[0.0, 1e-20, 1.0, 2.0]),
    ],
)
def test_what_a_layers_options_say(layer):
    model = keras.Sequential([keras.Input((None, 3)), GRU(4, return_sequences=True), layer()])
    x = floats(2, 5, 3)
    made = ostinato.stream(model, streams=2).run(x)
    np.testing.assert_allclose(made, run_whole(model, x), rtol=1e-4, atol=1e-6)


def test_a_mean_counts_in_two_numbers_also_where_keras_runs_it(monkeypatch):
    """Beyond what a float counts exactly: here, beyond 4."""
    monkeypatch.setattr(looking_back, "COUNTED_BY", 4)
    model = stack(layers.UnitNormalization(), layers.GlobalAveragePooling1D())
    stream, x = ostinato.stream(model), floats(11, 3)
    assert stream.why_not_native
    wanted = [run_whole(model, x[None, :end])[0] for end in range(1, 12)]
    np.testing.assert_allclose(stream.run(x), wanted, rtol=1e-6, atol=1e-6)
    ((*_, count),) = stream.state.values()
    np.testing.assert_array_equal(count, [2, 3])


def test_more_streams_where_keras_runs_them():
    model = stack(layers.UnitNormalization(), lstm(4))
    stream, x = ostinato.stream(model, streams=2), floats(5, 6, 3)
    assert stream.why_not_native
    assert stream.precision == "float32"
    assert stream.open(3) == [2, 3, 4]
    assert all(part.shape[0] == 5 for parts in stream.state.values() for part in parts)
    np.testing.assert_allclose(stream.run(x), run_whole(model, x), rtol=1e-6, atol=1e-6)


def test_a_chunk_that_fails_in_the_middle_changes_no_state(monkeypatch):
    layer = RNN(OfAllRows(4), return_sequences=True)
    layer.build((None, None, 3))
    stream, x = ostinato.stream(layer), floats(5, 3)
    stream.step(x[0])
    before, runner, calls = stream.state, stream._runner, []
    whole = runner._model.predict_on_batch

    def failing(data):
        calls.append(data)
        if len(calls) == 3:
            raise MemoryError
        return whole(data)

    monkeypatch.setattr(runner._model, "predict_on_batch", failing)
    with pytest.raises(MemoryError):
        stream.run(x[1:])
    for name, arrays in stream.state.items():
        assert len(calls) == 3
        assert all(map(np.array_equal, arrays, before[name]))


@pytest.mark.parametrize("cell", [Own, OfAllRows])
def test_states_are_copies_both_ways(cell):
    layer = RNN(cell(4), return_sequences=True, name="r")
    layer.build((None, None, 3))
    stream, x = ostinato.stream(layer, streams=2), floats(2, 4, 3)
    expected = stream.another(2).run(x)
    stream.step(x[:, 0])
    read = stream.state["r"][0]
    seen = read.copy()
    stream.step(x[:1, 1], rows=[0])
    np.testing.assert_array_equal(read, seen)
    given = seen.copy()
    stream.state = {"r": [given]}
    stream.step(x[:1, 1], rows=[0])
    np.testing.assert_array_equal(given, seen)
    given[:] = stream.state["r"][0][:] = 9
    np.testing.assert_allclose(stream.step(x[1:, 1], rows=[1]), expected[1:, 1], 1e-5, 1e-6)
    np.testing.assert_allclose(stream.run(x[:, 2:]), expected[:, 2:], 1e-5, 1e-6)


@pytest.mark.parametrize("cell", [Own, OfAllRows])
def test_another_has_the_weights_of_the_first(cell):
    layer = RNN(cell(4), return_sequences=True)
    layer.build((None, None, 3))
    stream, x = ostinato.stream(layer), floats(5, 3)
    expected = stream.run(x)
    layer.set_weights([2 * weight for weight in layer.get_weights()])
    np.testing.assert_array_equal(stream.another().run(x), expected)


class Begins(Own):
    """A cell whose states begin with a number."""

    start = 0.0

    def get_initial_state(self, batch_size=None):
        return [ops.full((batch_size, self.units), self.start)]


def test_streams_of_the_same_weights_begin_with_states_of_their_own():
    x, made, alive = floats(5, 3), [], []
    for start in (0.0, 1.0, -2.0):
        cell = Begins(4)
        cell.start = start
        model = keras.Sequential([keras.Input((None, 3)), RNN(cell, return_sequences=True)])
        model.set_weights([np.arange(12.0).reshape(3, 4) / 12])
        alive.append(ostinato.stream(model))
        made.append(alive[-1].run(x))
        np.testing.assert_allclose(made[-1], run_whole(model, x[None])[0], rtol=1e-4, atol=1e-6)
    assert np.abs(made[0] - made[1]).max() > 0.1


def test_streams_of_the_same_weights_do_what_their_own_layers_do():
    x, alive = floats(5, 3), []
    weights = [
        np.arange(n).reshape(shape) / n for n, *shape in [(36, 3, 12), (48, 4, 12), (24, 2, 12)]
    ]
    for dtype in ("float32", "float64"):
        for activation in ("tanh", "softsign", "linear"):
            layer = GRU(4, return_sequences=True, activation=activation, dtype=dtype)
            model = keras.Sequential([keras.Input((None, 3), dtype=dtype), layer])
            model.set_weights(weights)
            alive.append((model, dtype, ostinato.stream(model)))
    for model, dtype, stream in alive:
        given = x.astype(dtype)
        expected = run_whole(model, given[None])[0]
        np.testing.assert_allclose(stream.run(given), expected, rtol=1e-5, atol=1e-6)
        assert stream.precision == dtype


@pytest.mark.parametrize("cell", [Own, OfAllRows])
def test_a_mean_keeps_what_its_sum_rounds_off(cell):
    rnn = RNN(cell(1), return_sequences=True)
    model = keras.Sequential([keras.Input((None, 1)), rnn, layers.GlobalAveragePooling1D()])
    model.set_weights([np.ones((1, 1))])
    wanted = np.array([2.0**25, *[1.0] * 24], "float32")
    x = wanted - 0.5 * np.array([0.0, *wanted[:-1]], "float32")  # for the cell to put out `wanted`
    made = ostinato.stream(model).run(x[:, None])[:, 0]
    sums = np.cumsum(wanted.astype("float64"))
    np.testing.assert_allclose(made, sums / np.arange(1, 26), rtol=1.2e-7)


@pytest.mark.parametrize("cell", [None, Own, OfAllRows])
def test_states_that_are_set_have_held_no_output_yet(cell):
    rnn = GRU(4, return_sequences=True, name="r")
    rnn = rnn if cell is None else RNN(cell(4), return_sequences=True, name="r")
    model = keras.Sequential([keras.Input((None, 3)), layers.Masking(), rnn])
    stream, x = ostinato.stream(model), floats(3)
    seen = stream.step(x)
    np.testing.assert_array_equal(stream.step(0 * x), seen)  # held
    stream.state = {"r": stream.state["r"][:1]}
    assert not stream.step(0 * x).any()


class Halves(layers.Layer):
    """A cell of timesteps of any axes, or of several inputs: half its state and their sums."""

    state_size = output_size = 2

    def call(self, inputs, states):
        pairs = [ops.reshape(x, (-1, math.prod(x.shape[1:]) // 2, 2)) for x in tree.flatten(inputs)]
        state = 0.5 * states[0] + sum(ops.sum(x, axis=1) for x in pairs)
        return state, [state]


def frames(*features):
    """Inputs with timesteps of which a part is padding, and others that all are."""
    x = floats(2, 5, *features)
    x[0, 3:] = x[1, 1] = 0
    x[1, 4, ..., :] = 0
    x[0, 1, 0] = 0
    return x


def _flat(x):
    return layers.TimeDistributed(layers.Flatten())(x)


def sequences_of_halves(x):
    return RNN(Halves(), return_sequences=True)(x)


@pytest.mark.parametrize(
    ("features", "above"),
    [
        ((3, 2), lambda x: GRU(2)(_flat(layers.TimeDistributed(layers.Dense(3))(x)))),
        ((2, 3, 2), lambda x: GRU(3, return_sequences=True)(sequences_of_halves(x))),
    ],
)
def test_masks_of_more_than_two_axes(features, above):
    """What Masking makes of timesteps with several axes: valid where any along them is."""
    inputs = keras.Input((None, *features))
    model = keras.Model(inputs, above(layers.Masking()(inputs)))
    x = frames(*features)
    made = ostinato.stream(model, streams=2).run(x)
    made = made if len(model.output.shape) == 3 else made[:, -1]
    np.testing.assert_allclose(made, run_whole(model, x), rtol=1e-4, atol=1e-6)


def test_masks_of_several_inputs():
    """A timestep is valid where every input's mask says so."""
    inputs = [keras.Input((None, 2)), keras.Input((None, 3, 2))]
    masked = [layers.Masking()(x) for x in inputs]
    model = keras.Model(inputs, RNN(Halves(), return_sequences=True)(masked))
    xs = [frames(2), frames(3, 2)]
    xs[0][0, 0] = 0
    made = ostinato.stream(model, streams=2).run(xs)
    np.testing.assert_allclose(made, run_whole(model, xs), rtol=1e-4, atol=1e-6)
