"""Cells whose states are other than their `state_size` says, as Keras's RNN takes them."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops
from refusals import refuses

import ostinato
from ostinato import Shape
from ostinato.layers import RNN, Bidirectional, LSTMCell
from support import array, assert_close, numpy

X = array(0, 3, 5, 4)


class Matrix(keras.layers.Layer):
    """An int as its size, and a state (B, 2, 4)."""

    state_size = output_size = 4

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, 2, 4))]

    def call(self, inputs, states):
        state = states[0] * 0.5 + ops.expand_dims(inputs, 1)
        return state[:, 0] + state[:, 1], [state]


class OneRow(keras.layers.Layer):
    """An initial state of one row, by NumPy, whatever the batch."""

    state_size = output_size = 4

    def get_initial_state(self, inputs=None, batch_size=None, dtype=None):
        return np.arange(4.0).reshape(1, 4)

    def call(self, inputs, states):
        return states[0] + inputs, [states[0] + inputs]


class Counter(keras.layers.Layer):
    """A state without rows: the time."""

    output_size = 4
    state_size = property(lambda self: [4, Shape()])

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, 4)), ops.zeros(())]

    def call(self, inputs, states):
        total, time = states
        return total + time * inputs, [total + time * inputs, time + 1.0]


def halves(x):
    state, outputs = np.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        state = state * 0.5 + x[:, t]
        outputs.append(2 * state)
    return np.stack(outputs, 1)


EXPECTED = {
    Matrix: halves(X),
    OneRow: np.arange(4.0) + X.cumsum(1),
    Counter: (np.arange(5.0)[:, None] * X).cumsum(1),
}
SHAPES = {Matrix: [(3, 2, 4)], OneRow: [(3, 4)], Counter: [(3, 4), ()]}


@pytest.mark.parametrize("kind", EXPECTED)
def test_states_are_what_the_cell_starts_from(kind):
    layer = RNN(kind(), return_sequences=True, return_state=True)
    output, *states = numpy(layer(X))
    assert_close(output, EXPECTED[kind].astype("float32"))
    assert [state.shape for state in states] == SHAPES[kind]
    again = numpy(layer(X[:, 3:], initial_state=numpy(layer(X[:, :3]))[1:]))
    assert_close(again[0], EXPECTED[kind][:, 3:].astype("float32"))
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, layer(inputs)[0])
    assert_close(model.predict(X, verbose=0), output)
    kept = RNN(kind(), stateful=True, return_sequences=True)
    assert_close(kept(X[:, :3]), output[:, :3])
    assert_close(kept(X[:, 3:]), output[:, 3:])
    stack = RNN([kind(), LSTMCell(2)])
    assert tuple(stack(X).shape) == (3, 2)
    both = Bidirectional(RNN(kind(), return_sequences=True))
    assert_close(numpy(both(X))[..., :4], output)


def test_masks_of_such_cells():
    mask = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], bool)
    short = RNN(Matrix())(X[:1, :3])
    assert_close(numpy(RNN(Matrix())(X, mask=mask))[:1], short)
    refuses(["expected no mask", "a state without rows"], RNN(Counter()), X, mask=mask)


def test_initial_states_given_by_the_user_arent_spread():
    refuses("initial_state[0] of shape (3, 4)", RNN(OneRow()), X, initial_state=[X[:1, 0]])


@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "go_backwards": True}])
def test_the_cell_of_a_conv_lstm(options):
    frames = array(1, 2, 3, 4, 4, 1)
    theirs = keras.layers.ConvLSTM2D(2, 3, padding="same", return_state=True, **options)
    expected = numpy(theirs(frames))
    ours = RNN(theirs.cell, return_state=True, **options)
    assert_close(list(numpy(ours(frames))), list(expected))
    inputs = keras.Input((3, 4, 4, 1))
    fresh = keras.layers.ConvLSTM2D(2, 3, padding="same").cell
    model = keras.Model(inputs, RNN(fresh, **options)(inputs))
    assert model.predict(frames, verbose=0).shape == expected[0].shape


class Begun(keras.layers.Layer):
    """A cell around another, whose methods it takes whatever they take."""

    state_size = output_size = 4

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def build(self, shape):
        self.inner.build(shape)

    def get_initial_state(self, *args, **kwargs):
        return self.inner.get_initial_state(*args, **kwargs)

    def call(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Clock(keras.layers.Layer):
    """A state that begins with a Python number, the time."""

    output_size = 4
    state_size = property(lambda self: [4, Shape()])

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, 4)), 0]

    def call(self, inputs, states):
        total, time = states
        return total + time * inputs, [total + inputs, time + 0.5]


def test_a_cell_around_another_that_takes_any_arguments():
    cell = keras.layers.GRUCell(4)
    ours = RNN(Begun(cell), return_sequences=True)
    assert_close(ours(X), keras.layers.RNN(cell, return_sequences=True)(X))
    inputs = keras.Input((5, 4))
    assert_close(keras.Model(inputs, ours(inputs))(X), ours(X), 1e-6)


def test_a_state_that_begins_with_a_python_number():
    ours, inputs = RNN(Clock(), return_sequences=True), keras.Input((5, 4))
    expected = X.cumsum(1) - X + 0.5 * np.arange(5)[:, None] * X
    assert_close(ours(X), expected.astype("float32"))
    assert_close(keras.Model(inputs, ours(inputs))(X), ours(X), 1e-6)


class Whole(keras.layers.Layer):
    """Initial states of whole numbers, and new ones with fractions."""

    state_size = output_size = 4
    begin = "int32"

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, 4), self.begin)]

    def call(self, inputs, states):
        h = ops.cast(states[0], "float32") + inputs
        return h, [h]


@pytest.mark.parametrize("engine", [None, "scan"])
@pytest.mark.parametrize("begin", ["int32", "uint8"])
def test_fractions_of_states_that_begin_as_whole_numbers_are_not_lost(begin, engine):
    cell = Whole()
    cell.begin = begin
    with ostinato.use_engine(engine) if engine else contextlib.nullcontext():
        refuses(["RNN layer", "Whole layer", "new state[0] of float32", begin], RNN(cell), X)


@pytest.mark.parametrize("given", [None, "none", (x for x in ())])
def test_what_is_no_initial_state(given):
    class Odd(OneRow):
        def get_initial_state(self, batch_size=None):
            return given

    refuses(["Odd layer", "expected get_initial_state"], RNN(Odd()), X)


class Drawn(keras.layers.Layer):
    """Starts from random numbers."""

    state_size = output_size = 4

    def __init__(self):
        super().__init__()
        self.seed, self.asked = keras.random.SeedGenerator(5), []

    def get_initial_state(self, batch_size=None):
        self.asked.append(batch_size)
        return [keras.random.normal((batch_size, 4), seed=self.seed)]

    def call(self, inputs, states):
        return states[0] + inputs, [states[0] + inputs]


def test_a_cell_that_draws_its_states_draws_them_once():
    """Asked again for their sizes it would give other numbers than in Keras's RNN."""
    ours, theirs = RNN(Drawn()), keras.layers.RNN(Drawn())
    for _ in range(2):
        assert_close(ours(X), numpy(theirs(X)))
    assert ours.cell.asked == [3, 3]
    inputs = keras.Input((5, 4))
    outputs, state = RNN(Drawn(), return_state=True)(inputs)  # here its sizes are asked for
    model = keras.Model(inputs, [outputs, state])
    assert_close(model(X)[1], numpy(keras.layers.RNN(Drawn())(X)))


class Largest(keras.layers.Layer):
    """An output of whole numbers, whose size it may declare."""

    state_size = 4

    def call(self, inputs, states):
        h = states[0] + inputs
        return ops.argmax(h, axis=-1, keepdims=True), [h]


@pytest.mark.parametrize("engine", ["scan", None])
@pytest.mark.parametrize("declares", [True, False])
def test_an_output_has_the_dtype_of_the_layer_where_its_size_is_declared(engine, declares):
    cell = Largest()
    if declares:
        cell.output_size = 1
    with contextlib.nullcontext() if engine is None else ostinato.use_engine(engine):
        output = RNN(cell, return_sequences=True)(X)
    dtype = keras.backend.standardize_dtype(output.dtype)
    assert dtype == "float32" if declares else "int" in dtype


@pytest.mark.parametrize("engine", ["scan", None])
@pytest.mark.parametrize("cell", [Matrix, lambda: keras.layers.LSTMCell(4, dropout=0.5, seed=1)])
def test_no_timesteps_at_all(engine, cell):
    with contextlib.nullcontext() if engine is None else ostinato.use_engine(engine):
        output, state, *_ = RNN(cell(), return_sequences=True, return_state=True)(
            X[:, :0], training=True
        )
    assert tuple(output.shape) == (3, 0, 4)
    assert not numpy(state).any()


@pytest.mark.parametrize("engine", [None, "scan"])
def test_a_built_in_cell_with_a_call_of_its_own_around_calls(engine):
    class Doubling(LSTMCell):
        def __call__(self, inputs, states, training=False):
            outputs, states = super().__call__(ops.relu(inputs), states, training=training)
            return outputs * 2, states

    cell = Doubling(4)
    cell.build((3, 4))
    wanted = keras.layers.RNN(cell, return_sequences=True)(X)
    with ostinato.use_engine(engine) if engine else contextlib.nullcontext():
        assert_close(RNN(cell, return_sequences=True)(X), wanted)


class Counts(keras.layers.Layer):
    """Declares no output size, and counts its timesteps in a variable."""

    state_size = 4

    def build(self, input_shape):
        self.count = self.add_weight(initializer="zeros", trainable=False, name="count")

    def call(self, inputs, states):
        self.count.assign(self.count + 1.0)
        h = states[0] + self.count * inputs
        return h, [h]


@pytest.mark.parametrize("unroll", [False, True])
def test_a_variable_is_changed_once_a_timestep(unroll):
    """Also by a cell that is run once more before, to see what comes out."""
    layer = RNN(Counts(), unroll=unroll)
    assert_close(layer(X), (X * np.arange(1.0, 6.0)[:, None]).sum(1))
    assert_close(layer(X[:, :2]), 6 * X[:, 0] + 7 * X[:, 1])
    assert_close(layer(X[:, :0]), np.zeros((3, 4)))
    assert float(numpy(layer.cell.count.value)) == 7


def test_moving_averages_of_a_cell_that_declares_no_output_size():
    class Normalizes(keras.layers.Layer):
        state_size = 4

        def build(self, input_shape):
            self.norm = keras.layers.BatchNormalization(momentum=0.5)
            self.norm.build(input_shape)

        def call(self, inputs, states, training=False):
            h = states[0] + self.norm(inputs, training=training)
            return h, [h]

    layer, average = RNN(Normalizes()), np.zeros(4)
    model = keras.Sequential([keras.Input((None, 4)), layer])
    model.compile("sgd", "mse")
    model.fit(X, np.zeros((3, 4)), verbose=0)
    for t in range(5):
        average = (average + X[:, t].mean(0)) / 2
    assert_close(layer.cell.norm.moving_mean.value, average)
