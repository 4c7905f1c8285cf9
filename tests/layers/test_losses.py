"""Losses that are added inside a cell: the model has their sum over the timesteps."""

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato.layers import GRU, LSTM, RNN, Bidirectional, LSTMCell, SimpleRNNCell, StackedRNNCells
from support import IS_OLDEST_KERAS, CellOfUnits, array, assert_close, crossed, numpy

X = array(0, 3, 5, 4)
BATCH = 1 if IS_OLDEST_KERAS else len(X)  # by which Keras divides what an activity costs
MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool)


class Adding(CellOfUnits):
    """Adds a loss of its own (of two elements), a sublayer's and a weight's; state += x W."""

    def __init__(self, units, declares=True, **kwargs):
        super().__init__(units, **kwargs)
        if declares:
            self.output_size = units
        self.dense = keras.layers.Dense(
            units, activity_regularizer=keras.regularizers.L1(0.5), kernel_regularizer="l2"
        )
        self.drop = keras.layers.Dropout(0.0)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs, states, training=False):
        state = states[0] + self.drop(self.dense(inputs), training=training)
        self.add_loss(ops.mean(state**2, axis=0)[:2])
        return state, [state]


def expected_loss(layer, x=X, mask=None, go_backwards=False):
    """In NumPy, and as PyTorch's loop has it: every timestep counts, masked or not."""
    kernel, bias = numpy([layer.cell.dense.kernel.value, layer.cell.dense.bias.value])
    h, loss = np.zeros((len(x), kernel.shape[1])), 0.01 * (kernel.astype("float64") ** 2).sum()
    for t in range(x.shape[1])[:: -1 if go_backwards else 1]:
        z = x[:, t].astype("float64") @ kernel + bias
        new = h + z
        loss += 0.5 * np.abs(z).sum() / BATCH + (new**2).mean(0)[:2].sum()
        h = new if mask is None else np.where(mask[:, t, None], new, h)
    return loss


def loss_of(layer, *args, **kwargs):
    layer(*args, **kwargs)
    return sum(float(numpy(ops.sum(loss))) for loss in layer.losses)


@pytest.mark.parametrize(
    ("declares", "mask", "options"),
    crossed([True, False], [None, MASK], [{}, {"unroll": True}, {"go_backwards": True}]),
)
def test_a_call_has_the_sum_over_time(declares, mask, options):
    layer = RNN(Adding(3, declares), return_sequences=True, **options)
    backwards = "go_backwards" in options
    layer.build(X.shape)
    assert_close(loss_of(layer, X, mask=mask), expected_loss(layer, X, mask, backwards), 1e-4)


def test_a_long_call_has_the_sum_over_time():
    layer, x = RNN(Adding(3)), array(2, 3, 300, 4) / 50  # compiled on JAX, even outside jit
    layer.build(x.shape)
    assert_close(loss_of(layer, x), expected_loss(layer, x), 1e-3)


@pytest.mark.parametrize(("timesteps", "unroll"), [(5, False), (300, False), (5, True)])
def test_a_call_without_keras_s_own_around_has_the_sum_over_time(timesteps, unroll):
    layer, x = RNN(Adding(3), unroll=unroll), array(2, 3, timesteps, 4) / 50  # compiled if long
    layer.build(x.shape)
    variables = layer.trainable_variables, layer.non_trainable_variables
    values = [[variable.value for variable in of_kind] for of_kind in variables]
    _, _, losses = layer.stateless_call(*values, ops.convert_to_tensor(x), return_losses=True)
    assert_close(sum(map(ops.sum, losses)), expected_loss(layer, x), 1e-3)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_fit_and_evaluate_have_it_and_learn_by_it(run_eagerly, unroll):
    layer = RNN(Adding(3), unroll=unroll)
    model = keras.Sequential([keras.Input((5, 4)), layer])
    model.compile(keras.optimizers.SGD(0.01), loss=None, run_eagerly=run_eagerly)
    before = expected_loss(layer)
    assert_close(model.evaluate(X, verbose=0), before, 1e-4)
    kernel = numpy(layer.cell.dense.kernel.value)
    slope = []
    for step in (1e-4, -1e-4):  # along one element, by differences in float64
        moved = kernel.copy()
        moved[1, 2] += step
        layer.cell.dense.kernel.assign(moved)
        slope.append(expected_loss(layer))
    layer.cell.dense.kernel.assign(kernel)
    losses = model.fit(X, epochs=2, batch_size=3, shuffle=False, verbose=0).history["loss"]
    assert_close(losses[0], before, 1e-4)
    assert losses[1] < losses[0]
    layer.cell.dense.kernel.assign(kernel)
    layer.cell.dense.bias.assign(np.zeros(3))
    model.fit(X, batch_size=3, shuffle=False, verbose=0)
    moved = numpy(layer.cell.dense.kernel.value)[1, 2] - kernel[1, 2]
    assert_close(moved, -0.01 * (slope[0] - slope[1]) / 2e-4, 1e-3)


def test_each_of_several_cells_counts_once():
    stack = RNN([Adding(3), Adding(2)], return_sequences=True)
    after = Bidirectional(RNN(Adding(2)), merge_mode="sum")
    model = keras.Sequential([keras.Input((5, 4)), stack, after])
    model.compile("sgd", loss=None)
    expected, x = 0.0, X
    for cell in stack.cell.cells:
        one = RNN(Adding(cell.units), return_sequences=True)
        one.build(x.shape)
        one.set_weights(cell.get_weights())
        expected += expected_loss(one, x)
        x = numpy(one(x))
    expected += expected_loss(after.forward_layer, x)
    expected += expected_loss(after.backward_layer, x, None, True)
    assert_close(model.evaluate(X, verbose=0), expected, 1e-3)
    model.fit(X, verbose=0, epochs=2)
    assert model.predict(X, verbose=0).shape == (3, 2)


@pytest.mark.parametrize("of_stack", [False, True])
def test_activity_regularizers_of_built_in_cells_and_stacks(of_stack):
    def cell(**options):
        inner = LSTMCell(3, **options)
        return StackedRNNCells([inner], **options) if of_stack else inner

    layer = RNN(cell(activity_regularizer="l2"))
    plain = LSTM(3, return_sequences=True, return_state=True)
    loss = loss_of(layer, X)
    plain.build(X.shape)
    plain.set_weights(layer.get_weights())
    expected = 0.0
    for t in range(1, 6):  # the output and the new states are regularized, as Keras does
        outputs, h, c = plain(X[:, :t])
        each = [outputs[:, -1], h, c]
        expected += 0.01 * sum((numpy(tensor) ** 2).sum() for tensor in each) / BATCH
    assert_close(loss, expected * (2 if of_stack else 1), 1e-4)
    assert of_stack or "activity_regularizer" in str(ostinato.explain(layer))


def test_losses_of_a_cell_that_is_no_layer_are_refused_in_a_compiled_loop():
    class Cell:
        state_size = output_size = 2

        def __init__(self):
            self.dense = keras.layers.Dense(2, activity_regularizer="l2")
            self.dense.build((None, 4))

        def call(self, inputs, states):
            return self.dense(inputs), states

    layer = RNN(Cell(), name="a")
    if keras.config.backend() == "torch":
        layer(X)
        return
    with pytest.raises(ValueError, match=r"RNN layer 'a': a layer in Cell .*no Keras layer"):
        layer(array(1, 3, 300, 4))


def test_layers_without_losses_have_none():
    for layer in (RNN(SimpleRNNCell(3)), GRU(3), RNN([LSTMCell(3)])):
        layer(X)
        assert layer.losses == []
