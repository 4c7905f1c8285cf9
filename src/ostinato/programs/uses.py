"""How the values of a step are used: what follows from its graph alone, before any has a place."""

from collections.abc import Collection, Mapping, Sequence

from ostinato.programs.graph import reachable
from ostinato.programs.node import LITERAL, Node, Value
from ostinato.programs.operations import operations
from ostinato.programs.places import Place

MOST_SUMMED = 32  # products in one accumulator
MOST_CHAINED = 48  # operations, each made of the one before


class Uses:
    """The values that a step needs.

    Attributes:
        nodes: The graph.
        given: Where those values lie that are given.
        order: All values that are needed, each after what it's made of.
        users: Of each value the values that are made of it.
        stored: The values that are put somewhere as they are.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        given: Mapping[Value, Place],
        wanted: Sequence[Value],
        stored: Collection[Value],
    ) -> None:
        self.nodes, self.given, self.stored = nodes, given, stored
        self._elementwise = {
            name for name, operation in operations().items() if operation.is_elementwise
        }
        self.order = reachable(wanted, self.arguments)
        self.users: dict[Value, list[Value]] = {}
        for value in self.order:
            for argument in self.arguments(value):
                self.users.setdefault(argument, []).append(value)

    def arguments(self, value: Value) -> tuple[Value, ...]:
        """What a value is made of, unless it's given."""
        node = self.nodes[value]
        if value in self.given:
            return ()
        return node.arguments[:1] if node.operation == "custom" else node.arguments

    def is_elementwise(self, value: Value) -> bool:
        """Whether an elementwise operation makes it."""
        return value not in self.given and self.nodes[value].operation in self._elementwise

    def is_sum_of_products(self, value: Value, depth: int = 0) -> bool:
        """Whether an accumulator takes it: products, each used here alone, and a bias."""
        node = self.nodes[value]
        is_own = len(self.users.get(value, ())) == 1 and value not in self.stored
        if value in self.given or (depth and not is_own) or depth > MOST_SUMMED:
            return False
        if node.operation == "product":
            return True
        if node.operation != "add":
            return False
        inner = [argument for argument in node.arguments if not self.is_bias(argument, node)]
        return (
            len(inner) >= 1
            and len(node.arguments) - len(inner) <= 1
            and all(
                self.nodes[each].shape == node.shape and self.is_sum_of_products(each, depth + 1)
                for each in inner
            )
            and self._biases(value) <= 1
        )

    def is_bias(self, value: Value, of: Node) -> bool:
        """Whether it's a weight of the last axis of a value that it's added to."""
        node = self.nodes[value]
        place = self.given.get(value)
        return (
            not node.has_rows
            and node.operation != LITERAL
            and place is not None
            and node.shape == of.shape[-1:]
        )

    def chain_ends(self) -> set[Value]:
        """The values at which a chain of operations is as long as is made at once."""
        depths: dict[Value, int] = {}
        found = set()
        for value in self.order:
            depth = 1 + max((depths[each] for each in self.arguments(value)), default=0)
            if depth >= MOST_CHAINED and self._can_end_a_chain(value):
                found.add(value)
                depth = 0
            depths[value] = min(depth, MOST_CHAINED - 1)
        return found

    def _can_end_a_chain(self, value: Value) -> bool:
        is_in_a_sum = any(self.is_sum_of_products(user) for user in self.users.get(value, ()))
        return self.is_elementwise(value) and self.nodes[value].has_rows and not is_in_a_sum

    def _biases(self, value: Value) -> int:
        node = self.nodes[value]
        if value in self.given or node.operation != "add":
            return 0
        return sum(
            1 if self.is_bias(argument, node) else self._biases(argument)
            for argument in node.arguments
        )
