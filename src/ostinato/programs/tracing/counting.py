"""Whole numbers and booleans in programs of floats: where a float says them, and where not.

A float32 counts to 2**24. What is known to hold small numbers may be counted with; numbers that a
caller gave may be of any size, and are only looked up, compared with small ones, or made floats.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ostinato.programs.graph import Graph, reachable
from ostinato.programs.node import LITERAL, WEIGHT, Node, Value
from ostinato.programs.tracing.preparing import Preparation
from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.terms import Term, Terms

# Of whole numbers these make larger ones; a float counts to 2**24.
_COUNTING = {"Add", "Subtract", "Multiply", "Square", "Power", "Sum", "Prod", "Cumsum"}
_COUNTING |= {"Matmul", "Dot", "Einsum", "Tensordot", "FloorDivide"}
# What whole numbers of any size may be given to: it comes out the same of the float next to them.
_OF_ANY_SIZE = {"Take", "TakeAlongAxis", "OneHot", "Cast", "GetItem", "Reshape", "Transpose"}
_OF_ANY_SIZE |= {"ExpandDims", "Squeeze", "BroadcastTo"}
_COUNTED = 2**24  # what a float32 counts to
_COMPARISONS = {"Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual"}
_PLACES = {"slice", "reshape", "transpose", "broadcast", "assemble", "rows"}

# What gives whole numbers, and what does if it's given such.
_TRUTHS = {"gt", "ge", "lt", "le", "eq", "ne", "isnan", "isinf", "isfinite"}
_TRUTHS |= {"logical_and", "logical_or", "logical_xor", "logical_not"}
_WHOLE = {*_TRUTHS, "sign"}
_WHOLE_OF_WHOLE = {"add", "sub", "mul", "max", "min", "select", "sum", "amax", "neg", "abs"}
_WHOLE_OF_WHOLE |= {"square", "mod", "floordiv", "stop_gradient"}
_WHOLE_OF_WHOLE |= _PLACES


class Counting(Terms):
    """Terms of which is known whether they hold whole numbers, and how large.

    Attributes:
        preparation: What is computed before the loop.
        prepared: The number in it of each value of the graph that it gives.
    """

    def __init__(self, graph: Graph, batch: int) -> None:
        super().__init__(graph, batch)
        self.preparation = Preparation()
        self.prepared: dict[Value, int] = {}
        self._whole: dict[Value, bool] = {}
        self._of_any_size: set[Value] = set()

    def note_dtype(self, value: Value, dtype: str) -> None:
        """Notes of a leaf whether it holds booleans, or whole numbers; small ones may overflow."""
        if "float" not in dtype:
            self._whole[value] = dtype == "bool"
            self._of_any_size.update([] if dtype == "bool" else [value])

    def need_small(self, name: str, operands: list[Term], args: Iterable[Term]) -> None:
        """Refuses whole numbers of any size where another float than theirs would matter."""
        if not any(map(self.is_of_any_size, operands)) or name in _OF_ANY_SIZE:
            return
        compared = args if name in _COMPARISONS else ()
        beside = [term for term in compared if not self.is_of_any_size(term)]
        if not any(map(self._is_small, beside)):
            raise Untraceable("its whole numbers may be larger than a float can count")

    def _is_small(self, term: Term) -> bool:
        number = self.number(term)
        return self.is_whole(term) and (number is None or abs(number) < _COUNTED)

    def is_truth(self, term: Term) -> bool:
        """Whether a term is surely 0 or 1 everywhere: it's compared or combined just there."""
        return self.graph[term.value].operation in _TRUTHS

    def is_of_any_size(self, term: Term) -> bool:
        """Whether a term holds whole numbers that a caller gave: any that there are."""
        value = term.value
        while self.graph[value].operation in _PLACES:
            value = self.graph[value].arguments[0]
        return value in self._of_any_size

    def need_whole(self, name: str, dtype: str, result: Term) -> None:
        """Refuses what counts on from numbers that aren't known to be small and whole."""
        if "int" in dtype and name in _COUNTING and not self.is_whole(result):
            raise Untraceable("its whole numbers may be larger than a float can count")

    def is_whole(self, term: Term) -> bool:
        """Whether a term is known to hold small whole numbers: booleans, counts, places."""
        for value in reachable([term.value], lambda value: self._counted(self.graph[value])):
            if value not in self._whole:
                self._whole[value] = self._is_whole(value)
        return self._whole[term.value]

    def whole(self, term: Term) -> Term:
        """A term that holds small whole numbers, however they were come by."""
        self._whole[term.value] = True
        return term

    def _counted(self, node: Node) -> Sequence[Value]:
        """What has to be whole that a node's value is."""
        if node.operation not in _WHOLE_OF_WHOLE:
            return ()
        return node.arguments[1:] if node.operation == "select" else node.arguments

    def _is_whole(self, value: Value) -> bool:
        node = self.graph[value]
        if node.operation == LITERAL:
            return float(node.attributes[0]).is_integer()
        if node.operation == WEIGHT:
            source = self.preparation.sources.get(self.prepared[value])
            array = None if source is None else source.array
            return array is not None and bool((array == np.trunc(array)).all())
        counted = self._counted(node)
        of_whole = bool(counted) and all(self._whole[part] for part in counted)
        return node.operation in _WHOLE or of_whole
