"""One value of a program: what it's made of, and its shape.

A value is `(rows, *shape)`: rows of a batch, which never mix, and dimensions that are known; or, of
weights and what's made of them alone, `(*shape)` without rows. Among the dimensions NumPy's rules
of broadcasting hold; the rows of two values always lie beside one another, so values with rows that
meet in one operation have as many dimensions.
"""

from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Value = int  # a node's place in its graph

# What a graph is given. All but weights and literals have rows.
INPUT, STATE, CONSTANT, WEIGHT, MASK = "input", "state", "constant", "weight", "mask"
LITERAL = "literal"
# In derivatives: the gradients of the outputs and of the new states.
D_OUTPUT, D_STATE = "d_output", "d_state"
# In the gradients that a custom operation brings along: the gradient of its value.
UPSTREAM = "upstream"
LEAVES = (INPUT, STATE, CONSTANT, WEIGHT, MASK, LITERAL, D_OUTPUT, D_STATE, UPSTREAM)


class ProgramError(ValueError):
    """What can't be a value of a program: shapes that don't fit, rows that would mix."""


@dataclass(frozen=True)
class Node:
    """One value of a graph.

    Attributes:
        operation: The name of one of `operations.OPERATIONS`, or of `LEAVES`.
        arguments: The values that it's made of: places of nodes before this one.
        attributes: What else the operation has to know; of a leaf its number, or the literal.
        shape: Its dimensions, without the rows.
        has_rows: Whether it has rows.
    """

    operation: str
    arguments: tuple[Value, ...]
    attributes: tuple[Any, ...]
    shape: Shape
    has_rows: bool
