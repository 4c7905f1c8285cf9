"""Masks: hold, zero, propagation, and masks that travel with the inputs."""

import contextlib

import keras
import numpy as np
import pytest

import ostinato
from ostinato import Shape
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


@pytest.mark.parametrize("engine", ["scan", None])
def test_a_mask_of_no_timesteps(engine):
    layer = LSTM(4, return_state=True, zero_output_for_mask=True)
    states, none = [array(seed, 4, 4) for seed in (1, 2)], MASK[:, :0]
    with ostinato.use_engine(engine) if engine else contextlib.nullcontext():
        for given in ({}, {"resets": none}, {"resets": none, "fresh_state": states}):
            output, *kept = numpy(layer(X[:, :0], mask=none, initial_state=states, **given))
            assert not output.any()
            assert_close(kept, states)
            layer.zero_output_for_mask = not layer.zero_output_for_mask


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


DEEP = np.zeros((4, 5, 3, 2), bool)  # any True along the rest makes it MASK
DEEP[..., 1, 0] = MASK
DEEP[1, 2, 2, 1] = True


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("wrap", [lambda layer: layer, Bidirectional])
def test_a_mask_of_more_axes_counts_where_any_of_the_rest_is_true(wrap, symbolic):
    layer = wrap(GRU(4, return_sequences=True))
    expected = layer(X, mask=MASK)
    for mask in (DEEP, DEEP.any(-1), 3 * DEEP.astype("int32")):
        if symbolic:
            inputs = keras.Input((None, 3)), keras.Input([None] * (mask.ndim - 1), dtype="bool")
            model = keras.Model(inputs, layer(inputs[0], mask=inputs[1]))
            assert_close(model.predict([X, mask.astype(bool)], verbose=0), expected)
        else:
            assert_close(layer(X, mask=mask), expected)
    np.testing.assert_array_equal(numpy(layer.compute_mask(X, DEEP)), MASK)
    nested = wrap(RNN(Difference(), return_sequences=True, name="nest"))
    pair = {"a": X, "b": array(1, 4, 5, 3)}
    masks = {"a": DEEP, "b": MASK[:, ::-1].copy()}
    assert_close(nested(pair, mask=masks), nested(pair, mask=MASK & MASK[:, ::-1]))
    np.testing.assert_array_equal(numpy(nested.compute_mask(pair, masks)), MASK & MASK[:, ::-1])


def test_masks_of_words_and_of_sentences():
    ids = np.array([[[1, 2], [3, 4]], [[5, 0], [0, 0]]])
    words, sentences = GRU(4), Bidirectional(GRU(5, return_sequences=True))
    embedding, last = keras.layers.Embedding(9, 3, mask_zero=True), LSTM(2)

    def run(ids):
        # The number of sentences is known: else Keras's TimeDistributed, on TensorFlow, takes as
        # many of them as there are rows.
        inputs = keras.Input((ids.shape[1], None), dtype="int32")
        read = sentences(keras.layers.TimeDistributed(words)(embedding(inputs)))
        return keras.Model(inputs, [read, last(read)]).predict(ids, verbose=0)

    expected = run(ids)
    assert_close(run(np.pad(ids, [(0, 0), (0, 0), (0, 1)])), expected)
    read, final = run(np.pad(ids, [(0, 0), (0, 1), (0, 0)]))
    assert_close([read[:, :2], final], expected)
    assert not read[1, 1:].any()
    first = numpy(words(numpy(embedding(ids[:, 0])), mask=ids[:, 0] > 0))
    alone = np.stack([first, np.zeros((2, 4), "float32")], 1)[1:]
    assert_close(expected[0][1:], sentences(alone, mask=np.array([[True, False]])))


class Frames(keras.layers.Layer):
    """A cell over matrices."""

    state_size = output_size = Shape(3, 2)

    def call(self, inputs, states):
        return states[0] + inputs, [states[0] + inputs]


def test_what_masking_gives_of_inputs_of_four_axes():
    frames = array(3, 4, 5, 3, 2)
    frames[2, 3:] = 0
    frames[0, 1, 2] = 0  # a row of a frame isn't the frame
    inputs = keras.Input((None, 3, 2))
    layer = RNN(Frames(), return_sequences=True)
    model = keras.Model(inputs, layer(keras.layers.Masking()(inputs)))
    expected = layer(frames, mask=frames.any((-1, -2)))
    assert_close(model.predict(frames, verbose=0), expected)
    assert_close(layer(keras.layers.Masking()(frames)), expected)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("make", [lambda **k: GRU(4, **k), lambda **k: RNN([LSTMCell(4)], **k)])
def test_the_mask_of_reversed_outputs_is_reversed_with_them(make, zero):
    options = {"return_sequences": True, "zero_output_for_mask": zero}
    back, again = make(go_backwards=True, **options), make(go_backwards=True, **options)
    last = LSTM(3, return_sequences=True)
    padded = np.concatenate([X, np.full((4, 2, 3), 7, "float32")], axis=1)
    mask = np.pad(MASK, [(0, 0), (0, 2)])
    np.testing.assert_array_equal(numpy(back.compute_mask(padded, mask)), mask[:, ::-1])
    inputs, flags = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    hidden = back(WithMask()([inputs, flags]))
    model = keras.Model([inputs, flags], [last(hidden), last(again(hidden))])
    short, long = (model.predict(pair, verbose=0) for pair in ([X, MASK], [padded, mask]))
    assert_close(long[0][:, 2:], short[0])  # the padding comes first there, and is skipped
    assert_close(long[1][:, :5], short[1])
    states = numpy(back(X, mask=MASK))
    assert_close(short[0], last(states, mask=MASK[:, ::-1]))
    targets = array(9, 4, 7, 3)
    trained = keras.Model([inputs, flags], last(hidden))
    trained.compile(loss="mse")
    loss = trained.evaluate([padded, mask], targets, verbose=0)
    shown = ((long[0] - targets) ** 2).mean(-1)[mask[:, ::-1]]
    assert_close(loss, shown.sum() / (mask.sum() or 1), 1e-4)


class WithMask(keras.layers.Layer):
    """Gives its first input the second one as its mask."""

    def call(self, inputs):
        return inputs[0] + 0.0

    def compute_output_shape(self, shapes):
        return shapes[0]

    def compute_mask(self, inputs, mask=None):
        return inputs[1]
