"""Programs with the weights of cells and dense layers in int8."""

from dataclasses import replace

from ostinato.int8 import rounded
from ostinato.streaming import program as p
from ostinato.streaming.program import Operation, Program
from ostinato.streaming.weights import weights_by_operation

_IN_INT8 = {p.CELL: p.INT8_CELL, p.DENSE: p.INT8_DENSE}
_MOST_DEPTH = 1 << 17  # what the core's sums of 32 bits hold: native/core/int8.h


def quantized(program: Program) -> Program:
    """The program with its cells' and dense layers' kernels in int8; all else as it is.

    Kernels with more inputs than the engine sums up in 32 bits stay as they are.

    Raises:
        ValueError: if there's nothing that could be so, or is so already, or it computes in double.
    """
    if program.dtype != "float32":
        raise ValueError(f"expected a model that computes in float32, got {program.dtype}.")
    operations, weights = [], []
    for operation, own in weights_by_operation(program):
        kernels = _kernels_of(operation)
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
