"""A cell's step as a graph of values: nodes that prove themselves, and what builds them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ostinato.programs.node import (
    CONSTANT,
    INPUT,
    LEAVES,
    LITERAL,
    STATE,
    WEIGHT,
    Node,
    ProgramError,
    Shape,
    Value,
)
from ostinato.programs.operations import operations

__all__ = ["Graph", "Program", "program_of", "reachable"]


class Graph:
    """Nodes in an order in which each comes after what it's made of; equal nodes are one.

    Attributes:
        nodes: The nodes.
    """

    def __init__(self, nodes: Sequence[Node] = ()) -> None:
        self.nodes: list[Node] = list(nodes)
        self._known = {node: place for place, node in enumerate(self.nodes)}

    def __getitem__(self, value: Value) -> Node:
        return self.nodes[value]

    def leaf(self, kind: str, number: int, shape: Shape) -> Value:
        """The value that is given as the `number`-th of a kind."""
        return self._add(Node(kind, (), (number,), tuple(shape), kind != WEIGHT))

    def literal(self, value: float) -> Value:
        """A number. There's one NaN, since others aren't equal to themselves."""
        number = math.nan if math.isnan(value) else float(value)
        return self._add(Node(LITERAL, (), (number,), (), False))

    def add(self, operation: str, *arguments: Value, attributes: tuple[Any, ...] = ()) -> Value:
        """The value of an operation.

        Raises:
            ProgramError: The arguments don't fit together, or the operation.
        """
        known = operations().get(operation)
        if known is None:
            raise ProgramError(f"expected an operation of programs, got {operation!r}")
        nodes = [self.nodes[argument] for argument in arguments]
        shape, has_rows = known.infer(nodes, attributes)
        return self._add(Node(operation, tuple(arguments), attributes, shape, has_rows))

    def copy(self, node: Node, arguments: Sequence[Value]) -> Value:
        """The value of another graph's node, made of values of this one."""
        if not node.arguments:
            return self._add(node)
        return self.add(node.operation, *arguments, attributes=node.attributes)

    def _add(self, node: Node) -> Value:
        place = self._known.get(node)
        if place is None:
            place = self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return place

    def __getattr__(self, operation: str) -> Any:
        """`graph.tanh(x)` for `graph.add("tanh", x)`; attributes follow the values, by keyword."""
        if operation.startswith("_"):
            raise AttributeError(operation)
        return lambda *arguments, attributes=(): self.add(
            operation, *arguments, attributes=attributes
        )


def reachable(roots: Sequence[Value], made_of: Callable[[Value], Sequence[Value]]) -> list[Value]:
    """The values that roots are made of, and the roots, in the graph's order."""
    needed, waiting = set(roots), list(roots)
    while waiting:
        for argument in made_of(waiting.pop()):
            if argument not in needed:
                needed.add(argument)
                waiting.append(argument)
    return sorted(needed)


@dataclass(frozen=True)
class Program:
    """A cell's step.

    Attributes:
        nodes: The graph, without a node that isn't needed.
        outputs: The values that it puts out.
        states: The new states, one of each state.
        input_shapes: The dimensions of each input.
        state_shapes: Likewise of each state.
        constant_shapes: Likewise of each constant: what doesn't change over time.
        weight_shapes: Likewise of each weight, which has no rows.
        fixed: The inputs and constants that have no gradient: random masks, as ("input", number).
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    states: tuple[Value, ...]
    input_shapes: tuple[Shape, ...]
    state_shapes: tuple[Shape, ...]
    constant_shapes: tuple[Shape, ...] = ()
    weight_shapes: tuple[Shape, ...] = ()
    fixed: frozenset[tuple[str, int]] = field(default=frozenset())

    def __post_init__(self) -> None:
        """Proves that every node is what its operation makes of its arguments."""
        leaves = {
            INPUT: self.input_shapes,
            STATE: self.state_shapes,
            CONSTANT: self.constant_shapes,
            WEIGHT: self.weight_shapes,
        }
        for place, node in enumerate(self.nodes):
            if any(not 0 <= argument < place for argument in node.arguments):
                raise ProgramError(f"value {place} is made of a later one")
            if node.operation in leaves:
                shapes = leaves[node.operation]
                number = node.attributes[0]
                if not 0 <= number < len(shapes) or shapes[number] != node.shape:
                    raise ProgramError(
                        f"value {place} is {node.operation} {number} of {node.shape}, "
                        f"expected one of {shapes}"
                    )
            elif node.operation not in LEAVES:
                arguments = [self.nodes[argument] for argument in node.arguments]
                made = operations()[node.operation].infer(arguments, node.attributes)
                if made != (node.shape, node.has_rows):
                    raise ProgramError(
                        f"value {place}: {node.operation} makes {made[0]}, not {node.shape}"
                    )
        self._prove_results()

    def _prove_results(self) -> None:
        if len(self.states) != len(self.state_shapes):
            raise ProgramError(
                f"expected {len(self.state_shapes)} new states, got {len(self.states)}"
            )
        for number, (value, shape) in enumerate(zip(self.states, self.state_shapes, strict=True)):
            node = self.nodes[value]
            if node.shape != shape or not node.has_rows:
                raise ProgramError(
                    f"state {number} is of {shape}, its next value of {node.shape}"
                    + ("" if node.has_rows else " without rows")
                )
        for number, value in enumerate(self.outputs):
            if not self.nodes[value].has_rows:
                raise ProgramError(f"output {number} has no rows")

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """The dimensions of each output."""
        return tuple(self.nodes[value].shape for value in self.outputs)

    @property
    def roots(self) -> tuple[Value, ...]:
        """What it's for: the outputs and the new states."""
        return (*self.outputs, *self.states)

    def like(
        self, graph: Graph, outputs: Sequence[Value], states: Sequence[Value], **other_shapes: Any
    ) -> "Program":
        """A program of a graph that is given what this one is, but for some shapes."""
        shapes = {
            "input_shapes": self.input_shapes,
            "state_shapes": self.state_shapes,
            "constant_shapes": self.constant_shapes,
            "weight_shapes": self.weight_shapes,
        }
        return program_of(graph, outputs, states, **{**shapes, **other_shapes}, fixed=self.fixed)

    def __iter__(self) -> Iterator[tuple[Value, Node]]:
        return iter(enumerate(self.nodes))


def program_of(
    graph: Graph, outputs: Sequence[Value], states: Sequence[Value], **shapes: Any
) -> Program:
    """The program of some values of a graph, without what they don't need."""
    kept = reachable((*outputs, *states), lambda value: graph[value].arguments)
    places = {value: place for place, value in enumerate(kept)}
    nodes = tuple(
        Node(
            node.operation,
            tuple(places[argument] for argument in node.arguments),
            node.attributes,
            node.shape,
            node.has_rows,
        )
        for node in (graph[value] for value in kept)
    )
    return Program(
        nodes,
        tuple(places[value] for value in outputs),
        tuple(places[value] for value in states),
        **shapes,
    )
