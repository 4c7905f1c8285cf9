"""A program said in the way that runs best; its values stay the same.

- What is taken of an elementwise result is taken of its arguments, so that nothing is computed
  twice or put down in between: of `split(x W + h U + b)` only the sum of products is.
- `concat([x, h]) W` is `x W' + h W''`, whose parts needn't be put side by side.
- In a sum, products come first and then a bias: one accumulator takes them all.
- What weights alone make becomes a weight: it's computed once a call, by the framework.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ostinato.programs.graph import Graph, Program, reachable
from ostinato.programs.node import LITERAL, WEIGHT, Node, Shape, Value
from ostinato.programs.operations import operations
from ostinato.programs.uses import MOST_CHAINED, MOST_SUMMED

_POWERS = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}


@dataclass(frozen=True)
class Prepared:
    """A program whose weights are made of others.

    Attributes:
        program: The program.
        weights: Of each of its weights what it is, as a value of `nodes`, whose leaves are the
            original weights.
        nodes: The graph of these.
    """

    program: Program
    weights: tuple[Value, ...]
    nodes: tuple[Node, ...]


def canonical(program: Program) -> Prepared:
    """The same program, in the form that is lowered."""
    # Sums once more: products of parts put side by side are sums, too.
    program = _with_products_first(_Rewriting(_with_products_first(program)).run())
    return _with_weights_apart(program)


class _Rewriting:
    """A copy of a program, value by value, each in its best form."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph()
        self.copies: dict[Value, Value] = {}
        self.users: dict[Value, list[Value]] = {}
        # What was cut, and what was asked, once: there may be no end of ways to a value.
        self.cuts: dict[tuple[Any, ...], Value] = {}
        self.affine: dict[Value, bool] = {}
        # A custom operation's gradients are no part of its value, but are kept beside it.
        for value, node in program:
            for argument in node.arguments:
                self.users.setdefault(argument, []).append(value)
        self.wanted = Counter(program.roots)

    def run(self) -> Program:
        for value, node in self.program:
            arguments = [self.copies[argument] for argument in node.arguments]
            self.copies[value] = self._copy(value, node, arguments)
        roots = [self.copies[root] for root in self.program.roots]
        count = len(self.program.outputs)
        return self.program.like(self.graph, roots[:count], roots[count:])

    def _copy(self, value: Value, node: Node, arguments: Sequence[Value]) -> Value:
        if node.operation == "slice":
            starts, steps, sizes = node.attributes
            depth = MOST_CHAINED if self._is_only_cut(node) else 0
            return self._slice(arguments[0], starts, steps, sizes, depth)
        if node.operation == "product":
            return self._product(arguments[0], arguments[1], node.attributes[0])
        if node.operation in ("reshape", "transpose", "broadcast"):
            return self._view(node, arguments[0])
        if node.operation == "pow":
            return self._power(*arguments)
        return self.graph.copy(node, arguments)

    def _power(self, base: Value, exponent: Value) -> Value:
        """A power, as what's cheaper where the exponent is a number of the usual ones."""
        node = self.graph[exponent]
        cheaper = _POWERS.get(node.attributes[0]) if node.operation == LITERAL else None
        if cheaper is None:
            return self.graph.add("pow", base, exponent)
        return self.graph.add(cheaper, base)

    def _is_only_cut(self, node: Node) -> bool:
        """Whether a slice's argument is used in slices alone."""
        (argument,) = node.arguments
        users = self.users.get(argument, ())
        only_slices = all(self.program.nodes[user].operation == "slice" for user in users)
        return only_slices and argument not in self.wanted

    def _slice(self, value: Value, starts: Shape, steps: Shape, sizes: Shape, depth: int) -> Value:
        """What lies at some places; taken of what is made of so many operations at the most."""
        key = (value, starts, steps, sizes, depth)
        if key not in self.cuts:
            self.cuts[key] = self._sliced(*key)
        return self.cuts[key]

    def _sliced(self, value: Value, starts: Shape, steps: Shape, sizes: Shape, depth: int) -> Value:
        graph, node = self.graph, self.graph[value]
        if (starts, steps, sizes) == ((0,) * len(sizes), (1,) * len(sizes), node.shape):
            return value
        if node.operation == "slice":
            first, step, _ = node.attributes
            starts = tuple(a + b * c for a, b, c in zip(first, starts, step, strict=True))
            steps = tuple(a * b for a, b in zip(step, steps, strict=True))
            return self._slice(node.arguments[0], starts, steps, sizes, depth)
        if node.operation == "assemble":
            for part, (at, by) in zip(node.arguments, node.attributes[1], strict=True):
                inner = _within(graph[part].shape, at, by, starts, steps, sizes)
                if inner is not None:
                    return self._slice(part, *inner, depth)
        known = operations().get(node.operation)
        is_cut_through = known is not None and known.is_elementwise and node.has_rows
        if depth and is_cut_through and not self._is_affine(value):
            parts = [
                self._slice_spread(each, starts, steps, sizes, depth - 1) for each in node.arguments
            ]
            return graph.add(node.operation, *parts, attributes=node.attributes)
        return graph.add("slice", value, attributes=(starts, steps, sizes))

    def _is_affine(self, value: Value) -> bool:
        """Whether one accumulator makes a value: products and a bias."""
        nodes = self.graph.nodes

        def terms(value: Value) -> list[Value]:
            is_told = value in self.affine or nodes[value].operation != "add"
            return [] if is_told else [a for a in nodes[value].arguments if nodes[a].has_rows]

        for each in reachable([value], terms):
            if each not in self.affine:
                is_sum = bool(terms(each)) and all(self.affine[term] for term in terms(each))
                self.affine[each] = is_sum or nodes[each].operation == "product"
        return self.affine[value]

    def _slice_spread(
        self, value: Value, starts: Shape, steps: Shape, sizes: Shape, depth: int
    ) -> Value:
        """A slice of an argument, which may be narrower than the result that is cut."""
        shape = self.graph[value].shape
        if not shape:
            return value
        cut = len(starts) - len(shape)
        axes = zip(shape, starts[cut:], steps[cut:], sizes[cut:], strict=True)
        wide = [(0, 1, 1) if size == 1 else (start, step, n) for size, start, step, n in axes]
        first, by, count = (tuple(part) for part in zip(*wide, strict=True))
        return self._slice(value, first, by, count, depth)

    def _product(self, a: Value, w: Value, transposed: bool) -> Value:
        graph, node = self.graph, self.graph[a]
        if node.operation != "assemble" or not _is_side_by_side(graph, node):
            return graph.add("product", a, w, attributes=(transposed,))
        matrix, total = graph[w].shape, None
        for part, (starts, _) in zip(node.arguments, node.attributes[1], strict=True):
            width = graph[part].shape[-1]
            at, size = (
                ((0, starts[-1]), (matrix[0], width))
                if transposed
                else (
                    (starts[-1], 0),
                    (width, matrix[1]),
                )
            )
            rows = graph.add("slice", w, attributes=(at, (1, 1), size))
            left = part if graph[part].has_rows else graph.add("rows", part)
            product = self._product(left, rows, transposed)
            total = product if total is None else graph.add("add", total, product)
        assert total is not None
        return total

    def _view(self, node: Node, value: Value) -> Value:
        graph, inner = self.graph, self.graph[value]
        if node.operation != "transpose" and node.shape == inner.shape:
            return value
        if node.operation == inner.operation == "reshape":
            return self._view(node, inner.arguments[0])
        return graph.add(node.operation, value, attributes=node.attributes)


def _is_side_by_side(graph: Graph, node: Node) -> bool:
    """Whether parts lie beside one another along the last axis, zeros between them or none."""
    shape, places = node.attributes
    return all(
        graph[part].shape[:-1] == shape[:-1] and set(steps) == {1}
        for part, (_, steps) in zip(node.arguments, places, strict=True)
    )


def _within(
    part: Shape, at: Shape, by: Shape, starts: Shape, steps: Shape, sizes: Shape
) -> tuple[Shape, Shape, Shape] | None:
    """Places of a whole as places of a part that lies in it; None where they're not all there."""
    if set(by) != {1}:
        return None
    inner = tuple(start - first for start, first in zip(starts, at, strict=True))
    axes = zip(inner, steps, sizes, part, strict=True)
    ends = ((start, start + (n - 1) * step, size) for start, step, n, size in axes)
    if all(0 <= first < size and 0 <= last < size for first, last, size in ends):
        return inner, steps, sizes
    return None


def _with_products_first(program: Program) -> Program:
    """Every sum with its products first, and what has no rows as one term, made of all such."""
    uses = Counter(argument for _, node in program for argument in node.arguments)
    uses.update(program.roots)
    nodes, graph = program.nodes, Graph()
    copies: dict[Value, Value] = {}

    def terms(value: Value, depth: int = 0) -> list[Value]:
        node = nodes[value]
        if node.operation == "add" and (not depth or uses[value] == 1) and depth < MOST_SUMMED:
            shapes = {nodes[argument].shape for argument in node.arguments}
            if shapes == {node.shape} or _is_bias(nodes, node):
                return [term for argument in node.arguments for term in terms(argument, depth + 1)]
        return [value]

    def order(term: Value) -> int:
        is_product = nodes[term].operation == "product" and uses[term] == 1
        return 0 if is_product else (2 if nodes[term].has_rows else 1)

    for value, node in program:
        found = [term for term in terms(value) if term != value]
        products, biases, rest = (
            [copies[term] for term in found if order(term) == kind] for kind in range(3)
        )
        if products or (rest and len(biases) > 1):
            bias = [_chain(graph, biases)] if biases else []
            # One accumulator makes products and a bias; a bias alone has fewer dimensions, mostly.
            copies[value] = _chain(graph, [*products, *bias, *rest] if products else [*rest, *bias])
        else:
            copies[value] = graph.copy(node, [copies[argument] for argument in node.arguments])
    outputs = [copies[value] for value in program.outputs]
    return program.like(graph, outputs, [copies[value] for value in program.states])


def _is_bias(nodes: Sequence[Node], node: Node) -> bool:
    """Whether one of two terms is a weight of the last axis alone."""
    a, b = (nodes[argument] for argument in node.arguments)
    wide, thin = (a, b) if a.has_rows else (b, a)
    return wide.shape == node.shape and not thin.has_rows and thin.shape == node.shape[-1:]


def _chain(graph: Graph, values: Sequence[Value]) -> Value:
    total = values[0]
    for value in values[1:]:
        total = graph.add("add", total, value)
    return total


def _with_weights_apart(program: Program) -> Prepared:
    """A program in which each value of weights alone, where rows meet it, is a weight itself."""
    nodes, graph = program.nodes, Graph()
    made: dict[Value, int] = {}
    copies: dict[Value, Value] = {}

    def weight(value: Value) -> Value:
        number = made.setdefault(value, len(made))
        return graph.leaf(WEIGHT, number, nodes[value].shape)

    for value, node in program:
        if not node.has_rows:
            continue
        arguments = []
        for argument in node.arguments:
            known = nodes[argument]
            if known.has_rows:
                arguments.append(copies[argument])
            elif known.operation == LITERAL:
                arguments.append(graph.literal(known.attributes[0]))
            else:
                arguments.append(weight(argument))
        copies[value] = graph.copy(node, arguments)
    shapes = tuple(nodes[value].shape for value in made)
    apart = program.like(
        graph,
        [copies[value] for value in program.outputs],
        [copies[value] for value in program.states],
        weight_shapes=shapes,
    )
    kept = reachable(tuple(made), lambda value: nodes[value].arguments)
    places = {value: place for place, value in enumerate(kept)}
    weights = tuple(
        replace(nodes[value], arguments=tuple(places[a] for a in nodes[value].arguments))
        for value in kept
    )
    return Prepared(apart, tuple(places[value] for value in made), weights)
