"""Dropout masks: drawn once a call, never kept."""

import keras
import numpy as np
import pytest

from ostinato.cells.builtin import BuiltinCell
from ostinato.layers import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    SimpleRNN,
    SimpleRNNCell,
    StackedRNNCells,
)
from support import array, assert_close, numpy, sample

X = array(0, 3, 5, 4)
CELLS = [LSTMCell, GRUCell, SimpleRNNCell]


@pytest.mark.parametrize("cls", CELLS)
def test_a_bare_cell_draws_anew_at_any_batch_size(cls):
    cell = cls(6, dropout=0.5, recurrent_dropout=0.5, seed=1)
    for batch in (3, 2, 5):
        states = cell.get_initial_state(batch)
        first = numpy(cell(array(1, batch, 4), states, training=True)[0])
        second = numpy(cell(array(1, batch, 4), states, training=True)[0])
        assert first.shape == (batch, 6)
        assert np.abs(first - second).max() > 0


@pytest.mark.parametrize("cls", [LSTM, GRU, SimpleRNN])
def test_one_mask_serves_all_timesteps_of_a_call(cls):
    layer = cls(6, dropout=0.5, return_sequences=True, seed=3)
    constant = np.ones((3, 5, 4), "float32")
    layer.build(constant.shape)
    layer.cell.recurrent_kernel.assign(np.zeros(layer.cell.recurrent_kernel.shape))
    output = numpy(layer(constant, training=True))
    if cls is SimpleRNN:
        assert_close(output, np.repeat(output[:, :1], 5, axis=1))
    assert np.abs(output - numpy(layer(constant, training=True))).max() > 0


@pytest.mark.parametrize("cls", [LSTM, GRU, SimpleRNN])
def test_no_dropout_outside_training(cls):
    layer, plain = cls(6, dropout=0.5, recurrent_dropout=0.5), cls(6)
    plain.build(X.shape)
    layer.build(X.shape)
    plain.set_weights(layer.get_weights())
    assert_close(layer(X), plain(X))
    assert_close(layer(X, training=False), plain(X))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_a_seed_gives_kerass_masks(kind):
    options = {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 7, "return_sequences": True}
    ours = {"LSTM": LSTM, "GRU": GRU, "SimpleRNN": SimpleRNN}[kind](6, **options)
    theirs = getattr(keras.layers, kind)(6, **options)
    for layer in (ours, theirs):
        layer.build(X.shape)
    ours.set_weights(theirs.get_weights())
    for training in (True, False, True):
        assert_close(ours(X, training=training), theirs(X, training=training))


def test_a_rate_of_one_drops_everything():
    layer = SimpleRNN(6, dropout=1.0, use_bias=False, seed=1)
    assert not numpy(layer(X, training=True)).any()
    half = SimpleRNN(6, dropout=0.5, seed=1)
    half(X, training=True)
    drawn = [numpy(each.cell.seed_generator.state) for each in (layer, half)]
    np.testing.assert_array_equal(*drawn)  # so what is drawn next doesn't depend on the rate


def test_a_wrapped_cell_trains_with_dropout_under_fit():
    class Wrapped(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = GRUCell(4)
            self.drop = keras.layers.Dropout(0.5, seed=1)
            self.state_size = 4

        def build(self, input_shape):
            self.inner.build(input_shape)

        def call(self, inputs, states, training=False):
            h, new = self.inner(inputs, states)
            return self.drop(h, training=training), new

    model = keras.Sequential([keras.Input((5, 4)), RNN(Wrapped(), return_sequences=True)])
    model.compile(optimizer="sgd", loss="mse")
    losses = model.fit(X, array(1, 3, 5, 4), epochs=3, verbose=0).history["loss"]
    assert len(set(losses)) == 3
    output = numpy(model(X, training=True))
    dropped = output == 0
    assert 0 < dropped.mean() < 1
    assert (dropped[:, 0] != dropped[:, 1]).any()  # a layer in a cell draws at every timestep


def test_kerass_own_cell_draws_afresh_and_keeps_no_mask():
    cell = keras.layers.LSTMCell(6, dropout=0.5, recurrent_dropout=0.5, seed=1)
    layer = RNN(cell)
    outputs = [numpy(layer(X[:batch], training=True)) for batch in (3, 3, 2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 0
    assert cell._dropout_mask is None


CELL_OPTIONS = {
    "inputs": {"dropout": 0.3},
    "state": {"recurrent_dropout": 0.4},
    "both": {"dropout": 0.3, "recurrent_dropout": 0.4},
}


def is_ours(make):
    return isinstance(make(seed=1), BuiltinCell)


IN_KERAS = {
    "RNN": lambda make: keras.layers.RNN(make(seed=7), return_sequences=True),
    "stack": lambda make: keras.layers.RNN(
        keras.layers.StackedRNNCells([make(seed=7), make(seed=8)]), return_sequences=True
    ),
    "our stack": lambda make: keras.layers.RNN(
        (StackedRNNCells if is_ours(make) else keras.layers.StackedRNNCells)(
            [make(seed=7), make(seed=8)]
        ),
        return_sequences=True,
    ),
    "Bidirectional": lambda make: keras.layers.Bidirectional(
        keras.layers.RNN(make(seed=7), return_sequences=True)
    ),
}


@pytest.mark.parametrize(
    ("cls", "around", "options"),
    sample(
        [
            (LSTMCell, "stack", "both"),
            (GRUCell, "our stack", "both"),
            (GRUCell, "RNN", "state"),
            (SimpleRNNCell, "Bidirectional", "inputs"),
        ],
        (LSTMCell, "stack", "both"),
    ),
)
def test_our_cells_in_kerass_rnn_have_kerass_losses(cls, around, options):
    def losses(of, weights=None):
        layer = IN_KERAS[around](lambda **seed: of(4, **CELL_OPTIONS[options], **seed))
        model = keras.Sequential([keras.Input((5, 4)), layer])
        if weights is not None:
            model.set_weights(weights)
        start = model.get_weights()
        model.compile("sgd", "mse")
        target = np.ones((3, 5, model.output_shape[-1]))
        fit = model.fit(X, target, epochs=3, shuffle=False, verbose=0)
        return fit.history["loss"], start, layer

    expected, weights, _ = losses(getattr(keras.layers, cls.__name__))
    found, _, layer = losses(cls, weights)
    assert_close(found, expected)
    assert np.isfinite(numpy(layer(X[:2], training=True))).all()  # nothing of the trace is left


def test_a_cell_in_kerass_rnn_draws_one_mask_a_sequence():
    options = {"activation": "linear", "use_bias": False, "kernel_initializer": "ones"}
    cell = SimpleRNNCell(1, recurrent_initializer="zeros", dropout=0.5, **options)
    layer, ones = keras.layers.RNN(cell, return_sequences=True), np.ones((64, 7, 3), "float32")
    first, second = numpy(layer(ones, training=True)), numpy(layer(ones, training=True))
    assert (first == first[:, :1]).all()
    assert (first != second).any()
    assert (numpy(layer(ones)) == 3).all()


@pytest.mark.parametrize("of_keras", [True, False])
def test_a_stack_draws_one_mask_a_sequence(of_keras):
    """In Keras's RNN; and one with a `call` of its own in ours."""

    class Twice(StackedRNNCells):
        def call(self, inputs, states, training=False):
            output, states = super().call(inputs, states, training=training)
            return 2 * output, states

    def cell():
        options = {"activation": "linear", "recurrent_initializer": "zeros"}
        return SimpleRNNCell(3, bias_initializer="ones", dropout=0.5, **options)

    rnn = keras.layers.RNN if of_keras else RNN
    layer = rnn(Twice([cell(), cell()]), return_sequences=True)
    outputs = [numpy(layer(np.ones((8, 5, 4), "float32"), training=True)) for _ in range(2)]
    assert_close(outputs[0], np.repeat(outputs[0][:, :1], 5, axis=1))
    assert np.abs(outputs[0] - outputs[1]).max() > 0


def test_a_subclass_with_a_call_of_its_own_has_one_mask_a_sequence_too():
    class Doubled(SimpleRNNCell):
        def call(self, inputs, states, training=False):
            output, states = super().call(inputs, states, training=training)
            return 2 * output, states

    cell = Doubled(3, dropout=0.5, recurrent_initializer="zeros", bias_initializer="ones")
    layer = RNN(cell, return_sequences=True)
    outputs = [numpy(layer(np.ones((8, 5, 4), "float32"), training=True)) for _ in range(2)]
    assert_close(outputs[0], np.repeat(outputs[0][:, :1], 5, axis=1))
    assert np.abs(outputs[0] - outputs[1]).max() > 0


@pytest.mark.parametrize("ours", [False, True])
def test_keras_stack_draws_one_mask_a_sequence_anew_in_each_call(ours):
    """Keras's RNN looks into Keras's stack for it; cells left alone would keep the first masks."""
    cell = SimpleRNNCell if ours else keras.layers.SimpleRNNCell
    options = {
        "activation": "linear",
        "kernel_initializer": "ones",
        "recurrent_initializer": "zeros",
        "dropout": 0.5,
    }
    stack = keras.layers.StackedRNNCells([cell(2, seed=1, **options), cell(3, seed=2, **options)])
    layer = RNN(stack, return_sequences=True)
    constant = np.ones((9, 5, 4), "float32")
    first = numpy(layer(constant, training=True))
    assert_close(first, np.repeat(first[:, :1], 5, axis=1))
    assert len(np.unique(first)) > 2
    assert np.abs(first - numpy(layer(constant, training=True))).max() > 0
    assert numpy(layer(constant[:2], training=True)).shape == (2, 5, 3)


def test_a_model_with_keras_stack_is_fitted_and_used():
    below = keras.layers.LSTMCell(3, dropout=0.2, recurrent_dropout=0.2)
    stack = keras.layers.StackedRNNCells([below, keras.layers.GRUCell(2, dropout=0.4)])
    model = keras.Sequential([keras.layers.Input((5, 4)), RNN(stack)])
    model.compile(optimizer="sgd", loss="mse")
    model.fit(X, np.zeros((3, 2)), batch_size=2, verbose=0)
    assert_close(model.predict(X, verbose=0), model(X))
