"""Which of a program's weights are which operation's."""

import numpy as np

from ostinato.routines import Routine
from ostinato.streaming import program as p
from ostinato.streaming.program import Operation, Program

_KERNELS = {p.CELL: 2, p.DENSE: 1, p.INT8_CELL: 4, p.INT8_DENSE: 2}  # in int8 each with scales
_OTHERS = {p.EMBED: 1, p.MASK: 1, p.SCALE: 2, p.NORMALIZE: 3}  # of what isn't here none


def weights_by_operation(program: Program) -> list[tuple[Operation, list[np.ndarray]]]:
    """Each operation of a program with its own weights, in order."""
    found, remaining = [], list(program.weights)
    for operation in program.operations:
        count = _count(operation, program)
        found.append((operation, remaining[:count]))
        remaining = remaining[count:]
    return found


def _count(operation: Operation, program: Program) -> int:
    if operation.code == p.ROUTINE:
        return _weights_of(program.routines[operation.kind])
    if operation.code == p.WINDOW:
        return int(operation.kind == p.WEIGHTED)
    if operation.code in _KERNELS:
        return _KERNELS[operation.code] + operation.has_bias
    return _OTHERS.get(operation.code, 0)


def _weights_of(routine: Routine) -> int:
    """How many of a routine's operands are weights (native/core/routine/routine.h)."""
    count, place = routine.ints[2], 3
    found = 0
    for _ in range(count):
        kind, _, rank = routine.ints[place : place + 3]
        found += kind == 2
        place += 3 + rank
    return found
