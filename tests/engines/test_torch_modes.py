"""The portable engine on PyTorch without gradients, where its activations write in place."""

import keras
import numpy as np
import pytest
from keras import ops

from engines.cases import assert_near
from ostinato import layers, use_engine
from support import LONG, CellOfUnits

if keras.config.backend() != "torch":
    pytest.skip("modes of PyTorch", allow_module_level=True)

import torch

B, T, D, U = 2, 5, 3, 4
MAKE = {
    "simple_rnn": lambda: layers.SimpleRNN(U, return_sequences=True),
    "lstm": lambda: layers.LSTM(U, return_sequences=True),
    "lstm_tanh_gates": lambda: layers.LSTM(U, recurrent_activation="tanh", return_sequences=True),
    "gru": lambda: layers.GRU(U, return_sequences=True),
    "gru_reset_before": lambda: layers.GRU(U, reset_after=False, return_sequences=True),
    "linear": lambda: layers.LSTM(U, activation="linear", return_sequences=True),
    "identity": lambda: layers.LSTM(U, activation=lambda x: x, return_sequences=True),
    "linear_gates": lambda: layers.LSTM(U, recurrent_activation="linear", return_sequences=True),
    "simple_linear": lambda: layers.SimpleRNN(U, activation="linear", return_sequences=True),
    "gelu": lambda: layers.LSTM(U, activation="gelu", return_sequences=True),
    "relu": lambda: layers.LSTM(U, activation="relu", return_sequences=True),
}
every_layer = pytest.mark.parametrize("name", MAKE)


@pytest.fixture(autouse=True)
def portable():
    """Everything here is about the portable engine."""
    with use_engine("scan"):
        yield


def layer_and_inputs(name):
    layer = MAKE[name]()
    layer.build((B, T, D))
    return layer, torch.tensor(np.random.default_rng(0).normal(size=(B, T, D)), dtype=torch.float32)


def numpy(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


@every_layer
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_results_are_those_with_gradients(name, mode):
    layer, x = layer_and_inputs(name)
    expected = layer(x)
    with mode():
        got = layer(x)
    assert_near(numpy([got]), numpy([expected]), 1e-7, "outputs")


@every_layer
def test_a_cell_leaves_its_arguments_alone(name):
    layer, x = layer_and_inputs(name)
    states = [torch.full((B, U), 0.5) for _ in keras.tree.flatten(layer.cell.state_size)]
    before = numpy([x, *(state.clone() for state in states)])
    with torch.no_grad():
        layer.cell(x[:, 0], states)
        layer(x, initial_state=states)
    assert_near(numpy([x, *states]), before, 0, "arguments")


@every_layer
def test_vmap_over_weights_without_gradients(name):
    layer, x = layer_and_inputs(name)
    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]
    several = [torch.stack([w, 0.5 * w, -w]).detach() for w in weights]

    def run(weights):
        return layer.stateless_call(weights, others, x)[0]

    with torch.no_grad():
        together = torch.func.vmap(run)(several)
        alone = [run([w[index] for w in several]) for index in range(3)]
    assert_near(numpy(together), numpy(alone), 1e-6, "outputs")


@every_layer
def test_forward_mode_without_gradients(name):
    layer, x = layer_and_inputs(name)
    step = 1e-2 * torch.ones_like(x)
    with torch.no_grad():
        _, slope = torch.func.jvp(layer, (x,), (step,))
    _, expected = torch.func.jvp(layer, (x,), (step,))
    assert_near(numpy([slope]), numpy([expected]), 1e-6, "slope")


@every_layer
def test_autocast_without_gradients(name):
    """A product is of another dtype there than what it's added to, so nothing is added in place."""
    layer, x = layer_and_inputs(name)
    expected = layer(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = layer(x).float()
    assert_near(numpy([got]), numpy([expected]), 5e-2, "outputs")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cell_output, _ = layer.cell(x[:, 0], [torch.zeros(B, U) for _ in range(_states(layer))])
    assert_near(numpy([cell_output.float()]), numpy([expected[:, 0]]), 5e-2, "the first output")


def _states(layer):
    return 2 if isinstance(layer, layers.LSTM) else 1


@every_layer
def test_a_trace_checks_itself(name):
    """torch.jit.trace traces once with gradients and once without: both must be one graph."""
    layer, x = layer_and_inputs(name)
    traced = torch.jit.trace(keras.Sequential([keras.Input((T, D)), layer]).eval(), x)
    assert_near(numpy([traced(2 * x)]), numpy([layer(2 * x)]), 1e-6, "outputs")


class Summing(CellOfUnits):
    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.kernel) + states[0])
        return h, [h]


@pytest.mark.parametrize("gradients", [False, True] if LONG else [True])
@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru", "a cell of one's own"])
def test_torch_compile_takes_the_whole_layer(name, gradients):
    """As one graph, also without the kernels."""
    own = {"a cell of one's own": lambda: layers.RNN(Summing(U), return_sequences=True)}
    layer = {**MAKE, **own}[name]()
    layer.build((B, T, D))
    x = torch.tensor(np.random.default_rng(0).normal(size=(B, T, D)), dtype=torch.float32)
    with torch.set_grad_enabled(gradients):
        compiled = torch.compile(lambda x: layer(x), backend="aot_eager", fullgraph=True)
        assert_near(numpy([compiled(x)]), numpy([layer(x)]), 1e-6, "outputs")


@pytest.mark.parametrize("engine", ["scan", "fused"])
def test_final_states_of_no_timesteps_are_two_tensors(engine):
    with use_engine(engine):
        _, h, c = layers.LSTM(U, return_state=True)(torch.zeros(B, 0, D))
    h += 1
    assert not c.any()


class WritingCell(layers.LSTMCell):
    def call(self, inputs, states, training=False):
        h, c = states
        h += 1
        return h, [h, c]


def test_a_cell_of_ones_own_may_write_into_its_states():
    layer = layers.RNN(WritingCell(U), return_state=True)
    with torch.no_grad(), use_engine("scan"):
        _, h, c = layer(torch.zeros(B, T, D))
    assert (h == T).all()
    assert not c.any()
