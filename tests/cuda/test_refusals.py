"""Each reason why the CUDA kernel can't run a layer, by a layer that has it, in a user's words."""

import shutil

import keras
import pytest
from keras import ops

import ostinato
from ostinato import Shape, layers

if keras.config.backend() != "torch":
    pytest.skip("on one backend: programs are the same on each", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

import torch

from ostinato.cuda import kernels, layout
from ostinato.cuda.layout import BLOCK, Card
from ostinato.doors import door
from ostinato.layers import planning

UNITS = 6


class Cell(keras.layers.Layer):
    """h W + x, and what a case makes of it: `step(h, weights) -> (output, states)`."""

    def __init__(self, step, state_size=UNITS, weights=((UNITS, UNITS),)):
        super().__init__()
        self.step, self.state_size, self.shapes = step, state_size, weights

    def build(self, shape):
        self.own = [
            self.add_weight(shape=shape, name=f"w{place}")
            for place, shape in enumerate(self.shapes)
        ]

    def call(self, x, states):
        return self.step(x, states, self.own)


def matrix_state(x, states, weights):
    """RWKV's and linear attention's: a state of outer products."""
    (s,) = states
    s = 0.9 * s + ops.expand_dims(x, -1) * ops.expand_dims(ops.tanh(x), 1)
    return ops.sum(s, axis=-1), [s]


def heads(x, states, weights):
    """A row of units that is taken for several."""
    h = ops.reshape(ops.tanh(x + states[0]), (-1, 2, UNITS // 2))
    h = ops.reshape(ops.softmax(h, axis=-1), (-1, UNITS))
    return h, [h]


def turned(x, states, weights):
    h = ops.tanh(x + ops.flip(states[0], axis=-1))
    return h, [h]


def rolled(x, states, weights):
    h = ops.tanh(x + ops.concatenate([states[0][:, 1:], states[0][:, :1]], axis=-1))
    return h, [h]


def every_row(x, states, weights):
    """A product of the inputs by the states, row by row: attention's."""
    score = ops.matmul(ops.expand_dims(x, 1), ops.expand_dims(states[0], -1))
    h = ops.tanh(ops.squeeze(score, -1) * x)
    return h, [h]


def one_of_many(x, states, weights):
    h = ops.tanh(x + states[0][:, 2:3])
    return h, [h]


def every_other(x, states, weights):
    h, wide = states
    h = ops.tanh(x + h + wide[:, ::2])
    return h, [h, 0.5 * wide]


def counting(x, states, weights):
    """It has no use for its inputs."""
    h = ops.tanh(ops.matmul(states[0], weights[0]))
    return h, [h]


def plain(x, states, weights):
    h = ops.tanh(x + ops.matmul(states[0], weights[0]))
    return h, [h]


def many_states(x, states, weights):
    first = ops.tanh(x + states[0])
    return first, [first, *(0.5 * state for state in states[1:])]


CASES = {
    "matrix state": (
        Cell(matrix_state, Shape(UNITS, UNITS)),
        r"one of its states is \(6, 6\) for each row, not a row of units",
    ),
    "heads": (Cell(heads), r"it computes values of several dimensions, \(2, 3\) for each row"),
    "every row": (Cell(every_row), "its transpose moves values from unit to unit"),
    "turned": (Cell(turned), "its slice moves values from unit to unit"),
    "every other": (Cell(every_other, [UNITS, 2 * UNITS]), "its slice moves values from unit to"),
    "rolled": (Cell(rolled), "it puts parts together that don't begin where the units do"),
    "one of many": (Cell(one_of_many), "it takes one element of many, which all units would need"),
    "many states": (
        Cell(many_states, [UNITS] * 17),
        r"its states have \(6, 6, .* elements, more than 16 for each unit",
    ),
    "no inputs": (Cell(counting), "its step reads no inputs"),
}


def refused(layer, x, reason, **call):
    with ostinato.use_engine("cuda"), pytest.raises(ValueError, match=reason) as caught:
        layer(x, **call)
    said = str(caught.value)
    assert f"{type(layer).__name__} layer '{layer.name}': the engine 'cuda' is asked for" in said
    return said


@pytest.mark.parametrize("case", CASES)
def test_a_step_that_the_kernel_has_not(case, card):
    card(8, BLOCK)
    (cell, reason), x = CASES[case], torch.randn(2, 3, UNITS)
    layer = layers.RNN(cell)
    refused(layer, x, reason)
    assert layer(x).shape == (2, UNITS)  # which other engines have


def test_a_step_that_it_has(card):
    card(8, BLOCK)
    layer, x = layers.RNN(Cell(plain), return_sequences=True), torch.randn(2, 3, UNITS)
    wanted = layer(x)
    with ostinato.use_engine("cuda"):
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: layers.ConvLSTM1D(2, 2, padding="same"), (2, 3, 5, 1)),
        (lambda: layers.RNN(layers.ConvLSTM2DCell(2, 2, padding="same")), (2, 3, 4, 4, 1)),
    ],
)
def test_images_as_states(make, shape, card):
    card(8, BLOCK)
    refused(make(), torch.randn(shape), r"for each row, not a row of units|several dimensions")


def test_what_the_card_can_not_hold(card, monkeypatch):
    card(8, BLOCK)
    monkeypatch.setattr(kernels, "layout", layout.layout)
    said = refused(
        layers.LSTM(1400, recurrent_initializer="zeros"),
        torch.randn(2, 3, 4),
        "KB of shared memory in each block",
    )
    assert "and the card has 227" in said
    small = kernels._TOOLCHAIN._replace(card=lambda device: Card(80, 1, 166912))
    monkeypatch.setattr(kernels, "_TOOLCHAIN", small)
    refused(layers.LSTM(100), torch.randn(2, 3, 4), "more blocks than the card has multiproces")


def test_dtypes_and_int8(card):
    card(8, BLOCK)
    x = torch.randn(2, 3, 4)
    refused(
        layers.GRU(4, dtype="float64"), x.double(), "computes in float64, the kernel in float32"
    )
    model = keras.Sequential([keras.Input((3, 4)), layers.GRU(4)])
    refused(ostinato.quantize(model).layers[0], x, "its weights are in int8")


def test_where_it_can_not_run(monkeypatch):
    x = torch.randn(2, 3, 4)
    refused(layers.GRU(4), x, "the tensors are on cpu, and it runs on NVIDIA's GPUs")
    monkeypatch.setattr(door, "cuda_why_not", lambda x: None)
    monkeypatch.setattr(planning, "why_no_cuda", lambda: "NVIDIA's driver can't be opened: no file")
    refused(layers.GRU(4), x, "NVIDIA's driver can't be opened: no file")
    refused(layers.RNN(Cell(matrix_state, Shape(4, 4))), x, "NVIDIA's driver can't be opened")


def test_torch_compile_says_why():
    """It can't trace what Keras does with an error, and would say that alone."""
    layer, x, reason = layers.GRU(4), torch.randn(2, 3, 4), "can't run GRUCell: the tensors are on"
    layer(x)
    with ostinato.use_engine("cuda"):
        with pytest.raises(torch._dynamo.exc.Unsupported, match=reason):
            torch.compile(layer, fullgraph=True)(x)
        with pytest.raises(ValueError, match=reason):
            torch.compile(layer)(x)
