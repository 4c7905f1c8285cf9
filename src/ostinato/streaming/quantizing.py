"""Programs with the weights of cells and dense layers in int8."""

from dataclasses import replace

from ostinato.int8 import rounded
from ostinato.routines import Routine
from ostinato.streaming import program as p
from ostinato.streaming.program import Operation, Program

_IN_INT8 = {p.CELL: p.INT8_CELL, p.DENSE: p.INT8_DENSE}
_WEIGHTS = {p.EMBED: 1, p.MASK: 1, p.SCALE: 2, p.NORMALIZE: 3}  # of others none, or see below
_MOST_DEPTH = 1 << 17  # what the core's sums of 32 bits hold: native/core/int8.h


def quantized(program: Program) -> Program:
    """The program with its cells' and dense layers' kernels in int8; all else as it is.

    Kernels with more inputs than the engine sums up in 32 bits stay as they are.

    Raises:
        ValueError: if there's nothing that could be so, or is so already, or it computes in double.
    """
    if program.dtype != "float32":
        raise ValueError(f"expected a model that computes in float32, got {program.dtype}.")
    operations, weights, remaining = [], [], list(program.weights)
    for operation in program.operations:
        kernels = _kernels_of(operation)
        count = kernels + operation.has_bias if kernels else _other_weights(operation, program)
        own, remaining = remaining[:count], remaining[count:]
        if kernels and all(kernel.shape[0] <= _MOST_DEPTH for kernel in own[:kernels]):
            operation = replace(operation, code=_IN_INT8[operation.code])
            own = [part for kernel in own[:kernels] for part in rounded(kernel)] + own[kernels:]
        operations.append(operation)
        weights += own
    made = replace(program, operations=tuple(operations), weights=tuple(weights))
    if made.has_int8 and made.operations == program.operations:
        raise ValueError("its weights are in int8 already.")
    if not made.has_int8:
        raise ValueError(
            "expected a built-in recurrent cell or a Dense layer, whose weights int8 is for, got "
            "none."
        )
    return made


def _kernels_of(operation: Operation) -> int:
    """How many kernels in float32 it has, if any that could be in int8."""
    return {p.CELL: 2, p.DENSE: 1}.get(operation.code, 0)


def _other_weights(operation: Operation, program: Program) -> int:
    if operation.code == p.ROUTINE:
        return _weights_of(program.routines[operation.kind])
    if operation.code in (p.INT8_CELL, p.INT8_DENSE):
        return (4 if operation.code == p.INT8_CELL else 2) + operation.has_bias
    return _WEIGHTS.get(operation.code, 0)


def _weights_of(routine: Routine) -> int:
    """How many of a routine's operands are weights (native/core/routine/routine.h)."""
    count, place = routine.ints[2], 3
    found = 0
    for _ in range(count):
        kind, _, rank = routine.ints[place : place + 3]
        found += kind == 2
        place += 3 + rank
    return found
