"""The portable engine: any cell, any nesting, on the framework's own loop.

A built-in cell is run lean, its weights read and its masks drawn once; any other by its contract.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops, tree

from ostinato.cells.builtin import BuiltinCell, is_called_as_ours, regularizes
from ostinato.cells.checked import (
    CheckedCell,
    draw_foreign_masks,
    forget_foreign_masks,
    holds_masks,
    like_a_timestep,
)
from ostinato.cells.checks import name_of
from ostinato.engines.interface import Answer, Question, Task
from ostinato.engines.loop import Recurrence, flat_resets, run_over_time, time_major
from ostinato.structure import Structure, leaves, map_leaves
from ostinato.tensors import Stepped, Tensor, Tensors, size_of


class Scan:
    """Any cell on the framework's loop; see `ostinato.engines.interface.Engine`."""

    name = "scan"
    runs_together = False
    on_kernels = False
    device: str | None = None

    def obstacles(self, question: Question) -> tuple[str, ...]:
        """Nothing: it runs whatever a cell may be."""
        return ()

    def computes_in(self, question: Question) -> str:
        """It has no kernels of ours; weights in int8 are made floats again."""
        return f"{question.dtype}, weights from int8" if question.int8 else ""

    def recipe(self, question: Question) -> None:
        """Nothing is known before the tensors are there."""

    def run(
        self, tasks: Sequence[Task], recipes: Sequence[None], joined: bool = False
    ) -> list[Answer]:
        """Runs the cells one after the other."""
        return [_run(task) for task in tasks]


ENGINE = Scan()


def _run(task: Task) -> Answer:
    _check_rows(task)
    xs = map_leaves(lambda x: time_major(x, task.loop), task.xs)
    recurrence, outputs = _recurrence(task, xs)
    flat_outputs, states = run_over_time(recurrence, task.mask, task.loop, flat_resets(task))
    forget_foreign_masks(task.cell)
    return tree.pack_sequence_as(outputs, flat_outputs), states


def _check_rows(task: Task) -> None:
    """Refuses what is done to some rows of states that have none."""
    if all(len(state.shape) > 0 for state in leaves(task.states)):
        return
    for name, why in (
        ("mask", "a masked timestep keeps the states of its rows"),
        ("resets", "they give some rows fresh states"),
    ):
        if getattr(task, name) is not None:
            raise ValueError(
                f"{task.context.owner}: expected no {name}: {why}, and {name_of(task.cell)} has a "
                "state without rows."
            )


def _recurrence(task: Task, xs: Structure) -> tuple[Recurrence, Structure]:
    """A task's cell made ready for inputs (T, B, ...), and the containers of its outputs."""
    cell, states, context = task.cell, task.states, task.context
    if isinstance(cell, BuiltinCell) and is_called_as_ours(cell) and not regularizes(cell):
        return _lean(task, xs), 0
    checked = CheckedCell(
        cell,
        states,
        owner=context.owner,
        dtype=context.dtype,
        training=context.training,
        constants=context.constants,
    )
    if holds_masks(cell):
        draw_foreign_masks(cell, tree.map_structure(like_a_timestep, task.xs), states)
    outputs = checked.outputs_like(xs)
    is_layer = isinstance(cell, keras.layers.Layer)
    recurrence = Recurrence(
        checked.flat_step(xs, outputs),
        tuple(tree.flatten(xs)),
        tuple(tree.flatten(states)),
        tuple(tree.flatten(outputs)),
        variables=tuple(cell.non_trainable_variables) if is_layer else (),
        add_loss=cell.add_loss if is_layer else _refuse_losses(context.owner, cell),
    )
    return recurrence, outputs


def _refuse_losses(owner: str, cell: Any) -> Callable[[Tensor], None]:
    def refuse(loss: Tensor) -> None:
        raise ValueError(
            f"{owner}: a layer in {name_of(cell)} added a loss, which can't be kept, since the "
            "cell is no Keras layer: make it a keras.layers.Layer."
        )

    return refuse


def _lean(task: Task, xs: Any) -> Recurrence:
    """A built-in cell: its masks drawn and its weights read once, before the loop."""
    cell: BuiltinCell = task.cell
    masks = cell._cell_masks(size_of(xs, 1), xs.shape[-1], task.context.training)
    timestep = cell._cell_recurrence(masks)
    xs = ops.cast(xs, cell.compute_dtype)

    def step(x: Tensors, states: Tensors) -> Stepped:
        output, new = timestep(x[0], states)
        return (output,), new

    flat = tuple(leaves(task.states))
    return Recurrence(step, (xs,), flat, flat[:1], cell._cell_projection(masks))
