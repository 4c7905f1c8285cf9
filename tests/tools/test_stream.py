"""A stream gives what its model gives on the whole sequence, whatever it's cut into."""

import contextlib
from itertools import pairwise

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ostinato
from engines.gradients import double_precision
from ostinato import native
from ostinato.layers import GRU, LSTM
from support import IS_OLDEST_KERAS, ON_ONE_BACKEND, on_one_backend
from tools.stream_zoo import ZOO, lstm, stack
from tools.streamed import (
    N,
    T,
    assert_nests_close,
    cut,
    data_for,
    floats,
    random_lengths,
    run_in_pieces,
    run_whole,
)


def last(whole, like):
    """Of every timestep's outputs those that the model gives: all, or the last one."""
    return whole if whole.shape == like.shape else whole[:, -1]


def assert_equals_the_model(outputs, expected, tolerance):
    """Asserts that a stream's outputs are the model's."""
    keras.tree.assert_same_structure(outputs, expected)
    assert_nests_close(keras.tree.map_structure(last, outputs, expected), expected, tolerance)


# Of the models that run without Keras, those that are read on every backend: each kind of layer, of
# state and of dtype.
READ_EVERYWHERE = {
    *("RNN of cells under a mask", "the last of a masked sequence", "Embedding with a mask"),
    *("all merges", "dicts", "a voice detector", "a mean under a mask", "a shared layer"),
    *("adapted Normalization", "return_state", "stateful", "float64", "windows in float64"),
    *("mixed_bfloat16", "mixed_float16", "an activation of one's own", "models in models"),
    *("cells of one's own under a mask", "a cell of one's own in float64"),
    "trained BatchNormalization",
}


@pytest.mark.parametrize("name", ZOO)
def test_equals_the_model_in_any_chunking(name):
    case = ZOO[name]
    if not (ON_ONE_BACKEND or case.why_not_native or name in READ_EVERYWHERE):
        pytest.skip("the same on every backend")
    if case.joins_masks and IS_OLDEST_KERAS:
        pytest.skip("Keras 3.10 can't run this model itself: it broadcasts a mask to unknown sizes")
    with double_precision() if "float64" in name else contextlib.nullcontext():
        model = case.make()
        data = data_for(model, case.padding)
        expected = run_whole(model, data)
        stream = ostinato.stream(model, streams=N)
    if native.why_not() is None:
        assert case.why_not_native in stream.why_not_native
        assert bool(case.why_not_native) == bool(stream.why_not_native)
    outputs = stream.run(data)
    assert_equals_the_model(outputs, expected, case.tolerance)

    stream.reset()
    lengths = random_lengths(np.random.default_rng(len(name)))
    assert_nests_close(run_in_pieces(stream, data, lengths), outputs, 0)

    if not case.why_not_native and name != "stateful":  # Keras would compile its timestep once more
        alone = ostinato.stream(model)
        made = [run_in_pieces(alone, cut(data, 0), lengths)]
        assert_nests_close(made, [cut(outputs, 0)], case.tolerance)


@pytest.fixture(scope="module")
def opened():
    """opened(name): a model of the zoo, streamed, with data and its outputs; made once."""
    made = {}

    def get(name):
        if name not in made:
            model = ZOO[name].make()
            data = data_for(model, ZOO[name].padding, timesteps=40)
            stream = ostinato.stream(model, streams=N)
            made[name] = stream, data, stream.run(data)
            assert_equals_the_model(made[name][2], run_whole(model, data), 2e-6)
        return made[name]

    return get


@on_one_backend
@settings(max_examples=40)
@given(
    name=st.sampled_from(["Embedding with a mask", "dicts", "GRU reset before of 64 to 33"]),
    cuts=st.lists(st.integers(0, 40), max_size=12),
    steps=st.sets(st.integers(0, 39)),
)
def test_wherever_it_is_cut(opened, name, cuts, steps):
    stream, data, whole = opened(name)
    edges = sorted({0, 40, *cuts, *steps, *(step + 1 for step in steps)})
    lengths = [0]
    for begin, end in pairwise(edges):
        lengths.append(None if begin in steps else end - begin)
    stream.reset()
    assert_nests_close(run_in_pieces(stream, data, lengths), whole, 0)


@pytest.mark.parametrize("timesteps", [1, 2, 5])
def test_the_last_is_what_a_sequence_that_ends_there_gives(timesteps):
    model = stack(lstm(4), GRU(5), keras.layers.Dense(2))
    data = data_for(model)
    outputs = ostinato.stream(model, streams=N).run(data)
    expected = run_whole(model, data[:, :timesteps])
    np.testing.assert_allclose(outputs[:, timesteps - 1], expected, rtol=2e-6, atol=2e-6)


def test_a_layer_alone():
    layer, data = LSTM(4, return_sequences=True), floats(1, T, 3)
    expected = run_whole(layer, data)
    outputs = ostinato.stream(layer).run(data[0])
    np.testing.assert_allclose(outputs, expected[0], rtol=2e-6, atol=2e-6)


def test_a_layer_alone_with_nested_inputs():
    model = ZOO["a cell over dicts"].make()
    data = data_for(model)
    outputs = ostinato.stream(model.layers[-1], streams=N).run(data)
    assert_nests_close(outputs, run_whole(model, data), 2e-6)


def test_an_embedding_alone():
    layer = keras.layers.Embedding(5, 3)
    table = run_whole(layer, np.arange(5)[None])[0]
    stream = ostinato.stream(layer)
    np.testing.assert_array_equal(stream.step(3), table[3])
    np.testing.assert_array_equal(stream.step(np.uint8(4)), table[4])
    np.testing.assert_array_equal(stream.run([0, 2]), table[[0, 2]])


def test_another_engine_is_as_good():
    model = stack(lstm(5), GRU(3, return_sequences=True))
    data = data_for(model)
    on_kernels = ostinato.stream(model, streams=N).run(data)
    with ostinato.use_engine("scan"):
        stream = ostinato.stream(model, streams=N)
        assert "scan" in stream.why_not_native
        assert_nests_close(stream.run(data), on_kernels, 2e-6)
    stream.reset()
    assert_nests_close(run_in_pieces(stream, data, [3, None, 5]), on_kernels, 2e-6)


def test_other_layers_in_float64():
    with double_precision():
        model = stack(
            keras.layers.LayerNormalization(dtype="float64"),
            keras.layers.Dense(5, "tanh", dtype="float64"),
            keras.layers.Dense(2, "softmax", dtype="float64"),
            dtype="float64",
        )
        stream = ostinato.stream(model)
        weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    gamma, beta, kernel_1, bias_1, kernel_2, bias_2 = weights
    x = floats(T, 3).astype("float64")
    deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    y = (x - x.mean(-1, keepdims=True)) / deviation * gamma + beta
    y = np.exp(np.tanh(y @ kernel_1 + bias_1) @ kernel_2 + bias_2)
    expected = y / y.sum(-1, keepdims=True)
    np.testing.assert_allclose(stream.run(x), expected, rtol=1e-12, atol=1e-12)


def test_nothing_goes_into_another_row():
    model = stack(lstm(17), keras.layers.LayerNormalization(), keras.layers.Dense(5))
    data = data_for(model)
    clean = ostinato.stream(model, streams=N).run(data)
    data[1, 3, 0], data[2, 4, 1] = np.nan, np.inf
    outputs = ostinato.stream(model, streams=N).run(data)
    np.testing.assert_array_equal(outputs[[0, 3]], clean[[0, 3]])
    np.testing.assert_array_equal(outputs[1, :3], clean[1, :3])
    assert np.isnan(outputs[1, 3:]).all()
    expected = run_whole(model, data)
    np.testing.assert_allclose(outputs, expected, rtol=2e-6, atol=2e-6, equal_nan=True)
