"""Runs cells over sequences: each on the engine that is chosen for it, a stack cell by cell."""

import functools
from collections.abc import Sequence
from typing import Any

from keras import ops

from ostinato.cells.builtin import regularizes
from ostinato.cells.checks import name_of
from ostinato.cells.contract import takes
from ostinato.doors import door
from ostinato.engines.interface import Answer, CallContext, Engine, Task
from ostinato.engines.table import NVIDIA
from ostinato.layers.exporting import refuse_unknown_timesteps_in_onnx
from ostinato.layers.planning import answer_to, devices_for, plan_for, question_about
from ostinato.layers.stacked import StackedRNNCells
from ostinato.plan import Plan
from ostinato.structure import Structure, is_tensor_like, leaves, pack_like


def run(*tasks: Task, joined: bool = False) -> list[Answer]:
    """Runs cells over their sequences, those of an engine that `runs_together` at the same time.

    Args:
        *tasks: The cells, with what each has to do.
        joined: Whether the outputs of two tasks that `can_join` are one tensor, side by side, in
            both answers.

    Returns:
        Of each task the outputs, (B, T, ...) or (B, ...) by its loop, and the final states.
    """
    if not any(isinstance(task.cell, StackedRNNCells) for task in tasks):
        return [
            (outputs, pack_like(task.states, states))
            for task, (outputs, states) in zip(tasks, _run_level(tasks, joined), strict=True)
        ]
    # Cell by cell over all timesteps equals timestep by timestep over all cells: what a lower
    # cell puts out at a masked step reaches no state and no output.
    stacks = [_levels(task) for task in tasks]
    xs = [task.xs for task in tasks]
    final: list[list[Any]] = [[] for _ in tasks]
    for level in range(max(len(stack) for stack in stacks)):
        here = [index for index, stack in enumerate(stacks) if level < len(stack)]
        ready = [stacks[index][level]._replace(xs=xs[index]) for index in here]
        for index, (outputs, states) in zip(here, _run_level(ready, joined), strict=True):
            xs[index] = outputs
            final[index] += leaves(states)
    return [
        (outputs, pack_like(task.states, states))
        for task, outputs, states in zip(tasks, xs, final, strict=True)
    ]


def _is_plain_stack(cell: Any) -> bool:
    """Whether a cell is a stack that does nothing but call its cells."""
    return type(cell) is StackedRNNCells and not regularizes(cell)


def _levels(task: Task) -> list[Task]:
    """A stack's cells from bottom to top, each as a task; all have the inputs of the lowest."""
    if not _is_plain_stack(task.cell):
        return [task]
    flat = cells_with_states(task.cell, task.states)
    fresh = [None] * len(flat)
    if task.resets is not None and task.resets.fresh is not None:
        fresh = [states for _, states in cells_with_states(task.cell, task.resets.fresh)]
    # Its outputs come in the order of time, since the cell above turns them by itself.
    between = task.loop._replace(
        return_sequences=True, zero_output_for_mask=True, flip_outputs=task.loop.go_backwards
    )
    return [
        task._replace(
            cell=cell,
            states=states,
            loop=task.loop if index == len(flat) - 1 else between,
            context=_context_of(cell, task.context),
            resets=task.resets and task.resets._replace(fresh=fresh[index]),
        )
        for index, (cell, states) in enumerate(flat)
    ]


def _context_of(cell: Any, context: CallContext) -> CallContext:
    """What a call of the stack gives to one of its cells: constants where it takes them."""
    if context.constants is None or takes(cell, "constants"):
        return context
    return context._replace(constants=None)


def cells_of(cell: Any) -> list[Any]:
    """The cells that run one over the other: a stack's, or the cell alone."""
    return [found for found, _ in cells_with_states(cell, cell.state_size)]


def cells_with_states(cell: Any, states: Structure) -> list[tuple[Any, Structure]]:
    """The cells of a stack, or of stacks in a stack, with their states."""
    if _is_plain_stack(cell):
        pairs = zip(cell.cells, states, strict=True)
        return [found for pair in pairs for found in cells_with_states(*pair)]
    return [(cell, [states] if is_tensor_like(states) else states)]


def run_together(cells: Sequence[Any], xs: Structure, training: bool = False) -> bool:
    """Whether cells, each alone or a stack, would all be run at the same time by one engine."""
    engines = {_engine_of(each, xs, training) for cell in cells for each in cells_of(cell)}
    return len(engines) == 1 and all(engine and engine.runs_together for engine in engines)


def _engine_of(cell: Any, xs: Structure, training: bool) -> Engine | None:
    return answer_to(question_about(cell, xs, training=training)).engine


def keeps_from_xla(cell: Any) -> bool:
    """Whether a cell would be run by an engine that what compiles the model can't take."""
    if door.COMPILES_CUDNN:
        return False
    engines = [_engine_of(each, ops.zeros((1, 1, 1)), training=False) for each in cells_of(cell)]
    return any(engine and engine.device == NVIDIA for engine in engines)


def can_join(*cells: Any) -> bool:
    """Whether the outputs of cells that `run_together` can come as one tensor."""
    return not any(_is_plain_stack(cell) for cell in cells)


def _run_level(tasks: Sequence[Task], joined: bool) -> list[Answer]:
    """Runs cells that aren't stacks, those of each engine in one call of it."""
    for task in tasks:
        _check_constants(task)
    devices = devices_for(tasks[0])
    if not devices:
        return _run_planned(tasks, [plan_for(task) for task in tasks], joined)
    plans: dict[str, list[Plan]] = {}
    for device in devices:
        with door.lowered_for(device):
            plans[device] = [plan_for(task) for task in tasks]
    if len({tuple(found.engine for found in each) for each in plans.values()}) == 1:
        return _run_planned(tasks, plans[devices[0]], joined)
    return _run_by_device(tasks, plans, joined)


def _run_by_device(
    tasks: Sequence[Task], plans: dict[str, list[Plan]], joined: bool
) -> list[Answer]:
    """Runs cells by the plan for the kind of device that the program comes to run on."""
    variables = [v for task in tasks for v in getattr(task.cell, "non_trainable_variables", ())]
    variables = [variable for variable in variables if "float" not in variable.dtype]
    before = [variable.value for variable in variables]
    moved: set[int] = set()

    def run_on(device: str) -> tuple[list[Answer], list[Any]]:
        """Seeds move alike in each branch, and would keep its tracers: they're put back."""
        try:
            with door.lowered_for(device):
                answers = _run_planned(tasks, plans[device], joined)
            after = [variable.value for variable in variables]
        finally:
            for place, (variable, value) in enumerate(zip(variables, before, strict=True)):
                if variable.value is not value:
                    moved.add(place)
                    variable.assign(value)
        return answers, after

    branches = {device: functools.partial(run_on, device) for device in plans}
    answers, after = door.by_device(branches)
    for place in moved:
        variables[place].assign(after[place])
    found: list[Answer] = answers
    return found


def _run_planned(tasks: Sequence[Task], plans: Sequence[Plan], joined: bool) -> list[Answer]:
    """Runs cells by their plans, those of each engine in one call of it."""
    first = plans[0].engine
    # What a call has beside its cells (resets, truncate) may have taken it to an engine that can't.
    joins = joined and first is not None and first.runs_together
    if (joins or not joined) and all(found.engine is first for found in plans):
        return _run_on_engine(tasks, plans, joins)
    answers: dict[int, Answer] = {}
    for engine in dict.fromkeys(found.engine for found in plans):
        here = [index for index, found in enumerate(plans) if found.engine is engine]
        made = _run_on_engine([tasks[index] for index in here], [plans[index] for index in here])
        answers.update(zip(here, made, strict=True))
    in_order = [answers[index] for index in range(len(tasks))]
    if joined:
        both = ops.concatenate([outputs for outputs, _ in in_order], axis=-1)
        in_order = [(both, states) for _, states in in_order]
    return in_order


def _run_on_engine(
    tasks: Sequence[Task], plans: Sequence[Plan], joined: bool = False
) -> list[Answer]:
    """Runs cells whose plans have the same engine, in one call of it."""
    engine = plans[0].engine
    assert engine is not None  # `plan_for` has raised where there's none
    if not engine.on_kernels:
        refuse_unknown_timesteps_in_onnx(tasks[0].context.owner)
    return engine.run(tasks, [found.recipe for found in plans], joined)


def _check_constants(task: Task) -> None:
    """Refuses constants for a cell that has no place for them."""
    if task.context.constants is not None and not takes(task.cell, "constants"):
        raise ValueError(
            f"{task.context.owner}: constants were given, but `call` of {name_of(task.cell)} takes "
            "no `constants` argument."
        )
