"""What an operation of programs is: its shapes, what it is in keras.ops, and its derivative."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ostinato.programs.node import Node, Shape, Value
from ostinato.tensors import Tensor

if TYPE_CHECKING:
    from ostinato.programs.graph import Graph

Inferred = tuple[Shape, bool]
Attributes = tuple[Any, ...]


class Pull(NamedTuple):
    """What the derivative of an operation is made of.

    Attributes:
        graph: Where its values go.
        arguments: What the operation was applied to.
        result: What it made.
        upstream: The gradient of that, of its shape.
        attributes: The operation's.
    """

    graph: "Graph"
    arguments: tuple[Value, ...]
    result: Value
    upstream: Value
    attributes: Attributes


class Operation(NamedTuple):
    """One operation.

    Attributes:
        infer: The shape of what it makes, and whether that has rows; ProgramError if it can't be.
        apply: The same in keras.ops, of tensors with their rows in front; None where it's only used
            in derivatives.
        pull: The gradient of each argument, None where it has none. A gradient may have the
            result's shape where that is the argument's spread: it's summed afterwards.
        is_elementwise: Whether each place of the result depends on that place of the arguments.
    """

    infer: Callable[[Sequence[Node], Attributes], Inferred]
    apply: Callable[..., Tensor] | None
    pull: Callable[[Pull], Sequence[Value | None]] | None
    is_elementwise: bool = False


def plainly(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors as an operation's `apply`, where it needs nothing else."""
    return lambda *arguments, attributes, nodes: function(*arguments)
