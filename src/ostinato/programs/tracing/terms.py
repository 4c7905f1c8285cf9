"""Values of a graph as Keras sees them: with the batch as their first axis, and Keras's axes.

A symbol's first axis is the batch, or, where rows are folded, `batch * fold`: what a cell gets by
`reshape(x, (-1, n))`. In the graph the rows lie in front by themselves, and `fold` is a dimension.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ostinato.programs.graph import Graph
from ostinato.programs.node import Shape, Value
from ostinato.programs.tracing.refusal import Untraceable


class Term(NamedTuple):
    """A value of a graph, and what Keras takes it for.

    Attributes:
        value: Its place in the graph.
        shape: The shape that Keras sees, with the traced batch.
        fold: How many rows of Keras's are one row of the graph; 0 of what has no rows.
    """

    value: Value
    shape: Shape
    fold: int

    @property
    def rank(self) -> int:
        """The number of axes that Keras sees."""
        return len(self.shape)


class Terms:
    """Makes terms of terms, in a graph.

    Attributes:
        graph: The graph.
        batch: The size of the traced batch.
    """

    def __init__(self, graph: Graph, batch: int) -> None:
        self.graph = graph
        self.batch = batch

    def add(self, operation: str, *values: Value, attributes: tuple[Any, ...] = ()) -> Value:
        """An operation's value."""
        return self.graph.add(operation, *values, attributes=attributes)

    # What shapes mean.

    def fold_of(self, shape: Sequence[int]) -> int:
        """How many of Keras's rows are one of the graph's, by a shape; 0 where it has none.

        Raises:
            Untraceable: The batch is in another axis than the first.
        """
        if any(size and size % self.batch == 0 for size in shape[1:]):
            raise Untraceable("the rows of the batch leave the first axis")
        if not shape or not shape[0] or shape[0] % self.batch:
            return 0
        return int(shape[0]) // self.batch

    def dims(self, shape: Sequence[int], fold: int) -> Shape:
        """The dimensions in the graph of what Keras sees as a shape."""
        if fold == 0:
            return tuple(shape)
        return tuple(shape[1:]) if fold == 1 else (fold, *shape[1:])

    def of(self, value: Value, fold: int) -> Term:
        """A value of the graph as a term."""
        dims = self.graph[value].shape
        if fold == 0:
            return Term(value, dims, 0)
        return Term(value, (self.batch * fold, *(dims if fold == 1 else dims[1:])), fold)

    def axis(self, term: Term, axis: int) -> int:
        """An axis of Keras's in the graph."""
        place = axis + term.rank if axis < 0 else axis
        if not 0 <= place < term.rank:
            raise Untraceable(f"there's no axis {axis} in a value of {term.rank} axes")
        if term.fold and place == 0:
            raise Untraceable("it mixes the rows of the batch")
        return place - 1 if term.fold == 1 else place

    def axes(self, term: Term, axes: Any) -> tuple[int, ...]:
        """Some axes of Keras's in the graph, or all where they're None."""
        if axes is None:
            axes = range(term.rank)
        if isinstance(axes, int):
            axes = (axes,)
        return tuple(sorted(self.axis(term, axis) for axis in axes))

    # Leaves.

    def literal(self, number: float) -> Term:
        """A number."""
        return Term(self.graph.literal(number), (), 0)

    def with_rows(self, term: Term) -> Term:
        """A term as one with rows, all alike where it had none: its shape gets the batch."""
        if term.fold:
            return term
        return self.of(self.add("rows", term.value), 1)

    # Elementwise.

    def apply(self, operation: str, *terms: Term) -> Term:
        """An elementwise operation."""
        rank = max(term.rank for term in terms)
        folds = {term.fold for term in terms if term.fold}
        if len(folds) > 1:
            raise Untraceable("it mixes the rows of the batch")
        values = [self._beside(term, rank, folds) for term in terms]
        return self.of(self.add(operation, *values), folds.pop() if folds else 0)

    def _beside(self, term: Term, rank: int, folds: set[int]) -> Value:
        if term.fold and term.rank != rank:
            raise Untraceable("it mixes the rows of the batch")
        if folds and not term.fold and term.rank == rank and 1 in folds:
            dims = self.graph[term.value].shape
            return self.graph_reshape(term.value, dims[1:])  # its first axis is 1
        return term.value

    def stopped(self, term: Term) -> Term:
        """A term without a gradient."""
        return self.of(self.add("stop_gradient", term.value), term.fold)

    def number(self, term: Term) -> float | None:
        """The number that a term is, or None."""
        node = self.graph[term.value]
        return float(node.attributes[0]) if node.operation == "literal" else None

    # Shapes.

    def graph_reshape(self, value: Value, dims: Sequence[int]) -> Value:
        """A value of the graph in other dimensions."""
        dims = tuple(int(size) for size in dims)
        if self.graph[value].shape == dims:
            return value
        node = self.graph[value]
        if node.operation == "reshape":
            return self.graph_reshape(node.arguments[0], dims)
        return self.add("reshape", value, attributes=(dims,))

    def reshape(self, term: Term, shape: Sequence[int]) -> Term:
        """A term in another shape of Keras's, in which one size may be -1."""
        sizes = [int(size) for size in shape]
        if -1 in sizes:
            rest = math.prod(size for size in sizes if size != -1)
            sizes[sizes.index(-1)] = math.prod(term.shape) // rest if rest else 0
        fold = self.fold_of(sizes)
        if bool(fold) != bool(term.fold):
            raise Untraceable("the rows of the batch leave the first axis")
        return self.of(self.graph_reshape(term.value, self.dims(sizes, fold)), fold)

    def transpose(self, term: Term, axes: Sequence[int]) -> Term:
        """A term with its axes, Keras's, in another order."""
        places = [axis % term.rank for axis in axes]
        if term.fold and places[0] != 0:
            raise Untraceable("the rows of the batch leave the first axis")
        if places == sorted(places):
            return term
        if term.fold == 1:
            places = [axis - 1 for axis in places[1:]]
        value = self.add("transpose", term.value, attributes=(tuple(places),))
        return self.of(value, term.fold)

    def broadcast(self, term: Term, shape: Sequence[int]) -> Term:
        """A term spread to a shape of Keras's."""
        fold = self.fold_of(shape)
        dims = self.dims(shape, fold)
        if fold and not term.fold:
            if term.rank == len(shape) and fold == 1:
                term = self.reshape(term, term.shape[1:])
            term = Term(self.add("rows", term.value), (), fold)
        value, own = term.value, self.graph[term.value].shape
        if term.fold and fold and term.shape and term.rank != len(shape):
            raise Untraceable("it mixes the rows of the batch")
        value = self.graph_reshape(value, (*(1,) * (len(dims) - len(own)), *own))
        if self.graph[value].shape != dims:
            value = self.add("broadcast", value, attributes=(dims,))
        return self.of(value, fold)

    def cut(
        self, term: Term, starts: Sequence[int], steps: Sequence[int], sizes: Sequence[int]
    ) -> Term:
        """Some places of a term, by the graph's axes."""
        at = (tuple(starts), tuple(steps), tuple(sizes))
        if at == ((0,) * len(starts), (1,) * len(starts), self.graph[term.value].shape):
            return term
        return self.of(self.add("slice", term.value, attributes=at), term.fold)

    def part(self, term: Term, axis: int, start: int, size: int, step: int = 1) -> Term:
        """Some places of one axis, Keras's."""
        place = self.axis(term, axis)
        dims = self.graph[term.value].shape
        starts, steps, sizes = [0] * len(dims), [1] * len(dims), list(dims)
        starts[place], steps[place], sizes[place] = start, step, size
        return self.cut(term, starts, steps, sizes)

    def joined(self, terms: Sequence[Term], axis: int) -> Term:
        """Terms one after the other along an axis, Keras's."""
        terms = self.alike(terms)
        if len(terms) == 1:
            return terms[0]
        place = self.axis(terms[0], axis)
        shapes = [self.graph[term.value].shape for term in terms]
        whole, starts = list(shapes[0]), []
        whole[place] = 0
        for shape in shapes:
            starts.append(tuple(whole[place] if at == place else 0 for at in range(len(whole))))
            whole[place] += shape[place]
        ones = (1,) * len(whole)
        return self.assembled(terms, whole, [(start, ones) for start in starts])

    def assembled(self, terms: Sequence[Term], dims: Sequence[int], places: Sequence[Any]) -> Term:
        """Parts in a value of zeros, by the graph's axes."""
        values = [term.value for term in terms]
        value = self.add("assemble", *values, attributes=(tuple(dims), tuple(places)))
        return self.of(value, max(term.fold for term in terms))

    def alike(self, terms: Sequence[Term]) -> list[Term]:
        """Terms of which each has rows, if one does."""
        folds = {term.fold for term in terms if term.fold}
        if len(folds) > 1:
            raise Untraceable("it mixes the rows of the batch")
        if not folds:
            return list(terms)
        if any(not term.fold for term in terms):
            raise Untraceable("it joins what has rows to what has none")
        return list(terms)

    # Reductions.

    def reduce(self, operation: str, term: Term, axes: Any, keepdims: bool = False) -> Term:
        """A sum or maximum over some axes, Keras's."""
        places = self.axes(term, axes)
        dims = self.graph[term.value].shape
        value = term.value
        if places:
            value = self.add(operation, term.value, attributes=(places,))
        if keepdims:
            value = self.graph_reshape(
                value, [1 if at in places else size for at, size in enumerate(dims)]
            )
        return self.of(value, term.fold)

    def count(self, term: Term, axes: Any) -> int:
        """How many elements a reduction takes together."""
        dims = self.graph[term.value].shape
        return math.prod(dims[place] for place in self.axes(term, axes))
