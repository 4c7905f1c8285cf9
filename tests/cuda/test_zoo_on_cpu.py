"""The engine `cuda` on cells as people write them: against `scan`, or why it has not got one."""

import shutil

import keras
import numpy as np
import pytest
from benchmarks.own_cells import CELLS

import ostinato
from ostinato import layers

if keras.config.backend() != "torch":
    pytest.skip("PyTorch's door", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

import torch
from keras import ops

from ostinato.cuda.layout import BLOCK, CLUSTER, GRID
from ostinato.structure import leaves, map_leaves
from support import one_in

ROWS, TIMESTEPS, UNITS = 3, 4, 9
MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 1], [1, 0, 1, 1]]).bool()

REFUSED = {
    "ONLSTM": "values of several dimensions",
    "AttentionGRU": "values of several dimensions",
    "ConvGRU": "not a row of units",
    "HyperRNN": "parts together that don't begin where the units do",
    "Battery": "parts together that don't begin where the units do",
    "LTC": "values of several dimensions",
    "LMU": "values of several dimensions",
    "TwoInputs": "not a row of units",
    "CRFForward": "values of several dimensions",
}


class Attending(keras.layers.Layer):
    """States of 5, 9 and 1 numbers, which read one another; softmax, largest and mean of units."""

    state_size, output_size = [5, 9, 1], 14

    def build(self, shape):
        for name, size in (
            ("kernel", (shape[-1], 9)),
            ("recurrent", (9, 9)),
            ("small", (5, 5)),
            ("up", (5, 9)),
            ("down", (9, 5)),
            ("score", (9, 1)),
            ("spread", (1, 9)),
        ):
            weight = self.add_weight(shape=size, initializer="random_normal", name=name)
            setattr(self, name, weight)

    def call(self, inputs, states):
        m, h, n = states
        attention = ops.softmax(ops.matmul(inputs, self.kernel) + ops.matmul(m, self.up), axis=-1)
        h = ops.tanh(ops.matmul(attention * h, self.recurrent) + inputs[:, 1:2])
        n = 0.5 * n + ops.matmul(h, self.score) - ops.max(ops.abs(h), axis=-1, keepdims=True)
        h = h + ops.matmul(n, self.spread)
        m = ops.tanh(ops.matmul(m, self.small) + ops.matmul(h, self.down))
        m = m - ops.mean(m, axis=-1, keepdims=True)
        return ops.concatenate([h, m], axis=-1), [m, h, n]


def results(layer, xs, engine, given):
    """Outputs, and the gradients of inputs and weights."""
    xs = map_leaves(lambda x: x.clone().requires_grad_(), xs)
    with ostinato.use_engine(engine):
        outputs = leaves(layer(xs, mask=MASK, **given))
    loss = sum((y * torch.cos(torch.arange(y.numel())).reshape(y.shape)).sum() for y in outputs)
    variables = [*leaves(xs), *(each.value for each in layer.trainable_variables)]
    return [*outputs, *torch.autograd.grad(loss, variables, allow_unused=True)]


def check(layer, xs, given, tolerance=5e-6):
    layer(xs, **given)
    wanted, found = (results(layer, xs, engine, given) for engine in ("scan", "cuda"))
    for one, other in zip(found, wanted, strict=True):
        if other is None:
            assert one is None or not one.any()
            continue
        scale = max(float(other.detach().abs().max()), 1e-2)
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", one_in(3, CELLS))
def test_a_cell_of_the_zoo(name, card):
    card(16, BLOCK)
    own, rng = CELLS[name], np.random.default_rng(0)
    keras.utils.set_random_seed(1)
    units = 12 if name == "ONLSTM" else UNITS
    layer = layers.RNN(own.make(units), return_sequences=True)
    xs = map_leaves(torch.tensor, own.inputs(rng, ROWS, TIMESTEPS, units))
    given = {"constants": [torch.randn(ROWS, own.memory, units)]} if own.memory else {}
    if name in REFUSED:
        with ostinato.use_engine("cuda"), pytest.raises(ValueError, match=REFUSED[name]):
            layer(xs, **given)
    else:
        check(layer, xs, given)


@pytest.mark.parametrize(("units", "barrier"), [(16, BLOCK), (8, CLUSTER), (8, GRID)])
def test_states_of_several_widths_and_reductions_across_units(units, barrier, card):
    card(units, barrier)
    keras.utils.set_random_seed(1)
    layer = layers.RNN(Attending(), return_sequences=True, return_state=True)
    check(layer, torch.randn(ROWS, TIMESTEPS, 3), {})


@pytest.mark.parametrize("barrier", [CLUSTER, GRID])
def test_layer_normalization_across_blocks(barrier, card):
    card(8, barrier)
    keras.utils.set_random_seed(1)
    layer = layers.RNN(CELLS["LayerNormLSTM"].make(19))
    check(layer, torch.randn(ROWS, TIMESTEPS, 19), {})
