"""A program's values in keras.ops: what it means, and what it's tested against."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from ostinato.programs.graph import Program, reachable
from ostinato.programs.node import CONSTANT, INPUT, LITERAL, STATE, UPSTREAM, WEIGHT, Node, Value
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
    values = evaluate_nodes(program.nodes, program.roots, leaves)
    rows = ops.shape([*xs, *states][0])[0]

    def spread(place: Value) -> Tensor:  # what's alike for all rows may have come as one
        return ops.broadcast_to(values[place], (rows, *program.nodes[place].shape))

    return tuple(map(spread, program.outputs)), tuple(map(spread, program.states))


def evaluate_nodes(
    nodes: Sequence[Node], roots: Sequence[Value], leaves: Mapping[str, Sequence[Tensor]]
) -> dict[Value, Tensor]:
    """The values of some nodes and of all that they're made of.

    Args:
        nodes: The nodes of a graph.
        roots: Which are wanted.
        leaves: The tensors of each kind of leaf, by their numbers.
    """
    values: dict[Value, Tensor] = {}
    for place in _needed(nodes, roots):
        node = nodes[place]
        if node.operation == LITERAL:
            values[place] = node.attributes[0]
        elif node.operation in leaves:
            values[place] = leaves[node.operation][node.attributes[0]]
        elif node.operation == "custom":
            values[place] = _custom(nodes, node, values, leaves)
        else:
            values[place] = _applied(nodes, node, values)
    return values


def _made_of(node: Node) -> Sequence[Value]:
    """What a node's value is made of; a custom one's gradients are none of that."""
    if node.operation != "custom":
        return node.arguments
    return node.arguments[: 1 + (len(node.arguments) - 1) // 2]


def _needed(nodes: Sequence[Node], roots: Sequence[Value]) -> list[Value]:
    return reachable(roots, lambda place: _made_of(nodes[place]))


def _applied(nodes: Sequence[Node], node: Node, values: Mapping[Value, Tensor]) -> Tensor:
    apply = operations()[node.operation].apply
    if apply is None:
        raise ValueError(f"{node.operation} is an operation of derivatives alone")
    made_of = [nodes[place] for place in node.arguments]
    arguments = [values[place] for place in node.arguments]
    return apply(*arguments, attributes=node.attributes, nodes=made_of)


def _custom(
    nodes: Sequence[Node],
    node: Node,
    values: dict[Value, Tensor],
    leaves: Mapping[str, Sequence[Tensor]],
) -> Tensor:
    """A value that brings its gradients along.

    All that these are made of is an argument of the function: JAX lets it use nothing else.
    """
    value, *rest = node.arguments
    sources, gradients = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    needed = _needed(nodes, gradients)
    for place in needed:
        if nodes[place].operation in leaves and place not in values:
            values[place] = leaves[nodes[place].operation][nodes[place].attributes[0]]
    is_upstream = [place for place in needed if nodes[place].operation == UPSTREAM]
    within = [place for place in needed if place not in values and place not in is_upstream]
    captured = [place for place in needed if place in values]

    def function(*tensors: Tensor) -> Any:
        given = dict(zip(captured, tensors[1 + len(sources) :], strict=True))

        def grad(*args: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, ...]:
            if upstream is None:
                (upstream,) = args
            inner = {**given, **dict.fromkeys(is_upstream, upstream)}
            for place in within:
                is_literal = nodes[place].operation == LITERAL
                inner[place] = (
                    nodes[place].attributes[0]
                    if is_literal
                    else _applied(nodes, nodes[place], inner)
                )
            shapes = [ops.shape(tensor) for tensor in tensors[1 : 1 + len(sources)]]
            found = [ops.broadcast_to(inner[g], s) for g, s in zip(gradients, shapes, strict=True)]
            others = [ops.zeros_like(tensor) for tensor in tensors[1 + len(sources) :]]
            return (ops.zeros_like(tensors[0]), *found, *others)

        return tensors[0] + 0.0, grad

    tensors = [ops.convert_to_tensor(values[place]) for place in (value, *sources, *captured)]
    result: Tensor = ops.custom_gradient(function)(*tensors)
    return result
