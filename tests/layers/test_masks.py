"""Masks: hold, zero, propagation, and masks that travel with the inputs."""

import keras
import numpy as np
import pytest

from ostinato.layers import GRU, LSTM, RNN, Bidirectional, LSTMCell
from support import array, assert_close, numpy

X = array(0, 4, 5, 3)
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("cls", [LSTM, GRU])
def test_a_masked_step_repeats_the_previous_output_and_keeps_the_states(cls, unroll):
    layer = cls(4, return_sequences=True, return_state=True, unroll=unroll)
    initial = [array(seed, 4, 4) for seed in range(1, 1 + len(layer.get_initial_state(1)))]
    output, *states = numpy(layer(X, mask=MASK, initial_state=initial))
    for row in range(4):
        valid = np.flatnonzero(MASK[row])
        start = [state[row : row + 1] for state in initial]
        if not len(valid):
            assert not output[row].any()
            assert_close([state[row] for state in states], [state[row] for state in initial])
            continue
        seen, *final = layer(X[row : row + 1, valid], initial_state=start)
        steps = np.searchsorted(valid, np.arange(5), side="right") - 1
        expected = np.where(steps[:, None] < 0, 0, numpy(seen)[0][np.maximum(steps, 0)])
        assert_close(output[row], expected)
        assert_close([state[row : row + 1] for state in states], final)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("make", [lambda **k: LSTM(4, **k), lambda **k: RNN([LSTMCell(4)], **k)])
def test_zero_output_for_mask_zeroes_every_masked_step(make, unroll):
    layer = make(return_sequences=True, zero_output_for_mask=True, unroll=unroll)
    output = numpy(layer(X, mask=MASK))
    assert not output[~MASK].any()
    layer.zero_output_for_mask = False
    assert_close(output, np.where(MASK[..., None], numpy(layer(X, mask=MASK)), 0))
    layer.zero_output_for_mask, layer.return_sequences = True, False
    assert_close(layer(X, mask=MASK), output[:, -1])


def test_masks_of_embedding_and_masking_reach_the_loop():
    tokens = np.array([[1, 2, 0, 0], [3, 0, 4, 5]])
    embedding, layer = keras.layers.Embedding(6, 3, mask_zero=True), GRU(4)
    assert_close(layer(embedding(tokens)), layer(numpy(embedding(tokens)), mask=tokens > 0))
    padded = X.copy()
    padded[1, 2:] = 0
    masked = keras.layers.Masking()(padded)
    assert_close(layer(masked), layer(padded, mask=(padded != 0).any(-1)))


@pytest.mark.parametrize("wrap", [lambda layer: layer, Bidirectional])
def test_a_mask_that_travels_with_the_inputs_survives_an_initial_state(wrap):
    tokens = np.array([[1, 2, 0, 0], [3, 0, 4, 5]])
    layer = wrap(LSTM(4))
    count = 4 if isinstance(layer, Bidirectional) else 2
    states = [array(seed, 2, 4) for seed in range(count)]
    inputs = keras.Input((None,), dtype="int32")
    given = [keras.Input((4,)) for _ in states]
    embedding = keras.layers.Embedding(6, 3, mask_zero=True)
    model = keras.Model([inputs, *given], layer(embedding(inputs), initial_state=given))
    expected = layer(numpy(embedding(tokens)), mask=tokens > 0, initial_state=states)
    assert_close(model([tokens, *states]), expected)
    assert_close(layer(embedding(tokens), initial_state=states), expected)


class Difference(keras.layers.Layer):
    """A cell of two inputs."""

    state_size = output_size = 3

    def call(self, inputs, states):
        h = states[0] + inputs["a"] - inputs["b"]
        return h, [h]


IDS, LONGER = np.array([[1, 2, 0], [3, 0, 0]]), np.array([[1, 2, 3], [3, 0, 0]])


@pytest.fixture
def embedding():
    return keras.layers.Embedding(5, 3, mask_zero=True)


@pytest.mark.parametrize("wrap", [lambda layer: layer, Bidirectional])
def test_of_nested_inputs_with_several_masks_each_has_to_be_valid(embedding, wrap):
    layer = wrap(RNN(Difference(), return_sequences=True, name="nest"))
    one, other = embedding(IDS), -2 * numpy(embedding(LONGER))
    expected = layer({"a": numpy(one), "b": other}, mask=(IDS > 0) & (LONGER > 0))
    masks = {"a": IDS > 0, "b": LONGER > 0}
    given = layer({"a": numpy(one), "b": other}, mask=masks)
    assert_close(given, expected)
    scaled = keras.layers.Rescaling(-2.0)
    assert_close(layer({"a": one, "b": scaled(embedding(LONGER))}), expected)
    ids = [keras.Input((None,), dtype="int32") for _ in range(2)]
    symbolic = layer({"a": embedding(ids[0]), "b": scaled(embedding(ids[1]))})
    assert_close(keras.Model(ids, symbolic).predict([IDS, LONGER], verbose=0), expected)
    columns = {"a": (IDS > 0)[..., None], "b": LONGER > 0}
    assert_close(layer({"a": numpy(one), "b": other}, mask=columns), expected)
    assert numpy(layer.compute_mask({"a": one, "b": other}, columns)).shape == IDS.shape
    only = layer({"a": one, "b": scaled(embedding(LONGER))}, mask=IDS > 0)  # it prevails
    assert_close(only, layer({"a": numpy(one), "b": other}, mask=IDS > 0))
    passed_on = numpy(layer.compute_mask({"a": one, "b": other}, masks))
    np.testing.assert_array_equal(passed_on, (IDS > 0) & (LONGER > 0))


def test_nested_inputs_with_masks_that_agree(embedding):
    layer = RNN(Difference())
    one, other = embedding(IDS), -2 * numpy(embedding(IDS))
    expected = layer({"a": numpy(one), "b": other}, mask=IDS > 0)
    assert_close(layer({"a": one, "b": other}), expected)  # one of them has none
    assert_close(layer({"a": numpy(one), "b": other}, mask={"a": IDS > 0, "b": IDS > 0}), expected)
    assert_close(layer({"a": embedding(IDS), "b": embedding(IDS)}), np.zeros((2, 3)))  # equal
    ids = keras.Input((None,), dtype="int32")
    embedded = embedding(ids)
    both = layer({"a": embedded, "b": keras.layers.Rescaling(-2.0)(embedded)})  # the same one
    assert_close(keras.Model(ids, both).predict(IDS, verbose=0), expected)


def test_the_mask_passes_on_with_sequences_and_stops_without():
    inputs = keras.layers.Masking()(X)
    layer = LSTM(4, return_sequences=True, return_state=True)
    assert numpy(layer.compute_mask(inputs, MASK)[0]).tolist() == MASK.tolist()
    assert layer.compute_mask(inputs, MASK)[1:] == [None, None]
    assert LSTM(4).compute_mask(inputs, MASK) is None
    assert GRU(4, return_sequences=True).compute_mask(inputs, MASK) is MASK


def test_a_mask_may_be_ints_or_have_a_last_axis_of_one():
    layer = LSTM(4)
    expected = layer(X, mask=MASK)
    assert_close(layer(X, mask=MASK.astype("int32")), expected)
    assert_close(layer(X, mask=MASK[..., None]), expected)


def test_masked_models_train_and_ignore_what_is_masked():
    model = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.Masking(), LSTM(4), keras.layers.Dense(1)]
    )
    model.compile(optimizer="sgd", loss="mse")
    long = np.concatenate([X, np.zeros((4, 3, 3), "float32")], axis=1)
    assert_close(model.predict(long, verbose=0), model.predict(X, verbose=0))
    losses = model.fit(long, array(1, 4, 1), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_bidirectional_zeroes_masked_steps():
    layer = Bidirectional(LSTM(4, return_sequences=True))
    assert not numpy(layer(X, mask=MASK))[~MASK].any()
