"""The portable engine: any recurrence, on the framework's loop.

Masks, held and zeroed outputs are written here once, above the doors. Inside, everything is flat
and time-major, in the order of the run: tensors (T, B, ...), and (B, ...) a timestep.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from ostinato.doors import door
from ostinato.engines.asked import Asked

Tensor = Any
Tensors = tuple[Any, ...]
FlatStep = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]


@dataclass(frozen=True)
class Recurrence:
    """One cell made ready for one call.

    Attributes:
        step: `(x, states) -> (outputs, new_states)` of one timestep, flat tuples all.
        xs: What `step` takes, of all timesteps in the order of the run, each (T, B, ...).
        states: The initial states, each (B, ...), of the shapes and dtypes of the new ones.
        outputs_like: Zeros of the shapes and dtypes of one timestep's outputs.
        project: What a timestep of the only `xs` goes through before `step`, whatever the states;
            None where that's nothing. Given of built-in cells, whose only output is the first new
            state, and whose step multiplies by weights in `door.affine` alone.
        variables: Keras variables that `step` updates.
    """

    step: FlatStep
    xs: Tensors
    states: Tensors
    outputs_like: Tensors
    project: Callable[[Tensor], Tensor] | None = None
    variables: tuple[keras.Variable, ...] = ()


def time_major(tensor: Tensor, asked: Asked) -> Tensor:
    """A tensor (B, T, ...) as (T, B, ...), in the order of the run."""
    tensor = ops.swapaxes(tensor, 0, 1)
    return ops.flip(tensor, axis=0) if asked.reverse else tensor


def scan(recurrence: Recurrence, asked: Asked) -> tuple[Tensors, Tensors]:
    """Runs a recurrence over time.

    Returns:
        The outputs, each (B, T, ...) or (B, ...) as asked, and the final states, each (B, ...).
    """
    mask = None if asked.mask is None else time_major(asked.mask, asked)
    run = _scan_state_as_output if recurrence.project is not None else _scan_any
    outputs, states = run(recurrence, mask, asked)
    if asked.every_output:
        outputs = tuple(ops.swapaxes(ys, 0, 1) for ys in outputs)
        if asked.flip_outputs:
            outputs = tuple(ops.flip(ys, axis=1) for ys in outputs)
    return outputs, states


def _scan_state_as_output(
    recurrence: Recurrence, mask: Tensor | None, asked: Asked
) -> tuple[Tensors, Tensors]:
    """The output is the first state: it's held with the states, so no step has to hold it."""
    where = door.lean(ops.where)

    def step(states: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        if mask is None:
            _, new = recurrence.step(x, states)
        else:
            *inputs, valid = x
            _, new = recurrence.step(tuple(inputs), states)
            new = tuple(where(valid, *pair) for pair in zip(new, states, strict=True))
        return new, (new[:1] if asked.every_output else ())

    xs = recurrence.xs
    if mask is not None:
        xs = (*xs, ops.expand_dims(mask, -1))
    like = recurrence.outputs_like if asked.every_output else ()
    states, outputs = _loop(step, recurrence.states, xs, like, recurrence, asked)
    output = outputs[0] if asked.every_output else states[0]
    if mask is not None:
        shown = ops.expand_dims(_shown(mask, asked), -1)
        output = ops.where(shown, output, ops.zeros_like(output))
    return (output,), states


def _shown(mask: Tensor, asked: Asked) -> Tensor:
    """Where the output isn't zero: at valid steps, or from a row's first valid step on."""
    if asked.zero_masked:
        return mask if asked.every_output else mask[-1]
    if not asked.every_output:
        return ops.any(mask, axis=0)
    return ops.cumsum(ops.cast(mask, "int32"), axis=0) > 0


def _scan_any(recurrence: Recurrence, mask: Tensor | None, asked: Asked) -> tuple[Tensors, Tensors]:
    """The outputs are anything: where one is held or only the last is wanted, it's carried."""
    holds = mask is not None and not asked.zero_masked
    carries_output = holds or not asked.every_output
    count = len(recurrence.states)

    def step(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        states, previous = carry[:count], carry[count:]
        if mask is None:
            outputs, new = recurrence.step(x, states)
        else:
            *inputs, valid = x
            outputs, new = recurrence.step(tuple(inputs), states)
            new = _choose(valid, new, states)
            outputs = _choose(valid, outputs, previous if holds else recurrence.outputs_like)
        carry = (*new, *outputs) if carries_output else new
        return carry, (outputs if asked.every_output else ())

    xs = recurrence.xs if mask is None else (*recurrence.xs, mask)
    like = recurrence.outputs_like
    initial = (*recurrence.states, *like) if carries_output else recurrence.states
    collected = like if asked.every_output else ()
    carry, outputs = _loop(step, initial, xs, collected, recurrence, asked)
    return (outputs if asked.every_output else carry[count:]), carry[:count]


def _choose(valid: Tensor, new: Tensors, old: Tensors) -> Tensors:
    """`new` in the valid rows (B,), `old` in the others."""
    where = door.lean(ops.where)
    return tuple(
        where(ops.reshape(valid, (-1, *[1] * (len(tensor.shape) - 1))), tensor, kept)
        for tensor, kept in zip(new, old, strict=True)
    )


def _loop(
    step: FlatStep,
    carry: Tensors,
    xs: Tensors,
    like: Tensors,
    recurrence: Recurrence,
    asked: Asked,
) -> tuple[Tensors, Tensors]:
    result: tuple[Tensors, Tensors] = door.loop(
        step,
        carry,
        xs,
        like,
        project=recurrence.project,
        unroll=asked.unroll,
        variables=recurrence.variables,
    )
    return result
