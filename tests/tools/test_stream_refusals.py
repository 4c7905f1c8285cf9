"""Calls, masks and axes that one timestep alone can't do, and their neighbours that it can."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import ostinato
from ostinato import native
from ostinato.layers import GRU, LSTM, RNN
from support import elsewhere_in_long

pytestmark = elsewhere_in_long


FEATURES, STEPS = 3, 5
X = np.random.default_rng(0).standard_normal((2, STEPS, FEATURES)).astype("float32")


def over(*stack):
    return keras.Sequential([keras.Input((None, FEATURES)), *stack])


def assert_streams(model, x=X):
    """Every output is the model's, or the last where it gives only that."""
    expected = keras.ops.convert_to_numpy(model(x))
    outputs = ostinato.stream(model, streams=len(x)).run(x)
    got = outputs if outputs.shape == expected.shape else outputs[:, -1]
    np.testing.assert_allclose(got, expected, atol=1e-5)


class Doubled(LSTM):
    def call(self, sequences, initial_state=None, **kwargs):
        return 2 * super().call(sequences, initial_state, **kwargs)


class DoubledSequential(keras.Sequential):
    def call(self, *args, **kwargs):
        return 2 * super().call(*args, **kwargs)


class DoubledFunctional(keras.Model):
    def call(self, *args, **kwargs):
        return 2 * super().call(*args, **kwargs)


class Trained(keras.Model):
    """A model with its own training step, whose call is Keras's."""

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


class Grid(keras.layers.Layer):
    """A cell whose state and output are 3 x 3."""

    state_size = output_size = ostinato.Shape(3, 3)

    def call(self, inputs, states):
        new = 0.5 * states[0] + ops.expand_dims(inputs, -1)
        return new, [new]


def functional(cls):
    x = keras.Input((None, FEATURES))
    return cls(x, LSTM(4)(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: over(Doubled(4)),
        lambda: DoubledSequential([keras.Input((None, FEATURES)), LSTM(4)]),
        lambda: functional(DoubledFunctional),
    ],
)
def test_a_call_of_its_own(make):
    with pytest.raises(ValueError, match="own"):
        ostinato.stream(make())


def test_a_training_step_of_its_own_is_no_matter():
    assert_streams(functional(Trained))


def test_a_mask_over_another_axis_than_the_features():
    x = keras.Input((3, 3))
    y = LSTM(4, return_sequences=True)(
        layers.Masking()(x), mask=ops.any(ops.not_equal(x, 0.0), axis=1)
    )
    with pytest.raises(ValueError, match="mask of its own"):
        ostinato.stream(keras.Model(x, y))
    ids = keras.Input((STEPS,), dtype="int32")
    whole = ops.any(ops.expand_dims(ops.not_equal(ids, 0), -1), axis=1)
    embedded = layers.Embedding(9, 4, mask_zero=True)(ids)
    y = LSTM(4, return_sequences=True)(embedded, mask=ops.concatenate([whole] * STEPS, axis=1))
    with pytest.raises(ValueError, match="mask of its own"):
        ostinato.stream(keras.Model(ids, y))


@pytest.mark.parametrize(
    "after",
    [
        lambda: layers.Softmax(axis=1),
        lambda: layers.LayerNormalization(axis=1),
        lambda: layers.BatchNormalization(axis=1),
        lambda: layers.EinsumDense("ab,bc->ac", output_shape=2),
    ],
)
def test_axes_behind_the_last_output(after):
    assert_streams(over(LSTM(4), after()))


@pytest.mark.parametrize(
    "after",
    [
        lambda: layers.Softmax(axis=2),
        lambda: layers.LayerNormalization(axis=[1, 2]),
        lambda: layers.Softmax(axis=1),
    ],
)
def test_axes_behind_a_last_output_of_two(after):
    assert_streams(over(RNN(Grid()), after()))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.TimeDistributed(layers.Softmax(axis=0)),
        lambda: layers.LayerNormalization(axis=1),
        lambda: layers.Rescaling(np.ones((STEPS, 1), "float32")),
        lambda: layers.PReLU(),
        lambda: layers.EinsumDense("btd,de->bet", (4, STEPS)),
        lambda: layers.EinsumDense("bud,de->beu", (4, STEPS)),
        lambda: layers.EinsumDense("bad,de->bea", (4, STEPS)),
        lambda: layers.EinsumDense("btd,tde->bte", (STEPS, 4)),
        lambda: layers.EinsumDense("btd,de->bte", (STEPS, 4), bias_axes="te"),
    ],
)
def test_what_looks_beyond_a_timestep(layer):
    model = keras.Sequential(
        [keras.Input((STEPS, FEATURES)), GRU(3, return_sequences=True), layer()]
    )
    with pytest.raises(ValueError, match=r"axis|arrays of shapes|weights for each"):
        ostinato.stream(model)


@pytest.mark.parametrize(
    "layer",
    [lambda: layers.PReLU(shared_axes=[1]), lambda: layers.Rescaling(np.arange(3.0), offset=1.0)],
)
def test_what_doesnt(layer):
    assert_streams(over(GRU(3, return_sequences=True), layer()))


def test_slopes_of_more_than_one():
    model = over(layers.PReLU(shared_axes=[1]))
    model.set_weights([np.linspace(-1.5, 1.5, FEATURES).reshape(1, FEATURES)])
    assert_streams(model)
    assert ostinato.stream(model).why_not_native == (native.why_not() or "")


def test_ids_that_are_several_or_an_output():
    several = keras.Sequential([keras.Input((None, 2), dtype="int32"), layers.Embedding(5, 4)])
    ids = np.array([[[0, 1], [2, 3]], [[4, 0], [1, 2]]], "int32")
    assert_streams(several, ids)
    x = keras.Input((None,), dtype="int32")
    stream = ostinato.stream(keras.Model(x, [x, GRU(3)(layers.Embedding(5, 4)(x))]))
    assert "an output of the model" in stream.why_not_native
    again, _ = stream.step(3)
    assert (again, again.dtype) == (3, "int32")


def test_sizes_that_arent_known():
    x = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="expected known sizes"):
        ostinato.stream(keras.Model(x, layers.Dense(2)(x)))
    act = layers.Activation("relu")
    act(X)
    with pytest.raises(ValueError, match="for which shape it was built"):
        ostinato.stream(act)
