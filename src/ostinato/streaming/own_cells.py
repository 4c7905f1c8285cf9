"""Which of a recurrent layer's cells are the kernels' own, and the programs of the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras import ops

from ostinato.doors import door
from ostinato.engines.obstacles import FLOATS
from ostinato.engines.table import OF_PROGRAMS
from ostinato.layers.dispatch import cells_with_states
from ostinato.layers.planning import question_about
from ostinato.plan import plan
from ostinato.programs.compiling import Compiled, compiled, described
from ostinato.programs.tracing import Like
from ostinato.structure import Structure, leaves, map_leaves


@dataclass(frozen=True)
class StreamedCell:
    """A cell of a recurrent layer, as a stream runs it.

    Attributes:
        cell: The cell.
        initial: Its initial states of one row, (1, ...) each.
        program: Its program; None of a cell that's built in.
        width: How many units its output has.
    """

    cell: Any
    initial: tuple[Any, ...]
    program: Compiled | None
    width: int


def read_cells(layer: Any, width: int, heeds_forced: bool = True) -> list[StreamedCell] | str:
    """The cells of a recurrent layer from bottom to top, or why the kernels can't run them.

    Args:
        layer: The layer, built.
        width: How many features a timestep of its inputs has.
        heeds_forced: Whether the engine that is forced here and now matters.
    """
    found = []
    for made in _each(layer, width, heeds_forced):
        if isinstance(made, str):
            return made
        found.append(made)
    return found


def _each(layer: Any, width: int, heeds_forced: bool) -> Iterator[StreamedCell | str]:
    for cell, states in cells_with_states(layer.cell, layer.get_initial_state(1)):
        # A stream's arrays are NumPy's: what the framework can't do, or its device, doesn't matter.
        question = question_about(cell, ops.zeros((1, 1, 1)))
        question = question._replace(framework=None, device="cpu")
        if not heeds_forced:
            question = question._replace(forced=None)
        answer, initial = plan(question), tuple(leaves(states))
        # Without a program, which wasn't looked for, only a built-in cell runs on the core.
        if answer.engine is not None and answer.engine.on_kernels:
            width = cell.units
            yield StreamedCell(cell, initial, None, width)
        elif question.int8 or question.forced not in (None, OF_PROGRAMS):
            yield answer.why_not()
        else:
            program = _program_of(cell, states, width, layer.compute_dtype)
            if isinstance(program, str):
                yield plan(question._replace(no_program=program)).why_not()
                return
            (width,) = program.program.output_shapes[0]
            yield StreamedCell(cell, initial, program, width)


def _program_of(cell: Any, states: Structure, width: int, dtype: str) -> Compiled | str:
    """A cell's program, or why a stream can't run it."""
    # A new program is run once beside its cell, through the framework's door.
    reason: str | None = door.native_why_not(ops.zeros((1, 1, 1)))
    if reason is not None:
        return reason
    like_states = map_leaves(lambda state: described(state, 1), states)
    declared = getattr(cell, "compute_dtype", None)
    computes_in = declared if isinstance(declared, str) else dtype
    x = described(Like((width,), dtype), 0)
    program = compiled(cell, x, like_states, None, False, computes_in)
    if isinstance(program, str):
        return program
    step, dtypes = program.program, program.output_dtypes
    if len(step.output_shapes) != 1 or len(step.output_shapes[0]) != 1:
        return "a stream takes one output of one axis from a cell"
    dtypes = (*dtypes, *(text.split()[0] for text in leaves(like_states)))
    if not set(dtypes) <= set(FLOATS):
        return f"a stream keeps and gives floats, and the cell has {', '.join(dtypes)}"
    if program.traced.draws:
        return "it draws random numbers in each timestep"
    return program
