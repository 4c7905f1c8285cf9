"""The engine `cuda`: its kernels' text run on the CPU, against float64; no GPU has seen it."""

import re
import shutil

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers

if keras.config.backend() != "torch":
    pytest.skip("PyTorch alone calls these kernels", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

import on_cpu
import torch
from keras import ops

from ostinato.cuda import kernels
from ostinato.cuda.layout import BLOCK, CLUSTER, GRID
from ostinato.doors import door, torch_cuda
from ostinato.layers import planning

MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()


class MinimalCell(keras.layers.Layer):
    """One of a user's: a minimal gated unit with a leaky memory, two products in a row."""

    def __init__(self, units):
        super().__init__()
        self.units, self.state_size, self.output_size = units, [units, units], 2 * units

    def build(self, shape):
        u = self.units
        self.kernel = self.add_weight(shape=(shape[-1], 2 * u), name="kernel")
        self.recurrent = self.add_weight(shape=(u, u), name="recurrent")
        self.inner = self.add_weight(shape=(u, u), name="inner")
        self.peephole = self.add_weight(shape=(u,), initializer="ones", name="peephole")
        self.leak = self.add_weight(shape=(), initializer="ones", name="leak")

    def call(self, inputs, states):
        h, m = states
        f, n = ops.split(ops.matmul(inputs, self.kernel), 2, axis=-1)
        f = ops.sigmoid(f + ops.matmul(h, self.recurrent) + self.peephole * m)
        n = ops.gelu(n + ops.matmul(f * h, self.inner))
        m = 0.9 * m + 0.1 * self.leak * n
        return ops.concatenate([h, m], axis=-1), [(1 - f) * h + f * ops.tanh(m), m]


CASES = {
    "lstm": (lambda: layers.LSTM(11, return_sequences=True, return_state=True), 8, GRID),
    "lstm masks": (lambda: layers.LSTM(11, dropout=0.2, recurrent_dropout=0.3), 8, CLUSTER),
    "gru": (lambda: layers.GRU(11, activation="gelu", use_bias=False), 16, BLOCK),
    "gru before": (lambda: layers.GRU(9, reset_after=False, go_backwards=True), 8, GRID),
    "simple": (
        lambda: layers.SimpleRNN(7, return_sequences=True, zero_output_for_mask=True),
        8,
        BLOCK,
    ),
    "own": (lambda: layers.RNN(MinimalCell(11), return_sequences=True), 8, CLUSTER),
}


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A card that is none, by `card(units, barrier, edit)`."""
    monkeypatch.setattr(door, "cuda_why_not", lambda x: None)
    monkeypatch.setattr(planning, "why_no_cuda", lambda: None)
    monkeypatch.setattr(torch_cuda, "_stream_of", lambda x: 0)

    def use(units, barrier, edit=lambda text: text):
        monkeypatch.setattr(kernels, "_TOOLCHAIN", on_cpu.toolchain(tmp_path, edit))
        monkeypatch.setattr(kernels, "layout", on_cpu.forced(units, barrier))

    return use


def results(layer, engine, x, mask, training):
    """Outputs, and the gradients of x and all weights."""
    x = x.clone().requires_grad_()
    keras.utils.set_random_seed(3)
    for each in layer._flatten_layers():
        for name in ("seed_generator", "_seed_generator"):
            if hasattr(each, name):
                getattr(each, name).state.assign([7, 0])
    with ostinato.use_engine(engine):
        found = layer(x, mask=mask, training=training)
    flat = list(found) if isinstance(found, list | tuple) else [found]
    weights = [variable.value for variable in layer.trainable_variables]
    upstream = [torch.cos(torch.arange(each.numel())).reshape(each.shape) for each in flat]
    loss = sum((each * weight).sum() for each, weight in zip(flat, upstream, strict=True))
    return [*flat, *torch.autograd.grad(loss, [x, *weights])]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_scan(case, card):
    make, units, barrier = CASES[case]
    card(units, barrier)
    layer, x = make(), torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1))
    layer(x)
    masks = "masks" in case
    wanted = results(layer, "scan", x, MASK, masks)
    found = results(layer, "cuda", x, MASK, masks)
    for one, other in zip(found, wanted, strict=True):
        scale = float(other.detach().abs().max())
        np.testing.assert_allclose(one.detach(), other.detach(), atol=3e-6 * max(scale, 1e-2))
        assert scale > 0


def test_rows_beyond_a_group_and_the_other_order_of_threads(card, monkeypatch):
    card(8, GRID)
    layer, x = layers.GRU(11), torch.randn(19, 3, 2)
    layer(x)
    wanted = results(layer, "scan", x, None, False)
    for order in ("SHIM_REVERSE", "SHIM_UNEVEN"):
        monkeypatch.setenv(order, "1")
        for one, other in zip(results(layer, "cuda", x, None, False), wanted, strict=True):
            np.testing.assert_allclose(one.detach(), other.detach(), atol=1e-5)


# What orders the threads; without any of these the kernel reads what isn't there yet, or waits.
GUARDS = {
    "meeting": r"  meet\(p, b\);(?P<rest>)",
    "after a product": r"  __syncthreads\(\);(?P<rest>\n\}\n\n// Its result)",
    "after fetching": r"  __syncthreads\(\);(?P<rest>\n#endif\n\}\n\n// A product is)",
    "at the beginning": r"  __syncthreads\(\);(?P<rest>\n  for \(int s = 0;)",
    "two buffers": r"  \+\+b\.meetings;(?P<rest>)",
    "waiting": r"load_acquire\(counter\) <(?P<rest>) all",
    "the block's at the meeting": r"  __syncthreads\(\);(?P<rest>\n  if \(threadIdx.x == 0\))",
    "after the meeting": r"  __syncthreads\(\);(?P<rest>\n#endif\n\}\n\n// Some columns)",
}


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_a_barrier_that_is_gone_is_noticed(guard, card, monkeypatch):
    def without(text):
        changed, count = re.subn(guard, r"\g<rest>", text)
        assert count
        return changed

    layer, x = layers.GRU(11, return_sequences=True, reset_after=False), torch.randn(3, 5, 2)
    layer(x)
    wrong, state = [], torch.ones(3, 11)
    for order in ("SHIM_REVERSE", "SHIM_UNEVEN"):
        monkeypatch.setenv(order, "1")
        card(*((16, BLOCK) if "s = 0" in guard else (8, GRID)), without)
        with torch.no_grad(), ostinato.use_engine("scan"):
            wanted = layer(x, initial_state=state)
        try:
            with torch.no_grad(), ostinato.use_engine("cuda"):
                found = layer(x, initial_state=state)
            wrong.append(not torch.allclose(found, wanted, atol=1e-5))
        except on_cpu.RefusedError:
            wrong.append(True)
        monkeypatch.delenv(order)
    assert any(wrong)


def test_what_keeps_it_from_a_layer_is_said():
    layer, x = layers.LSTM(3), torch.randn(2, 3, 4)
    with ostinato.use_engine("cuda"), pytest.raises(ValueError, match="the tensors are on cpu"):
        layer(x)
    assert "cuda" not in str(ostinato.explain(keras.Sequential([keras.Input((3, 4)), layer])))


def test_what_the_kernel_cannot_have_is_refused_with_the_reason(card):
    class Normalized(MinimalCell):
        def call(self, inputs, states):
            output, (h, m) = super().call(inputs, states)
            return output, [h / ops.sum(ops.abs(h), axis=-1, keepdims=True), m]

    card(8, BLOCK)
    with ostinato.use_engine("cuda"), pytest.raises(ValueError, match="sum goes across the units"):
        layers.RNN(Normalized(4))(torch.randn(2, 3, 4))
    with ostinato.use_engine("cuda"), pytest.raises(ValueError, match="computes in float64"):
        layers.GRU(4, dtype="float64")(torch.randn(2, 3, 4).double())


def test_torch_compile_has_it_in_its_graph(card):
    card(8, BLOCK)
    layer, x = layers.SimpleRNN(7, return_sequences=True), torch.randn(3, 4, 5)
    wanted = results(layer, "scan", x, None, False)
    given = x.clone().requires_grad_()
    with ostinato.use_engine("cuda"):
        found = torch.compile(layer, backend="aot_eager", fullgraph=True)(given)
    upstream = torch.cos(torch.arange(found.numel())).reshape(found.shape)
    (found * upstream).sum().backward()
    np.testing.assert_allclose(found.detach(), wanted[0].detach(), atol=1e-5)
    np.testing.assert_allclose(given.grad, wanted[1], atol=1e-5)
