"""What a cell may do that a program can't: refused by name, and nothing of it stays."""

import importlib

import keras
import numpy as np
import pytest
from keras import layers, ops

from ostinato import Shape
from ostinato.cells.building import build_cell, initial_states
from ostinato.programs.evaluation import evaluate
from ostinato.programs.tracing import Like, Untraceable, trace
from programs.cells import Cell as Base
from support import WHOLE

shape_of = ops.shape  # by a name of one's own, as `from keras.ops import shape` has it
FRAMEWORK = {"jax": "jax.numpy", "torch": "torch", "tensorflow": "tensorflow"}
WIDTH = 4


class Cell(Base):
    """A cell of WIDTH units with a weight, and no more."""

    state_size = output_size = WIDTH

    def shapes(self):
        return {"w": (WIDTH,)}


def cell_that(says, step, **attributes):
    """A cell with a step `(self, x, states)`, and what its refusal says."""

    def call(self, inputs, states):
        return step(self, inputs, states)

    return pytest.param(type("Such", (Cell,), {"call": call, **attributes}), says)


def own(function):
    """A step of which the output is the only new state."""

    def step(self, x, states):
        h = function(self, x, states[0])
        return h, [h]

    return step


def _raw(self, x, h):
    return importlib.import_module(FRAMEWORK[keras.config.backend()]).tanh(x + h)


def _stacks(self, x, h):
    return importlib.import_module(FRAMEWORK[keras.config.backend()]).stack([x, h], 1)[:, 0]


def _branches(self, x, h):
    return x if ops.sum(x) > 0 else h


def _makes_a_weight(self, x, h):
    return x * self.add_weight(shape=(), name="late")


def _adds_a_loss(self, x, h):
    self.add_loss(ops.mean(h))
    return h + x


def _keeps(self, x, h):
    self.last = h
    return h + x


def _appends(self, x, h):
    self.w_log.append(1)
    return h + x


def _toggles(self, x, h):
    self.w_log[0] = not self.w_log[0]
    return h + x


def _toggles_within(self, x, h):
    self.w_log[1]["set"].add(3)
    self.w_log[1]["dict"]["h"] = h
    return h + x


def _branches_by_rows(self, x, h):
    batch, units = ops.shape(ops.tanh(x))
    return x if batch * units > 9 else h


def _inverts(self, x, h):
    return h + ops.inv(ops.eye(WIDTH) + x[:, None])[..., 0]


def _takes_from_a_large_table(self, x, h):
    table = ops.reshape(self.w, (1, WIDTH)) + ops.ones((999, 1))
    return h + ops.take(table, ops.cast(x[:, 0], "int32"), axis=0)


def _assigns(self, x, h):
    self.w.assign(self.w + 1.0)
    return h + x


def _counts(self, x, h):
    COUNT.assign_add(1.0)
    return h + x


COUNT = keras.Variable(2.0, name="count")
MEMORY = np.ones((3, 2, WIDTH), "float32")


class WithLayer(Cell):
    """A cell that holds the layer which `make` makes."""

    def __init__(self):
        super().__init__()
        self.layer = self.make()

    def build(self, input_shape):
        if self.layer_is_built:
            self.layer.build((None, WIDTH))

    def call(self, inputs, states):
        h = self.layer(inputs, **self.settings) + states[0]
        return h, [h]


def with_layer(says, make, is_built=True, **settings):
    attributes = {"make": make, "layer_is_built": is_built, "settings": settings}
    return pytest.param(type("WithOne", (WithLayer,), attributes), says)


def _quantized_dense(self):
    dense = layers.Dense(WIDTH)
    dense.build((None, WIDTH))
    dense.quantize("int8")
    return dense


REFUSED = [
    cell_that("line .*tanh.* a function of the framework's own", own(_raw)),
    cell_that("line .*ops.sum.* takes a tensor for true or false", own(_branches)),
    cell_that("makes weights", own(_makes_a_weight)),
    cell_that("adds a loss", own(_adds_a_loss)),
    cell_that("sets the attribute 'last' of Such", own(_keeps)),
    cell_that("changes what's in the attribute 'w_log'", own(_appends)),
    cell_that("assigns to a variable", own(_assigns)),
    cell_that("assigns to the variable 'count'", own(_counts)),
    cell_that("value of the variable 'count'", own(lambda self, x, h: h + x * (COUNT + 1.0))),
    cell_that("'count' is no attribute", own(lambda self, x, h: h + ops.multiply(x, COUNT))),
    cell_that("a NumPy array", own(lambda self, x, h: h * ops.convert_to_numpy(self.w)[0])),
    cell_that("size of the batch", own(lambda self, x, h: h + x / ops.shape(x)[0])),
    cell_that("size of the batch", own(lambda self, x, h: h * (self.w / x.shape[0]))),
    cell_that("Mean: it mixes", own(lambda self, x, h: h - ops.mean(x, axis=0))),
    cell_that("Flip: it mixes", own(lambda self, x, h: h + ops.flip(x, axis=0))),
    cell_that("GetItem: it mixes", own(lambda self, x, h: h + x[:1])),
    cell_that("leave the first axis", own(lambda self, x, h: x @ ops.transpose(h) @ h)),
    cell_that("7919", own(lambda self, x, h: h + ops.sum(ops.array(MEMORY), axis=1))),
    cell_that(
        "ops.cond asks for a number",
        own(lambda self, x, h: ops.cond(ops.any(x > 0), lambda: x, lambda: h)),
    ),
    cell_that(
        "ops.while_loop asks for a number",
        own(lambda self, x, h: ops.while_loop(lambda h: ops.any(h > 0), lambda h: h - 1, (h,))[0]),
    ),
    cell_that("more than 64 rounds", own(lambda self, x, h: ops.fori_loop(0, 99, ops.add, h))),
    cell_that("line .* of the framework's own", own(_stacks)),
    cell_that("line .* of NumPy's", own(lambda self, x, h: np.tanh(h) + x)),
    cell_that("ops.map isn't", own(lambda self, x, h: h + ops.map(lambda row: row * 2, x))),
    cell_that("Inv isn't among", own(_inverts)),
    cell_that("Sort: it mixes", own(lambda self, x, h: h + ops.sort(x, axis=0))),
    cell_that("line .* asks how many rows", own(lambda self, x, h: h + (x.shape[0] == 1) * x)),
    cell_that("line .* asks how many rows", own(_branches_by_rows)),
    cell_that("line .* asks how many rows", own(lambda self, x, h: h + (shape_of(x)[0] == 1) * x)),
    cell_that("with one row", own(lambda self, x, h: h + x * float(np.prod(x.shape) > WIDTH))),
    cell_that("NaN equals NaN", own(lambda self, x, h: h * ops.isclose(x, h, equal_nan=True))),
    cell_that("line .* asks how many rows", own(lambda self, x, h: h + (x.shape[0] & 1) * x)),
    cell_that("line .* asks how many rows", own(lambda self, x, h: h + (x.shape[0] % 2) * x)),
    cell_that("with one row", own(lambda self, x, h: x if int(x.shape[0]) == 1 else h)),
    cell_that("with one row", own(lambda self, x, h: h + x * {1: 2.0}.get(ops.shape(x)[0], 1.0))),
    cell_that("changes what's in the attribute 'w_log'", own(_toggles)),
    cell_that("changes what's in the attribute 'w_log'", own(_toggles_within)),
    cell_that("no place 9", own(lambda self, x, h: h + x[:, 9:10] + x[:, 9])),
    cell_that("Take: it takes places", own(lambda self, x, h: h + ops.take(x, [9], axis=1))),
    cell_that("may be larger", own(lambda self, x, h: h + ops.cast(x, "int32") * 3)),
    cell_that("it makes uint8", own(lambda self, x, h: h + ops.cast(x > 0, "uint8"))),
    cell_that("it gives float16", own(lambda self, x, h: h + ops.cast(x, "float16"))),
    cell_that("it gives float64", own(lambda self, x, h: h + ops.cast(x, "float64"))),
    cell_that("keras.random.randint", own(lambda self, x, h: h + keras.random.randint((2,), 0, 9))),
    cell_that("gamma is given a tensor", own(lambda self, x, h: keras.random.gamma((1,), h))),
    cell_that("a tensor's own method", own(lambda self, x, h: h.detach() + x)),
    cell_that("Add: of booleans", own(lambda self, x, h: h + ops.add(x > 0, h > 0))),
    cell_that("makes complex", own(lambda self, x, h: ops.real(ops.cast(x, "complex64")) + h)),
    cell_that(
        "Take: the rows of the batch leave",
        own(lambda self, x, h: h + ops.sum(ops.take(x, ops.argmax(x, -1), 1), 1, keepdims=True)),
    ),
    cell_that("it looks through 999 places", own(_takes_from_a_large_table)),
    cell_that(r"state 0 is of \(4,\)", lambda self, x, s: (x, [ops.concatenate([x, x], -1)])),
    cell_that("no pair of output and states", lambda self, x, s: x),
    cell_that("new states .* not as it declares", lambda self, x, s: (x, [x, x])),
    cell_that(
        r"state\[1\] is int32",
        lambda self, x, s: (x, [s[0], s[1] + 1]),
        state_size=(WIDTH, WIDTH),
        get_initial_state=lambda self, batch_size: [
            ops.zeros((batch_size, WIDTH)),
            ops.zeros((batch_size, WIDTH), "int32"),
        ],
    ),
    cell_that(
        "a state that all rows share",
        lambda self, x, s: (x, [s[0], s[1] + 1.0]),
        state_size=(WIDTH, Shape()),
        get_initial_state=lambda self, batch_size: [
            ops.zeros((batch_size, WIDTH)),
            ops.zeros(()),
        ],
    ),
    with_layer("assigns to a variable", lambda self: layers.BatchNormalization(), training=True),
    with_layer(
        "Dense has an activity_regularizer",
        lambda self: layers.Dense(WIDTH, activity_regularizer="l2"),
    ),
    with_layer("Dense in it makes its weights", lambda self: layers.Dense(WIDTH), is_built=False),
    with_layer("Dense in it is quantized", _quantized_dense, is_built=False),
    with_layer(r"\(in Rescaling\)", lambda self: layers.Rescaling(2.0)),
]


def methods_of(cls):
    return {name: value for name, value in vars(cls).items() if name != "__annotations__"}


# Of each kind some, and those of the framework's own functions.
@pytest.mark.parametrize(("cls", "says"), REFUSED if WHOLE else REFUSED[::3])
def test_it_is_refused_by_name_and_undone(cls, says):
    cell = cls()
    cell.w_log = [True, {"set": {1}, "dict": {"h": None}}]
    build_cell(cell, (None, WIDTH), "float32")
    states = initial_states(cell, 2, "float32")
    like = [Like(s.shape[1:], keras.backend.standardize_dtype(s.dtype)) for s in states]
    before, symbol = dict(vars(cell)), methods_of(keras.KerasTensor)
    with pytest.raises(Untraceable, match=says):
        trace(cell, Like((WIDTH,), "float32"), like, None, training=False)
    assert vars(cell) == before
    assert methods_of(keras.KerasTensor) == symbol
    assert not cell.losses
    assert float(COUNT) == 2.0
    assert cell.w_log == [True, {"set": {1}, "dict": {"h": None}}]


def test_what_holds_no_weight_may_be_made_and_built_in_the_call():
    class Joins(Cell):
        def __init__(self):
            super().__init__()
            self.add = layers.Add()

        def call(self, inputs, states):
            z = layers.Concatenate()([inputs, self.add([states[0], inputs])])
            return z[:, 2:6], [z[:, 4:]]

    cell = Joins()
    cell.build((None, WIDTH))
    traced = trace(cell, Like((WIDTH,), "float32"), [Like((WIDTH,), "float32")], None, False)
    x, h = np.arange(8.0).reshape(2, 4), np.ones((2, 4))
    (output,), _ = evaluate(traced.program, (ops.array(x),), (ops.array(h),))
    expected = np.concatenate([x, h + x], -1)[:, 2:6]
    np.testing.assert_allclose(ops.convert_to_numpy(output), expected)
