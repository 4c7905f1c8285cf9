"""Runs cells over sequences: chooses the engine of each, and climbs through stacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras import tree

from ostinato.engines.asked import Asked
from ostinato.engines.fused import run_fused
from ostinato.engines.scan import scan, time_major
from ostinato.layers.calling import Call, forget_foreign_masks, make_ready, takes
from ostinato.layers.choosing import make_fused, plan_for, question_about
from ostinato.layers.exporting import refuse_unknown_timesteps_in_onnx
from ostinato.layers.stacked import StackedRNNCells
from ostinato.plan import plan
from ostinato.structure import Structure, is_tensor_like, leaves, map_leaves, pack_like


@dataclass(frozen=True)
class Job:
    """A cell, and the sequence to run it over.

    Attributes:
        cell: The cell, built.
        xs: Its inputs (B, T, ...), in the order of time.
        states: Its initial states (B, ...), in the containers of its `state_size`.
        asked: What is wanted.
        call: What the call of the layer gives to the cell.
    """

    cell: Any
    xs: Structure
    states: Structure
    asked: Asked
    call: Call


Answer = tuple[Structure, Structure]  # outputs, final states


def run(*jobs: Job, joined: bool = False) -> list[Answer]:
    """Runs cells over their sequences, those on the native engine at the same time.

    Args:
        *jobs: The cells, with what each has to do.
        joined: Whether the outputs of two jobs that `can_join` are one tensor, side by side, in
            both answers.

    Returns:
        Of each job the outputs, (B, T, ...) or (B, ...) as asked, and the final states.
    """
    # Cell by cell over all timesteps equals timestep by timestep over all cells: what a lower
    # cell puts out at a masked step reaches no state and no output.
    stacks = [_levels(job) for job in jobs]
    xs = [job.xs for job in jobs]
    final: list[list[Any]] = [[] for _ in jobs]
    for level in range(max(len(stack) for stack in stacks)):
        here = [index for index, stack in enumerate(stacks) if level < len(stack)]
        ready = [replace(stacks[index][level], xs=xs[index]) for index in here]
        for index, (outputs, states) in zip(here, _run_level(ready, joined), strict=True):
            xs[index] = outputs
            final[index] += leaves(states)
    return [
        (outputs, pack_like(job.states, states))
        for job, outputs, states in zip(jobs, xs, final, strict=True)
    ]


def _levels(job: Job) -> list[Job]:
    """A stack's cells from bottom to top, each as a job; all have the inputs of the lowest."""
    if type(job.cell) is not StackedRNNCells:
        return [job]
    flat = _cells(job.cell, job.states)
    # Its outputs come in the order of time, since the cell above turns them by itself.
    between = replace(
        job.asked, every_output=True, zero_masked=True, flip_outputs=job.asked.reverse
    )
    return [
        replace(
            job,
            cell=cell,
            states=states,
            asked=job.asked if index == len(flat) - 1 else between,
            call=_call_of(cell, job.call),
        )
        for index, (cell, states) in enumerate(flat)
    ]


def _call_of(cell: Any, call: Call) -> Call:
    """What a call of the stack gives to one of its cells: constants where it takes them."""
    if call.constants is None or takes(cell, "constants"):
        return call
    return replace(call, constants=None)


def cells_of(cell: Any) -> list[Any]:
    """The cells that run one over the other: a stack's, or the cell alone."""
    return [found for found, _ in _cells(cell, cell.state_size)]


def _cells(cell: Any, states: Structure) -> list[tuple[Any, Structure]]:
    """The cells of a stack, or of stacks in a stack, with their states."""
    if type(cell) is StackedRNNCells:
        pairs = zip(cell.cells, states, strict=True)
        return [found for pair in pairs for found in _cells(*pair)]
    return [(cell, [states] if is_tensor_like(states) else states)]


def all_on_kernels(cell: Any, xs: Structure) -> bool:
    """Whether a cell, or every cell of a stack, would run on the native engine."""
    return all(plan(question_about(each, xs)).engine == "fused" for each in cells_of(cell))


def can_join(*cells: Any) -> bool:
    """Whether the outputs of cells that are `all_on_kernels` can come as one tensor."""
    return not any(type(cell) is StackedRNNCells for cell in cells)


def _run_level(jobs: Sequence[Job], joined: bool) -> list[Answer]:
    fused = {
        index: (make_fused(job.cell, job.xs, job.states, job.call), job.asked)
        for index, job in enumerate(jobs)
        if plan_for(job.cell, job.xs, job.call.owner).engine == "fused"
    }
    ran = run_fused(list(fused.values()), joined) if fused else []
    answers = dict(zip(fused, ran, strict=True))
    return [answers[i] if i in answers else _run_scan(job) for i, job in enumerate(jobs)]


def _run_scan(job: Job) -> Answer:
    refuse_unknown_timesteps_in_onnx(job.call.owner)
    xs = map_leaves(lambda x: time_major(x, job.asked), job.xs)
    recurrence, outputs = make_ready(job.cell, xs, job.states, job.call)
    flat_outputs, states = scan(recurrence, job.asked)
    forget_foreign_masks(job.cell)
    return tree.pack_sequence_as(outputs, flat_outputs), states
