"""A recurrence over time on the framework's loop, whatever its step is.

Masks, held and zeroed outputs are written here once, above the doors. Inside, everything is flat
and time-major, in the order of the run: tensors (T, B, ...), and (B, ...) a timestep.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import keras
from keras import ops

from ostinato.doors import door
from ostinato.engines.interface import Loop, Task
from ostinato.structure import leaves
from ostinato.tensors import Stepped, Tensor, Tensors, size_of

FlatStep = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]


@dataclass(frozen=True)
class Recurrence:
    """One cell made ready for one call.

    Attributes:
        step: `(x, states) -> (outputs, new_states)` of one timestep, flat tuples all.
        xs: What `step` takes, of all timesteps in the order of the run, each (T, B, ...).
        states: The initial states, each (B, ...), of the shapes and dtypes of the new ones.
        outputs_like: Tensors of the shapes and dtypes of one timestep's outputs.
        project: What a timestep of the only `xs` goes through before `step`, whatever the states;
            None where that's nothing. Given of built-in cells, whose only output is the first new
            state, and whose step multiplies by weights in `door.affine` alone.
        variables: Keras variables that `step` updates.
        add_loss: Takes the sum over time of the losses that `step` adds, where the loop is
            compiled and they can't be left in it; None where a step adds none.
    """

    step: FlatStep
    xs: Tensors
    states: Tensors
    outputs_like: Tensors
    project: Callable[[Tensor], Tensor] | None = None
    variables: tuple[keras.Variable, ...] = ()
    add_loss: Callable[[Tensor], None] | None = None


class FlatResets(NamedTuple):
    """Where rows begin anew: `interface.Resets`, flat.

    Attributes:
        flags: (B, T) booleans in the order of time.
        fresh: The fresh states, each (B, ...), in the states' dtypes; None where all are zeros.
    """

    flags: Tensor
    fresh: Tensors | None = None


def loop_flags(loop: Loop) -> tuple[bool, ...]:
    """What a run of a program depends on, as its `Compiled.spec` takes it."""
    flags = (loop.zero_output_for_mask, loop.go_backwards, loop.flip_outputs)
    return (*flags, loop.return_sequences)


def flat_resets(task: Task) -> FlatResets | None:
    """A task's resets for the loop."""
    if task.resets is None:
        return None
    flags, fresh, _ = task.resets
    return FlatResets(flags, None if fresh is None else tuple(leaves(fresh)))


def moved(flags: Tensor, later: bool) -> Tensor:
    """Flags (B, T), each a timestep later or earlier; false where that leaves a gap."""
    gap = ops.zeros_like(flags[:, :1])
    return ops.concatenate([gap, flags[:, :-1]] if later else [flags[:, 1:], gap], axis=1)


def time_major(tensor: Tensor, loop: Loop) -> Tensor:
    """A tensor (B, T, ...) as (T, B, ...), in the order of the run."""
    tensor = ops.swapaxes(tensor, 0, 1)
    return ops.flip(tensor, axis=0) if loop.go_backwards else tensor


def run_over_time(
    recurrence: Recurrence, mask: Tensor | None, loop: Loop, resets: FlatResets | None = None
) -> tuple[Tensors, Tensors]:
    """Runs a recurrence over time.

    Args:
        recurrence: The recurrence.
        mask: (B, T) booleans in the order of time, or None.
        loop: How it's run.
        resets: Where rows begin anew, or None.

    Returns:
        The outputs, each (B, T, ...) or (B, ...) as loop, and the final states, each (B, ...).
    """
    mask = None if mask is None else time_major(mask, loop)
    if resets is not None:
        resets = resets._replace(flags=time_major(resets.flags, loop))
    # A masked output is zero where the row has begun anew: that is the state only if that's zero.
    shows_fresh = mask is not None and resets is not None and resets.fresh is not None
    run = _scan_any if recurrence.project is None or shows_fresh else _scan_state_as_output
    outputs, states = run(recurrence, mask, loop, resets)
    if loop.return_sequences:
        outputs = tuple(ops.swapaxes(ys, 0, 1) for ys in outputs)
        if loop.flip_outputs:
            outputs = tuple(ops.flip(ys, axis=1) for ys in outputs)
    return outputs, states


def _scan_state_as_output(
    recurrence: Recurrence, mask: Tensor | None, loop: Loop, resets: FlatResets | None
) -> tuple[Tensors, Tensors]:
    """For an output that is the first state: masked steps keep that, so none holds the output."""
    where = door.lean(ops.where)

    def step(states: Tensors, x: Tensors) -> Stepped:
        if mask is None:
            _, new = recurrence.step(x, states)
        else:
            *inputs, valid = x
            _, new = recurrence.step(tuple(inputs), states)
            new = tuple(where(valid, *pair) for pair in zip(new, states, strict=True))
        return new, (new[:1] if loop.return_sequences else ())

    xs = recurrence.xs
    if mask is not None:
        xs = (*xs, ops.expand_dims(mask, -1))
    like = recurrence.outputs_like if loop.return_sequences else ()
    states, outputs = _loop(step, recurrence.states, xs, like, recurrence, loop, resets)
    output = outputs[0] if loop.return_sequences else states[0]
    if mask is not None:
        shown = ops.expand_dims(_shown(mask, loop), -1)
        output = ops.where(shown, output, ops.zeros_like(output))
    return (output,), states


def _shown(mask: Tensor, loop: Loop) -> Tensor:
    """Where the output isn't zero: at valid steps, or from a row's first valid step on."""
    if loop.zero_output_for_mask:
        return mask if loop.return_sequences else ops.any(mask[-1:], axis=0)
    if not loop.return_sequences:
        return ops.any(mask, axis=0)
    return ops.cumsum(ops.cast(mask, "int32"), axis=0) > 0


def _scan_any(
    recurrence: Recurrence, mask: Tensor | None, loop: Loop, resets: FlatResets | None
) -> tuple[Tensors, Tensors]:
    """For outputs that are no state: the loop carries the last, where it's held or wanted alone."""
    holds = mask is not None and not loop.zero_output_for_mask
    carries_output = holds or not loop.return_sequences
    like = tuple(map(ops.zeros_like, recurrence.outputs_like))
    count = len(recurrence.states)

    def step(carry: Tensors, x: Tensors) -> Stepped:
        states, previous = carry[:count], carry[count:]
        if mask is None:
            outputs, new = recurrence.step(x, states)
        else:
            *inputs, valid = x
            outputs, new = recurrence.step(tuple(inputs), states)
            new = chosen(valid, new, states)
            outputs = chosen(valid, outputs, previous if holds else like)
        carry = (*new, *outputs) if carries_output else new
        return carry, (outputs if loop.return_sequences else ())

    xs = recurrence.xs if mask is None else (*recurrence.xs, mask)
    initial = (*recurrence.states, *like) if carries_output else recurrence.states
    collected = like if loop.return_sequences else ()
    carry, outputs = _loop(step, initial, xs, collected, recurrence, loop, resets)
    return (outputs if loop.return_sequences else carry[count:]), carry[:count]


def chosen(valid: Tensor, new: Tensors, old: Tensors) -> Tensors:
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
    loop: Loop,
    resets: FlatResets | None,
) -> tuple[Tensors, Tensors]:
    if resets is not None:
        step, xs = _resetting(step, carry, resets), (*xs, resets.flags)
    if loop.truncate:
        step, xs = _truncated(step, loop.truncate, xs)
    result: tuple[Tensors, Tensors] = door.loop(
        step,
        carry,
        xs,
        like,
        project=recurrence.project,
        unroll=loop.unroll,
        variables=recurrence.variables,
        add_loss=recurrence.add_loss,
    )
    return result


def _resetting(step: FlatStep, carry: Tensors, resets: FlatResets) -> FlatStep:
    """A step given where rows begin anew: there, with fresh states, and zeros for held outputs."""
    fresh = resets.fresh or ()
    fresh = (*fresh, *map(ops.zeros_like, carry[len(fresh) :]))

    def anew(carry: Tensors, x: Tensors) -> Stepped:
        *inputs, flags = x
        return step(chosen(flags, fresh, carry), tuple(inputs))

    return anew


def _truncated(step: FlatStep, timesteps: int, xs: Tensors) -> tuple[FlatStep, Tensors]:
    """A step, and what it takes, where gradients of what is carried cross no multiple of timesteps.

    A layer's initial states aren't cut off: they lie before the first.
    """
    where = door.lean(ops.where)
    times = ops.arange(size_of(xs[0], 0))
    begins = ops.logical_and(times > 0, times % timesteps == 0)

    def cut(carry: Tensors, x: Tensors) -> Stepped:
        *inputs, is_begin = x
        kept = tuple(where(is_begin, ops.stop_gradient(state), state) for state in carry)
        return step(kept, tuple(inputs))

    return cut, (*xs, begins)
