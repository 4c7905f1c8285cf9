"""A graph whose negations move outwards: two of them vanish, and a sum of them is a difference."""

from typing import Any

from ostinato.programs.graph import Graph
from ostinato.programs.node import LITERAL, Value


class SignedGraph(Graph):
    """A graph that is asked for an operation and may give another one of the same value.

    Derivatives are full of signs, and each is a pass over memory: of LayerNormLSTM's way back 8 of
    45 operations of a gate.
    """

    def add(self, operation: str, *arguments: Value, attributes: tuple[Any, ...] = ()) -> Value:
        """See `Graph.add`."""
        rule = _RULES.get(operation)
        found = None if rule is None else rule(self, arguments, attributes)
        return super().add(operation, *arguments, attributes=attributes) if found is None else found

    def negated(self, value: Value) -> Value | None:
        """What a value is the negation of, or None."""
        node = self.nodes[value]
        return node.arguments[0] if node.operation == "neg" else None


def _neg(g: SignedGraph, arguments: tuple[Value, ...], _: Any) -> Value | None:
    (x,) = arguments
    if g[x].operation == LITERAL:
        return g.literal(-g[x].attributes[0])
    return g.negated(x)


def _add(g: SignedGraph, arguments: tuple[Value, ...], _: Any) -> Value | None:
    a, b = arguments
    minus_a, minus_b = g.negated(a), g.negated(b)
    if minus_b is not None:
        return g.add("sub", a, minus_b)
    return None if minus_a is None else g.add("sub", b, minus_a)


def _sub(g: SignedGraph, arguments: tuple[Value, ...], _: Any) -> Value | None:
    a, b = arguments
    minus_a, minus_b = g.negated(a), g.negated(b)
    if minus_b is not None:
        return g.add("add", a, minus_b)
    return None if minus_a is None else g.add("neg", g.add("add", minus_a, b))


def _factors(operation: str) -> Any:
    def rule(g: SignedGraph, arguments: tuple[Value, ...], _: Any) -> Value | None:
        a, b = arguments
        minus_a, minus_b = g.negated(a), g.negated(b)
        if minus_a is None and minus_b is None:
            return None
        plain = g.add(
            operation, a if minus_a is None else minus_a, b if minus_b is None else minus_b
        )
        return plain if minus_a is not None and minus_b is not None else g.add("neg", plain)

    return rule


def _of_sum(operation: str) -> Any:
    def rule(g: SignedGraph, arguments: tuple[Value, ...], attributes: Any) -> Value | None:
        minus = g.negated(arguments[0])
        if minus is None:
            return None
        return g.add("neg", g.add(operation, minus, attributes=attributes))

    return rule


_RULES = {
    "neg": _neg,
    "add": _add,
    "sub": _sub,
    "mul": _factors("mul"),
    "div": _factors("div"),
    "sum": _of_sum("sum"),
    "reshape": _of_sum("reshape"),
}
