"""A program's values in keras.ops: what it means, and what it's tested against."""

from collections.abc import Sequence

from ostinato.programs.graph import Program
from ostinato.programs.node import CONSTANT, INPUT, LITERAL, STATE, WEIGHT, Node
from ostinato.programs.operations import operations
from ostinato.tensors import Tensor, Tensors


def evaluate(
    program: Program, xs: Tensors, states: Tensors, constants: Tensors = (), weights: Tensors = ()
) -> tuple[Tensors, Tensors]:
    """Runs one timestep of a program.

    Args:
        program: The program.
        xs: Its inputs, each (B, ...).
        states: Its states, each (B, ...).
        constants: Its constants, each (B, ...).
        weights: Its weights.

    Returns:
        The outputs and the new states, each (B, ...).
    """
    leaves = {INPUT: xs, STATE: states, CONSTANT: constants, WEIGHT: weights}
    values: list[Tensor] = []
    for node in program.nodes:
        if node.operation == LITERAL:
            values.append(node.attributes[0])
        elif node.operation in leaves:
            values.append(leaves[node.operation][node.attributes[0]])
        else:
            values.append(applied(node, [values[at] for at in node.arguments], program.nodes))
    return (
        tuple(values[value] for value in program.outputs),
        tuple(values[value] for value in program.states),
    )


def applied(node: Node, arguments: Sequence[Tensor], nodes: Sequence[Node]) -> Tensor:
    """A node's value, given those of its arguments."""
    apply = operations()[node.operation].apply
    if apply is None:
        raise NotImplementedError(f"{node.operation} is an operation of derivatives alone")
    made_of = [nodes[at] for at in node.arguments]
    return apply(*arguments, attributes=node.attributes, nodes=made_of)
