"""What a step is made of once its values have places: maps, products and outer products."""

from dataclasses import dataclass, field

from ostinato.programs.node import Shape, Value
from ostinato.programs.places import Place

STORE, SUM, ADD, LARGEST = range(4)  # how a map puts a value down


@dataclass
class Out:
    """Where a map puts a value, and how.

    Attributes:
        mode: One of the modes above.
        place: With a stride of 0 along axes that are reduced.
    """

    mode: int
    place: Place


@dataclass
class Item:
    """Something to do, after what it depends on.

    Attributes:
        after: Items that come before it.
        beside: Items whose values it reads just where it works itself: it may be done with them.
    """

    after: set[int] = field(default_factory=set)
    beside: set[int] = field(default_factory=set)


@dataclass
class Map(Item):
    """An elementwise expression over a shape.

    Attributes:
        shape: The shape.
        value: What it computes.
        outs: Where that goes.
    """

    shape: Shape = ()
    value: Value = -1
    outs: list[Out] = field(default_factory=list)


@dataclass
class Term:
    """A product with a weight.

    Attributes:
        place: The left operand, its middle axes as one.
        weight: The number of the operand that is the weight.
        transposed: Whether it's multiplied by the weight's transpose.
        sizes: m, K and N.
    """

    place: Place
    weight: int
    transposed: bool
    sizes: tuple[int, int, int]


@dataclass
class Products(Item):
    """A sum of products, and of a bias.

    Attributes:
        terms: The products.
        bias: Where the bias lies, if there is one.
        out: Where the sum goes, its middle axes as one.
    """

    terms: list[Term] = field(default_factory=list)
    bias: Place | None = None
    out: Place | None = None


@dataclass
class Outer(Item):
    """A weight's gradient: products of two values' elements, summed over rows.

    Attributes:
        left: (m, K).
        right: (m, N).
        sizes: m, K and N.
        out: Where it's added to.
    """

    left: Place | None = None
    right: Place | None = None
    sizes: tuple[int, int, int] = (0, 0, 0)
    out: Place | None = None
