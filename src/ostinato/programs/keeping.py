"""What a training run keeps of each timestep for the way back, and what is computed once more.

Products and sums are kept; so are dear functions of a few numbers, as an activation of a gate.
What's cheap is computed again from these, and so is what's large: a synapse for each pair of units.
"""

import math
from collections.abc import Sequence

from ostinato.programs.graph import Program
from ostinato.programs.node import LEAVES, Node, Value
from ostinato.programs.operations import operations

# Elementwise operations of a cycle or two a vector; all others are worth a load and a store.
_CHEAP = {
    *("neg", "abs", "sign", "square", "relu", "floor", "ceil", "round", "trunc"),
    *("add", "sub", "mul", "max", "min", "select", "clip"),
    *("gt", "ge", "lt", "le", "eq", "ne", "logical_not", "logical_and", "logical_or"),
    *("logical_xor", "isnan", "isinf", "isfinite"),
}
# As wide as four times all states: so many numbers a row may be kept of one value.
_WIDEST = 4
_SMALL = 256


def kept_values(program: Program, nodes: Sequence[Node], roots: Sequence[Value]) -> list[Value]:
    """The program's values that its derivative reads from the training run, in order.

    Args:
        program: The program.
        nodes: Those of its derivative; the program's come first.
        roots: The gradients that are wanted.
    """
    own = len(program.nodes)
    widest = max(_SMALL, _WIDEST * sum(math.prod(shape) for shape in program.state_shapes))
    sums = _sums_of_products(program)
    kept: set[Value] = set()
    seen: set[Value] = set()
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        node = nodes[value]
        if value < own and node.operation not in LEAVES and node.has_rows:
            if value in program.states:
                continue  # the next step's state, which is kept anyhow
            if value in sums or _is_dear(node, widest):
                kept.add(value)
                continue
        waiting += node.arguments
    return sorted(kept)


def is_dear_operation(name: str) -> bool:
    """Whether an operation is an elementwise function that takes more than a cycle or two."""
    return operations()[name].is_elementwise and name not in _CHEAP


def _is_dear(node: Node, widest: int) -> bool:
    size = math.prod(node.shape)
    if node.operation in ("product", "sum", "amax"):
        return True
    return is_dear_operation(node.operation) and size <= widest


def _sums_of_products(program: Program) -> set[Value]:
    """The values that an accumulator of products ends with."""
    found: set[Value] = set()
    for value, node in program:
        if node.operation == "add":
            parts = (program.nodes[argument] for argument in node.arguments)
            is_sum = all(
                part.operation == "product" or argument in found or not part.has_rows
                for argument, part in zip(node.arguments, parts, strict=True)
            )
            if is_sum:
                found.add(value)
    return found
