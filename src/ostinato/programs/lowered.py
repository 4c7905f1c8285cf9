"""A step between its graph and its instructions: what is wanted of it, and what it has come to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ostinato.programs.items import Item
from ostinato.programs.node import Node, Value
from ostinato.programs.places import VIEWS, Place, seen_as


@dataclass(frozen=True)
class Wanted:
    """A value that has to be somewhere at the end of a step.

    Attributes:
        value: The value.
        place: Where: all of it, in order.
        adds: Whether it's added to what is there.
    """

    value: Value
    place: Place
    adds: bool = False


@dataclass
class Scratch:
    """Memory of a step.

    Attributes:
        size: Elements a row.
        lasts: Whether it's read again some steps later.
    """

    size: int
    lasts: bool = False


@dataclass
class Lowered:
    """A step as items.

    Attributes:
        nodes: The graph.
        items: What to do, in an order.
        places: Where values lie that have a place.
        scratches: The memory that some of them lie in.
        made_by: The items that make each value that has a place.
    """

    nodes: Sequence[Node]
    items: list[Item] = field(default_factory=list)
    places: dict[Value, Place] = field(default_factory=dict)
    scratches: list[Scratch] = field(default_factory=list)
    made_by: dict[Value, set[int]] = field(default_factory=dict)

    def located(self, value: Value) -> Place | None:
        """Where a value lies, if it does, or what it's a view of."""
        if value in self.places:
            return self.places[value]
        node = self.nodes[value]
        if node.operation not in VIEWS:
            return None
        base = self.located(node.arguments[0])
        return None if base is None else seen_as(base, self.nodes[node.arguments[0]].shape, node)
