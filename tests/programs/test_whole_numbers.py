"""Booleans and whole numbers among what a cell is given: compiled where a float says them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import ostinato
from ostinato.layers import RNN
from support import assert_close, numpy

ROWS, TIMESTEPS, WIDTH, UNITS = 3, 6, 4, 5
MANY = 2**24 + 1  # float32 has no such number


class Cell(keras.layers.Layer):
    state_size = output_size = UNITS

    def build(self, input_shape):
        self.dense = layers.Dense(UNITS)
        self.dense.build((None, WIDTH))
        self.table = layers.Embedding(7, UNITS)
        self.table.build()


class Attending(Cell):
    """A mean of constants, some of which a boolean mask leaves out."""

    def call(self, inputs, states, constants):
        memory, is_there = constants
        count = ops.sum(ops.cast(is_there, "float32"), axis=1, keepdims=True)
        seen = ops.sum(ops.where(is_there[..., None], memory, 0.0), axis=1) / count
        h = ops.tanh(self.dense(inputs) + states[0] + seen)
        return h, [h]


class Remembering(Cell):
    """A boolean input and a boolean state; a float becomes true where it isn't zero."""

    state_size = (UNITS, 1)

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, UNITS)), ops.zeros((batch_size, 1), "bool")]

    def call(self, inputs, states):
        x, reset = inputs
        h, seen = states
        new = ops.tanh(self.dense(x) + ops.where(reset, 0.0, h))
        h = ops.where(seen, new, 0.5 * new + h)
        return h, [h, 0.3 * ops.cast(ops.logical_or(seen, reset), "float32")]


class Reading(Cell):
    """Whole numbers that are looked up, compared and made floats."""

    def call(self, inputs, states):
        x, tokens = inputs
        h = ops.tanh(self.dense(x) + self.table(ops.squeeze(tokens, -1)) + states[0])
        h = ops.where(tokens == 6, 0.0, h) + ops.one_hot(tokens[:, 0], 7)[:, 2:]
        return h, [h + 1e-3 * ops.cast(tokens, "float32")]


def drawn():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, TIMESTEPS, WIDTH)).astype("float32")
    return rng, x


def attended(rng, x):
    memory = rng.standard_normal((ROWS, 4, UNITS)).astype("float32")
    return x, [memory, rng.uniform(size=(ROWS, 4)) > 0.4]


CASES = {
    "a boolean constant": (Attending, attended),
    "booleans": (
        Remembering,
        lambda rng, x: ((x, rng.uniform(size=(*x.shape[:2], 1)) > 0.7), None),
    ),
    "whole numbers": (
        Reading,
        lambda rng, x: ((x, rng.integers(0, 7, (*x.shape[:2], 1)).astype("int32")), None),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_the_portable_loop(name):
    make, given = CASES[name]
    x, constants = given(*drawn())
    mask = np.arange(TIMESTEPS) < np.array([[TIMESTEPS], [3], [0]])
    keras.utils.set_random_seed(1)
    layer = RNN(make(), return_sequences=True, return_state=True)
    call = {} if constants is None else {"constants": constants}
    found = []
    for engine in ("compiled", "scan"):
        with ostinato.use_engine(engine):
            found.append([*layer(x, **call), *layer(x, mask=mask, **call)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert_close(numpy(ours).astype("float32"), numpy(theirs).astype("float32"))


def refused(call, dtype="int32"):
    """Why a cell of one input of whole numbers isn't compiled."""
    made = type("Own", (Cell,), {"call": call})
    layer = RNN(made(), return_sequences=True)
    tokens = np.full((ROWS, TIMESTEPS, 1), MANY).astype(dtype)
    x = np.ones((ROWS, TIMESTEPS, WIDTH), "float32")
    with pytest.raises(ValueError, match="can't run Own") as error, ostinato.use_engine("compiled"):
        layer((x, tokens))
    return str(error.value)


@pytest.mark.parametrize(
    "of_tokens",
    [
        lambda tokens, h: h + ops.cast(tokens * 3, "float32"),
        lambda tokens, h: h + ops.cast(tokens % 7, "float32"),
        lambda tokens, h: ops.where(tokens == MANY - 1, h, h + 1.0) + 0 * ops.cast(tokens, h.dtype),
        lambda tokens, h: ops.where(tokens[:, :1] == tokens, h, h + 1.0),
        lambda tokens, h: h + ops.cast(ops.cast(tokens, "int64"), "float32"),
        lambda tokens, h: h + ops.cast(ops.maximum(tokens, 3), "float32"),
    ],
)
def test_where_a_float_could_not_count_them_they_are_refused(of_tokens):
    def call(self, inputs, states):
        h = of_tokens(inputs[1], states[0] + self.dense(inputs[0]))
        return h, [h]

    assert "may be larger than a float can count" in refused(call)
    assert "may be larger than a float can count" in refused(call, "uint8")  # which overflows


def test_an_output_of_whole_numbers_that_were_given_is_refused():
    def call(self, inputs, states):
        return inputs[1] + ops.zeros((1, UNITS), "int32"), [states[0]]

    assert "larger than a float" in refused(call)

    def passed_on(self, inputs, states):
        return ops.broadcast_to(inputs[1], ops.shape(states[0])), [states[0]]

    assert "count further than a program's floats" in refused(passed_on)


class Deciding(Cell):
    """Its output is a place; the layer makes room for it by `output_size`, of its own dtype."""

    def call(self, inputs, states):
        h = ops.tanh(self.dense(inputs) + states[0])
        return ops.argsort(h, axis=-1), [h]


def test_an_output_whose_size_is_declared_has_the_layers_dtype_on_both_engines():
    layer = RNN(Deciding(), return_sequences=True)
    x = np.random.default_rng(0).standard_normal((ROWS, TIMESTEPS, WIDTH)).astype("float32")
    layer.build(x.shape)
    found = {}
    for engine in ("compiled", "scan"):
        with ostinato.use_engine(engine):
            found[engine] = layer(x)
    kinds = {keras.backend.standardize_dtype(y.dtype) for y in found.values()}
    assert len(kinds) == 1, kinds
    assert_close(found["compiled"], numpy(found["scan"]))
