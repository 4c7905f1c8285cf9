"""The derivative of a program, in reverse: a graph of the same operations, by their rules."""

from collections.abc import Sequence
from dataclasses import dataclass

from ostinato.programs.graph import Graph, Program, reachable
from ostinato.programs.node import (
    CONSTANT,
    D_OUTPUT,
    D_STATE,
    INPUT,
    STATE,
    UPSTREAM,
    WEIGHT,
    Node,
    Shape,
    Value,
)
from ostinato.programs.operation import Pull
from ostinato.programs.operations import operations
from ostinato.programs.signs import SignedGraph
from ostinato.programs.structural import is_apart


@dataclass(frozen=True)
class Derivative:
    """The gradients of a step's arguments, given those of its results.

    Attributes:
        nodes: The program's own nodes, in their places, and those of the gradients after them.
        inputs: The gradient of each input; None where it has none.
        states: Likewise of each state.
        constants: Likewise of each constant, of one timestep.
        weights: Likewise of each weight, of one timestep and summed over the rows.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value | None, ...]
    states: tuple[Value | None, ...]
    constants: tuple[Value | None, ...]
    weights: tuple[Value | None, ...]


def derivative(program: Program) -> Derivative:
    """The derivative of a program's step, from the gradients of its outputs and new states."""
    graph = SignedGraph(program.nodes)
    found: dict[Value, list[Value]] = {}
    for kind, results in ((D_OUTPUT, program.outputs), (D_STATE, program.states)):
        for number, result in enumerate(results):
            upstream = graph.leaf(kind, number, graph[result].shape)
            found.setdefault(result, []).append(upstream)
    moving = _moving(program)
    gradients: dict[tuple[str, int], Value] = {}
    for value in reversed(range(len(program.nodes))):
        if value not in found or not moving[value]:
            continue
        node, upstream = graph[value], _sum(graph, found[value])
        if not node.arguments:
            gradients[node.operation, node.attributes[0]] = upstream
            continue
        for argument, gradient in _pulled(graph, value, upstream):
            found.setdefault(argument, []).append(gradient)
    sides = (
        (INPUT, program.input_shapes),
        (STATE, program.state_shapes),
        (CONSTANT, program.constant_shapes),
        (WEIGHT, program.weight_shapes),
    )
    of_kind = [tuple(gradients.get((kind, i)) for i in range(len(each))) for kind, each in sides]
    return Derivative(tuple(graph.nodes), *of_kind)


def _moving(program: Program) -> list[bool]:
    """Of each value whether it depends on something that has a gradient."""
    moving: list[bool] = []
    for node in program.nodes:
        if node.operation in (INPUT, STATE, CONSTANT, WEIGHT):
            moving.append((node.operation, node.attributes[0]) not in program.fixed)
        else:
            moving.append(any(moving[argument] for argument in node.arguments))
    return moving


def _pulled(graph: Graph, value: Value, upstream: Value) -> list[tuple[Value, Value]]:
    """The arguments of a value that have gradients, with these, of their shapes."""
    node = graph[value]
    if node.operation == "custom":
        return _pulled_of_custom(graph, node, upstream)
    pull = operations()[node.operation].pull
    if pull is None:
        raise ValueError(f"{node.operation} has no derivative")
    gradients = pull(Pull(graph, node.arguments, value, upstream, node.attributes))
    return [
        (argument, _as_narrow(graph, gradient, graph[argument]))
        for argument, gradient in zip(node.arguments, gradients, strict=True)
        if gradient is not None
    ]


def _pulled_of_custom(graph: Graph, node: Node, upstream: Value) -> list[tuple[Value, Value]]:
    """The gradients that a value brings along, with the upstream for what stands for it."""
    _, *rest = node.arguments
    sources, gradients = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    copies: dict[Value, Value] = {}
    for value in reachable(gradients, lambda value: graph[value].arguments):
        original = graph[value]
        made = [copies[argument] for argument in original.arguments]
        if original.operation == UPSTREAM and original.attributes == node.attributes:
            copies[value] = upstream
        elif tuple(made) == original.arguments:
            copies[value] = value
        else:
            copies[value] = graph.add(original.operation, *made, attributes=original.attributes)
    return [
        (source, _as_narrow(graph, copies[gradient], graph[source]))
        for source, gradient in zip(sources, gradients, strict=True)
    ]


def _as_narrow(graph: Graph, gradient: Value, argument: Node) -> Value:
    """A gradient summed over the axes, and the rows, over which its argument was spread."""
    shape = graph[gradient].shape
    extra = len(shape) - len(argument.shape)
    sizes = zip(shape[extra:], argument.shape, strict=True)
    spread = (axis for axis, (size, own) in enumerate(sizes, extra) if own == 1 and size != 1)
    axes = (*range(extra), *spread)
    if axes:
        gradient = graph.add("sum", gradient, attributes=(axes,))
        if graph[gradient].shape != argument.shape:
            gradient = graph.add("reshape", gradient, attributes=(argument.shape,))
    if graph[gradient].has_rows and not argument.has_rows:
        gradient = graph.add("row_sum", gradient)
    return gradient


def _sum(graph: Graph, values: Sequence[Value]) -> Value:
    """The sum of gradients; those of parts that are apart are one value put together."""
    parts: list[tuple[Value, tuple[Shape, Shape]]] = []
    rest: list[Value] = []
    for value in values:
        node = graph[value]
        mine = (
            list(zip(node.arguments, node.attributes[1], strict=True))
            if (node.operation == "assemble")
            else []
        )
        boxes = [(*place, graph[part].shape) for part, place in mine]
        others = [(*place, graph[part].shape) for part, place in parts]
        if mine and all(is_apart(box, other) for box in boxes for other in others):
            parts += mine
        else:
            rest.append(value)
    rest.sort(key=lambda value: graph[value].operation != "product")  # for one accumulator
    if parts:
        parts.sort(key=lambda part: part[1])
        shape = graph[values[0]].shape
        attributes = (shape, tuple(place for _, place in parts))
        rest.append(graph.add("assemble", *(part for part, _ in parts), attributes=attributes))
    total = rest[0]
    for value in rest[1:]:
        total = graph.add("add", total, value)
    return total
