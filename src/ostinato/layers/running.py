"""Runs a cell over a sequence, or each cell of a stack over the outputs of the one below it."""

from dataclasses import replace
from typing import Any

from keras import tree

from ostinato.engines.scan import Asked, scan
from ostinato.layers.calling import Call, forget_foreign_masks, make_ready, takes
from ostinato.layers.stacked import StackedRNNCells
from ostinato.structure import Structure


def run(
    cell: Any, xs: Structure, states: Structure, asked: Asked, call: Call
) -> tuple[Structure, Structure]:
    """Runs a cell over all timesteps.

    Args:
        cell: The cell, built.
        xs: Its inputs, time-major (T, B, ...), in the order of the run.
        states: Its initial states (B, ...), in the containers of its `state_size`.
        asked: What is wanted.
        call: What the call of the layer gives to the cell.

    Returns:
        The outputs, (T, B, ...) or (B, ...) as asked, and the final states.
    """
    if type(cell) is StackedRNNCells:
        return _run_stack(cell, xs, states, asked, call)
    recurrence, outputs = make_ready(cell, xs, states, call)
    flat_outputs, flat_states = scan(recurrence, asked)
    forget_foreign_masks(cell)
    return (
        tree.pack_sequence_as(outputs, flat_outputs),
        tree.pack_sequence_as(states, flat_states),
    )


def _run_stack(
    stack: StackedRNNCells, xs: Structure, states: Structure, asked: Asked, call: Call
) -> tuple[Structure, list[Structure]]:
    # Cell by cell over all timesteps equals timestep by timestep over all cells: what a lower
    # cell puts out at a masked step reaches no state and no output.
    between = replace(asked, every_output=True, zero_masked=True)
    final: list[Structure] = []
    for index, (cell, state) in enumerate(zip(stack.cells, states, strict=True)):
        is_top = index == len(stack.cells) - 1
        bare = not tree.is_nested(state)
        xs, new = run(
            cell,
            xs,
            [state] if bare else state,
            asked if is_top else between,
            call if takes(cell, "constants") else replace(call, constants=None),
        )
        final.append(new[0] if bare else new)
    return xs, final
