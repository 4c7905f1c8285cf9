"""The native engine: a built-in cell over the whole sequence, in one kernel.

The kernel has the loop over time inside, with masks, held outputs, dropout and the order of time.
What is left for here is to say what is wanted in the core's terms (native/core/ostinato.h).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from ostinato import native
from ostinato.doors import door
from ostinato.engines.asked import Asked
from ostinato.native import RunSpec

Tensor = Any
Tensors = tuple[Any, ...]

KINDS = {
    "simple_rnn": native.SIMPLE_RNN,
    "lstm": native.LSTM,
    "gru": native.GRU,
    "gru_reset_before": native.GRU_RESET_BEFORE,
}
# Functions of keras.ops that are, with their defaults, what keras.activations has by that name.
_SAME_IN_OPS = ("tanh", "sigmoid", "relu", "relu6", "silu", "softplus", "softsign", "elu", "selu")
DTYPES = ("float32", "float64")  # the kernel's; other floats are run in float32


@dataclass(frozen=True)
class Fused:
    """One built-in cell made ready for one call. All its tensors are of one dtype.

    Attributes:
        kind: One of `KINDS`.
        activations: The names of its activation and of its gates' (any, for simple_rnn).
        dtype: The dtype of its tensors.
        x: (B, T, D), in the order of time.
        states: The initial states, each (B, U).
        weights: kernel (D, G*U), recurrent_kernel (U, G*U), and where there is one the bias, (G*U,)
            or (2, 3U) for GRU with reset_after.
        input_masks: Dropout masks of the inputs, each (B, D): none, one, or one a gate.
        recurrent_masks: Dropout masks of the state, each (B, U): none, or one a gate.
        training: Whether gradients may be wanted, as far as the layer knows.
    """

    kind: str
    activations: tuple[str, str]
    dtype: str
    x: Tensor
    states: Tensors
    weights: Tensors
    input_masks: Tensors = ()
    recurrent_masks: Tensors = ()
    training: bool = False


def activation_name(function: Callable[..., Any]) -> str | None:
    """The kernel's name of a function of keras.activations or keras.ops; None of any other."""
    return _activation_names().get(id(function))


@functools.cache
def _activation_names() -> dict[int, str]:
    """By identity: a user's own function may have any name, and Keras's live on in their module."""
    names = native.activation_names()
    pairs = [(name, getattr(keras.activations, name, None)) for name in names]
    pairs += [(name, getattr(ops, name, None)) for name in names if name in _SAME_IN_OPS]
    return {id(function): name for name, function in pairs if function is not None}


def run_fused(
    runs: Sequence[tuple[Fused, Asked]], joined: bool = False
) -> list[tuple[Tensor, Tensors]]:
    """Runs cells over their sequences, all at the same time.

    Args:
        runs: The cells made ready, and what is wanted of each.
        joined: Whether the outputs of every timestep of two cells are one tensor, side by side;
            both answers have it then. A concatenation later costs a pass over both.

    Returns:
        Of each the output, (B, T, U) or (B, U) as asked, and the final states, each (B, U).
    """
    specs = tuple(_spec_of(fused, asked) for fused, asked in runs)
    if joined:
        specs = _side_by_side(specs, *(fused.states[0].shape[-1] for fused, _ in runs))
    operands: list[Tensor] = []
    for fused, asked in runs:
        operands += _operands(fused, asked)
    results = iter(door.fused(specs, tuple(operands)))
    by_run = [[next(results) for _ in range(spec.results)] for spec in specs]
    if joined:
        by_run[1].insert(0, by_run[0][0])
    return [
        _answer(of_run, fused.dtype, asked)
        for of_run, (fused, asked) in zip(by_run, runs, strict=True)
    ]


@functools.lru_cache(maxsize=256)
def _side_by_side(specs: tuple[RunSpec, RunSpec], first: int, second: int) -> tuple[RunSpec, ...]:
    return replace(specs[0], ys_after=second), replace(specs[1], ys_before=first)


def _spec_of(fused: Fused, asked: Asked) -> RunSpec:
    return _spec(
        fused.kind,
        *fused.activations,
        len(fused.weights) == 3,
        asked.mask is not None,
        len(fused.input_masks),
        len(fused.recurrent_masks),
        asked.reverse,
        asked.flip_outputs,
        asked.every_output,
        asked.zero_masked,
        bool(fused.training),
        True,  # wants_dx, which the door knows better
    )


@functools.lru_cache(maxsize=1024)
def _spec(kind: str, activation: str, recurrent_activation: str, *rest: Any) -> RunSpec:
    names = native.activation_names()
    functions = (names.index(activation), names.index(recurrent_activation))
    return RunSpec(KINDS[kind], *functions, *rest)


def _operands(fused: Fused, asked: Asked) -> list[Tensor]:
    """A run's tensors in the core's order, floats in one of its dtypes."""
    masks = (fused.input_masks, fused.recurrent_masks)
    floats = [fused.x, *fused.states, *fused.weights, *(_stack(m) for m in masks if m)]
    if fused.dtype not in DTYPES:
        floats = [ops.cast(tensor, "float32") for tensor in floats]
    if asked.mask is not None:
        floats.insert(1 + len(fused.states) + len(fused.weights), asked.mask)
    return floats


def _stack(masks: Tensors) -> Tensor:
    return ops.stack(masks) if len(masks) > 1 else ops.expand_dims(masks[0], 0)


def _answer(results: list[Tensor], dtype: str, asked: Asked) -> tuple[Tensor, Tensors]:
    if dtype not in DTYPES:
        results = [ops.cast(result, dtype) for result in results]
    if asked.every_output:
        return results[0], tuple(results[1:])
    output = results[0]
    if asked.mask is not None:
        shown = ops.expand_dims(_last_is_shown(asked.mask, asked), -1)
        output = ops.where(shown, output, ops.zeros_like(output))
    return output, tuple(results)


def _last_is_shown(mask: Tensor, asked: Asked) -> Tensor:
    """Where the last output isn't zero: in rows with a valid step, or if that last one is valid."""
    if asked.zero_masked:
        mask = mask[:, :1] if asked.reverse else mask[:, -1:]
    return ops.any(mask, axis=1)
