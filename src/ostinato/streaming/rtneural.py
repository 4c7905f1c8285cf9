"""Writes a program as the JSON that RTNeural reads, which runs models in audio plugins.

`in_shape` and `layers`, each with its type, activation, shape (the last number is its width) and
weights, which are as Keras has them. RTNeural runs the layers one after another.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ostinato import native
from ostinato.nests import flatten
from ostinato.streaming import checks
from ostinato.streaming import program as p
from ostinato.streaming.program import Operation, Program
from ostinato.streaming.weights import weights_by_operation

Weights = Sequence[np.ndarray]
Layer = dict[str, Any]

ACTIVATIONS = ("tanh", "relu", "sigmoid", "softmax", "elu")
_CELLS = {"lstm": 4, "gru": 3}  # by the kernels' names, and how many gates they have


def write(path: str | os.PathLike[str], program: Program) -> None:
    """Writes a program.

    Raises:
        ValueError: if RTNeural has no layer for something in it.
    """
    file = checks.path("expected the path of a JSON file", path)
    if not all(np.isfinite(weight).all() for weight in program.weights):
        raise ValueError("expected weights that are finite numbers, as JSON has no others.")
    text = json.dumps(description(program))
    file.write_text(text, encoding="ascii")


def description(program: Program) -> dict[str, Any]:
    """What the file holds, in plain values.

    Raises:
        ValueError: if RTNeural has no layer for something in it.
    """
    inputs, outputs = flatten(program.inputs), flatten(program.outputs)
    if len(inputs) != 1 or len(outputs) != 1 or not inputs[0].shape:
        raise ValueError(
            "expected a model of one input of numbers and one output, which is what RTNeural "
            f"runs, got {len(inputs)} inputs and {len(outputs)} outputs"
            f"{'' if inputs[0].shape else ', and ids'}."
        )
    layers = _Chain(program).layers
    if not layers:
        raise ValueError("expected a model with a layer that does something, got none.")
    return {"in_shape": _shape(inputs[0].shape[0]), "layers": layers}


def _shape(width: int) -> list[int | None]:
    """(batch, time, features), as Keras has a sequence's."""
    return [None, None, width]


class _Chain:
    """The layers of a program whose operations read one another's results, in order.

    Attributes:
        layers: What the file has of them.
    """

    def __init__(self, program: Program) -> None:
        self.layers: list[Layer] = []
        self._states, self._last = list(program.states), 0
        steps = weights_by_operation(program)
        while steps:
            steps = steps[self._take(steps) :]
        if program.output_values != (self._last,):
            raise ValueError("its output isn't that of its last layer, and RTNeural has no other.")

    def _take(self, steps: Sequence[tuple[Operation, list[np.ndarray]]]) -> int:
        """Writes the next layer; how many operations it is."""
        operation, weights = steps[0]
        if operation.mask_out >= 0:  # of what makes it, before whatever reads it
            raise ValueError("it has a mask, which RTNeural hasn't.")
        if operation.first != self._last:
            raise ValueError("its layers aren't one after another, as RTNeural's are.")
        count = 1
        if slope := _slope(steps):
            self._add("prelu", operation, [[slope[0].tolist()]])
            count = 2
        elif _is_convolution(steps):
            self._states.pop(0)
            self.convolution(operation, *steps[1])
            count = 2
        else:
            _LAYERS.get(operation.code, _refuse)(self, operation, weights)
        self._last = steps[count - 1][0].out
        return count

    def _add(
        self, kind: str, operation: Operation, weights: list[Any], name: str = "", **rest: Any
    ) -> None:
        activation = "" if name == "linear" else name
        if activation and activation not in ACTIVATIONS:
            raise ValueError(
                f"RTNeural has no activation {activation!r}, but {', '.join(ACTIVATIONS)}."
            )
        shape = _shape(operation.width)
        entry = {"type": kind, "activation": activation, "shape": shape, **rest}
        self.layers.append({**entry, "weights": weights})

    def dense(self, operation: Operation, weights: Weights) -> None:
        """A dense layer; the bias has to be there."""
        bias = weights[1] if operation.has_bias else np.zeros(operation.width)
        values = [weights[0].tolist(), bias.tolist()]
        self._add("dense", operation, values, operation.activation)

    def convolution(self, window: Operation, operation: Operation, weights: Weights) -> None:
        """A causal Conv1D: a window, oldest first, and a product of it."""
        bias = weights[1] if operation.has_bias else np.zeros(operation.width)
        kernel = weights[0].reshape(window.taps, -1, operation.width)
        sizes = {"kernel_size": [window.taps], "dilation": [window.dilation]}
        values = [kernel.tolist(), bias.tolist()]
        self._add("conv1d", operation, values, operation.activation, **sizes)

    def cell(self, operation: Operation, weights: Weights) -> None:
        """LSTM, or GRU with reset_after, at Keras's own activations."""
        kind = {each.number: each for each in native.kinds().values()}[operation.kind]
        own, self._states = self._states[: kind.states], self._states[kind.states :]
        names = (operation.activation, operation.recurrent_activation)
        if kind.name not in _CELLS:
            shown = {"gru_reset_before": "GRU with reset_after=False", "simple_rnn": "SimpleRNN"}
            name = shown.get(kind.name, kind.name)
            raise ValueError(f"RTNeural has LSTM and GRU with reset_after, not {name}.")
        if names != ("tanh", "sigmoid"):
            raise ValueError(
                f"RTNeural's {kind.name.upper()} has the activations tanh and sigmoid, got "
                f"{' and '.join(names)}."
            )
        if any(state.initial.any() for state in own):
            raise ValueError("RTNeural's layers begin with states of zero, and its cell doesn't.")
        columns = _CELLS[kind.name] * operation.width
        shape = (2, columns) if kind.bias_rows == 2 else (columns,)
        bias = weights[2] if operation.has_bias else np.zeros(shape)
        values = [each.tolist() for each in (weights[0], weights[1], bias)]
        self._add(kind.name, operation, values)

    def scale(self, operation: Operation, weights: Weights) -> None:
        """BatchNormalization, Normalization, Rescaling: a factor and an offset of each feature."""
        factor, offset = weights
        mean, variance = np.zeros(operation.width), np.ones(operation.width)
        values = [each.tolist() for each in (factor, offset, mean, variance)]
        self._add("batchnorm", operation, values, epsilon=0.0)

    def activate(self, operation: Operation, weights: Weights) -> None:
        """An activation."""
        if operation.activation == "leaky_relu":
            return self._add("prelu", operation, [[[0.2] * operation.width]])
        return self._add("activation", operation, [], operation.activation)

    def softmax(self, operation: Operation, weights: Weights) -> None:
        """Softmax."""
        self._add("activation", operation, [], "softmax")


def _slope(steps: Sequence[tuple[Operation, list[np.ndarray]]]) -> Weights | None:
    """What a scale is by whose result the larger is taken of, with what it reads: a PReLU."""
    if len(steps) < 2:
        return None
    (scale, weights), (larger, _) = steps[:2]
    is_one = scale.code == p.SCALE and larger.code == p.COMBINE and larger.kind == p.MAXIMUM
    is_one = is_one and (larger.first, larger.second) == (scale.first, scale.out)
    return weights if is_one and not weights[1].any() and weights[0].max() <= 1 else None


def _is_convolution(steps: Sequence[tuple[Operation, list[np.ndarray]]]) -> bool:
    """Whether a window and a product of all that it holds come next."""
    if len(steps) < 2:
        return False
    (window, _), (dense, _) = steps[:2]
    is_window = window.code == p.WINDOW and window.kind == p.ALL
    return is_window and dense.code == p.DENSE and dense.first == window.out


def _refuse(chain: _Chain, operation: Operation, weights: Weights) -> None:
    names = {
        p.EMBED: "Embedding",
        p.MASK: "Masking",
        p.NORMALIZE: "LayerNormalization or RMSNormalization",
        p.COMBINE: "merging layers",
        p.CONCATENATE: "merging layers",
        p.ROUTINE: "cells of one's own",
        p.WINDOW: "pooling, nor windows of each feature alone",
        p.POOL: "pooling",
        p.INT8_CELL: "weights in int8",
        p.INT8_DENSE: "weights in int8",
    }
    raise ValueError(f"RTNeural has no {names.get(operation.code, 'such layer')}.")


_LAYERS: dict[int, Callable[[_Chain, Operation, Weights], None]] = {
    p.CELL: _Chain.cell,
    p.DENSE: _Chain.dense,
    p.SCALE: _Chain.scale,
    p.ACTIVATE: _Chain.activate,
    p.SOFTMAX: _Chain.softmax,
}
