"""A step as scalars of one unit: what a thread of the kernel computes for one row and one unit.

A state has U elements, one a unit. A value of k U elements is k scalars of each unit, and a value
of one element is a scalar that all units share. Only products see other units: all blocks share
their left sides first, and meet. What a step computes between two such meetings is a section.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ostinato.programs.node import LITERAL, WEIGHT, Node, ProgramError, Value
from ostinato.programs.operations import operations
from ostinato.programs.places import VIEWS

# How an operand's address depends on the timestep t, the row r, and the element i:
STEPS = "steps"  # (T, B, width)
OUTPUTS = "outputs"  # the same, or (B, width) where only the last timestep counts
ROWS = "rows"  # (B, width)
VECTOR = "vector"  # (width,)
FLAGS = "flags"  # (T, B), the mask
CARRY = "carry"  # no memory: what the step before has left

Offset = int | None  # the first unit's element; None of what all units share
Lane = tuple[Value, Offset]


class Source(NamedTuple):
    """Where the elements of a value lie.

    Attributes:
        kind: How they're addressed.
        number: Which operand, or which carry.
        width: Elements of a row.
        offset: The first unit's element; None where all units share one.
    """

    kind: str
    number: int
    width: int
    offset: Offset


Located = Callable[[Value, Offset], Source | None]


@dataclass(frozen=True)
class Statement:
    """One scalar.

    Attributes:
        name: What it's called.
        operation: An elementwise operation, or "read", "product" or "literal".
        arguments: The names of scalars, of an operation.
        section: When it's known: after so many meetings.
        source: Of what is read, from where.
        number: Of a product which; of a literal its value.
        column: Of a product which of its results, U elements each.
    """

    name: str
    operation: str
    arguments: tuple[str, ...] = ()
    section: int = 0
    source: Source | None = None
    number: float = 0.0
    column: int = 0


@dataclass(frozen=True)
class Product:
    """One product of the step.

    Attributes:
        pieces: The scalars of each unit that make its left side, U elements each.
        weight: The operand that holds the weights.
        pitch: The length of their rows.
        transposed: Whether their columns are the left side's elements.
        columns: From which column on each of its results is, U elements each.
        section: After so many meetings its left side is known.
    """

    pieces: tuple[str, ...]
    weight: int
    pitch: int
    transposed: bool
    columns: tuple[int, ...]
    section: int


class Write(NamedTuple):
    """A scalar that is put down.

    Attributes:
        scalar: Its name.
        source: Where: `number` counts the results.
    """

    scalar: str
    source: Source


@dataclass(frozen=True)
class Step:
    """What the kernel does at a timestep.

    Attributes:
        units: Elements of a state.
        statements: The scalars, each after those that it's made of.
        products: The products.
        carries: The new value of each carry.
        writes: What is put down.
    """

    units: int
    statements: tuple[Statement, ...]
    products: tuple[Product, ...]
    carries: tuple[str, ...]
    writes: tuple[Write, ...]

    @property
    def sections(self) -> int:
        """How many sections a timestep has: one more than meetings."""
        return 1 + max((statement.section for statement in self.statements), default=0)


def offsets_of(width: int, units: int, what: str) -> list[Offset]:
    """Where each of a value's scalars begins.

    Raises:
        ProgramError: The width isn't so many units.
    """
    if width == 1 and units != 1:
        return [None]
    if width % units:
        raise ProgramError(f"{what} has {width} elements, which are no multiple of {units} units")
    return list(range(0, width, units))


class Steps:
    """Makes a step of a graph's wanted values."""

    def __init__(self, nodes: Sequence[Node], units: int, located: Located) -> None:
        self.nodes, self.units, self.located = nodes, units, located
        self.wanted: dict[Value, dict[Offset, None]] = {}

    def want(self, value: Value) -> list[Lane]:
        """All scalars of a value, which are computed then."""
        lanes = offsets_of(self._width(value), self.units, self._name(value))
        for offset in lanes:
            self.want_lane(value, offset)
        return [(value, offset) for offset in lanes]

    def want_lane(self, value: Value, offset: Offset) -> None:
        """One scalar of a value."""
        self.wanted.setdefault(value, {})[offset] = None

    def made(self) -> "Made":
        """The scalars of all that is wanted, and what they're made of."""
        for value in reversed(range(len(self.nodes))):
            for offset in list(self.wanted.get(value, ())):
                for argument, at in self._made_of(value, offset):
                    self.want_lane(argument, at)
        made = Made()
        for value in sorted(self.wanted):
            for offset in self.wanted[value]:
                self._say(made, value, offset)
        return made

    # What a scalar is made of.

    def _made_of(self, value: Value, offset: Offset) -> list[Lane]:
        node = self.nodes[value]
        if node.operation == LITERAL or self.located(value, offset) is not None:
            return []
        if node.operation == "product":
            return self._pieces(node)
        if self._is_elementwise(node):
            return [self._aligned(argument, offset) for argument in node.arguments]
        found = self._seen_through(value, offset)
        return [] if found is None else [found]

    def _is_elementwise(self, node: Node) -> bool:
        known = operations().get(node.operation)
        return known is not None and known.is_elementwise

    def _aligned(self, argument: Value, offset: Offset) -> Lane:
        """An argument's scalar: all units share what has one element."""
        width = self._width(argument)
        return argument, None if width == 1 and self.units != 1 else offset

    def _pieces(self, node: Node) -> list[Lane]:
        left, weight = node.arguments
        if self.nodes[weight].operation != WEIGHT:
            raise ProgramError("a product by weights that are computed at every timestep")
        if len(node.shape) != 1:
            raise ProgramError("products of more than a row of elements")
        width = self._width(left)
        lanes = offsets_of(width, self.units, "a product's left side")
        if None in lanes:
            raise ProgramError("a product with one element")
        return [(left, offset) for offset in lanes]

    def _seen_through(self, value: Value, offset: Offset) -> Lane | None:
        """What a view's scalar is; None where it's zero."""
        node = self.nodes[value]
        if node.operation == "assemble":
            return self._part(node, offset)
        if node.operation not in VIEWS or node.operation in ("transpose", "windows"):
            raise ProgramError(f"{node.operation} goes across the units")
        argument = node.arguments[0]
        if node.operation == "slice":
            return self._slice(node, offset)
        if self._width(argument) not in (1, self._width(value)):
            raise ProgramError(f"{node.operation} goes across the units")
        return self._aligned(argument, offset)

    def _slice(self, node: Node, offset: Offset) -> Lane:
        (argument,), (starts, steps, _) = node.arguments, node.attributes
        if len(starts) != 1 or (steps[0] != 1 and offset is not None):
            raise ProgramError("a slice goes across the units")
        if offset is not None:
            return argument, starts[0] + offset
        if self._width(argument) == 1:
            return argument, None
        raise ProgramError("one element of a value of many is taken")

    def _part(self, node: Node, offset: Offset) -> Lane | None:
        shape, places = node.attributes
        if len(shape) != 1 or offset is None:
            raise ProgramError("parts are put together across the units")
        for part, (starts, steps) in zip(node.arguments, places, strict=True):
            width = self._width(part)
            first, last = starts[0], starts[0] + (width - 1) * steps[0]
            if steps[0] == 1 and first <= offset and offset + self.units - 1 <= last:
                return part, offset - first
            if min(first, last) < offset + self.units and offset <= max(first, last):
                raise ProgramError("parts are put together within the units")
        return None

    def _width(self, value: Value) -> int:
        shape = self.nodes[value].shape
        if sum(size != 1 for size in shape) > 1:
            raise ProgramError(f"values of more than one dimension: {shape}")
        return max(shape, default=1)

    def _name(self, value: Value) -> str:
        node = self.nodes[value]
        return node.operation

    # The statements.

    def _say(self, made: "Made", value: Value, offset: Offset) -> None:
        node, lane = self.nodes[value], (value, offset)
        name = f"v{value}" if offset is None else f"v{value}_{offset}"
        source = self.located(value, offset)
        if source is not None:
            made.add(lane, Statement(name, "read", source=source))
        elif node.operation == LITERAL:
            made.add(lane, Statement(name, "literal", number=node.attributes[0]))
        elif node.operation == "product":
            self._say_product(made, value, offset, name)
        elif self._is_elementwise(node):
            arguments = [made.names[lane] for lane in self._made_of(value, offset)]
            section = max(made.section[argument] for argument in arguments)
            made.add(lane, Statement(name, node.operation, tuple(arguments), section))
        else:
            found = self._seen_through(value, offset)
            if found is None:
                made.add(lane, Statement(name, "literal"))
            else:
                made.names[lane] = made.names[found]

    def _say_product(self, made: "Made", value: Value, offset: Offset, name: str) -> None:
        if offset is None:
            raise ProgramError("a product with one result")
        node = self.nodes[value]
        pieces = tuple(made.names[lane] for lane in self._pieces(node))
        section = max(made.section[piece] for piece in pieces)
        columns = [at for at in self.wanted[value] if at is not None]
        if value not in made.products:
            weight = node.arguments[1]
            source = self.located(weight, 0)
            assert source is not None
            pitch, transposed = self.nodes[weight].shape[1], bool(node.attributes[0])
            made.products[value] = Product(
                pieces, source.number, pitch, transposed, tuple(columns), section
            )
        number, column = list(made.products).index(value), columns.index(offset)
        statement = Statement(name, "product", section=section + 1, number=number, column=column)
        made.add((value, offset), statement)


@dataclass
class Made:
    """The scalars of a step.

    Attributes:
        statements: In order.
        names: Of each scalar of a value its name.
        section: Of each name when it's known.
        products: The products, by their values.
    """

    statements: list[Statement] = field(default_factory=list)
    names: dict[Lane, str] = field(default_factory=dict)
    section: dict[str, int] = field(default_factory=dict)
    products: dict[Value, Product] = field(default_factory=dict)

    def add(self, lane: Lane, statement: Statement) -> None:
        """One more."""
        self.statements.append(statement)
        self.names[lane] = statement.name
        self.section[statement.name] = statement.section

    def zero(self) -> str:
        """The name of a zero."""
        if "zero" not in self.section:
            self.statements.append(Statement("zero", "literal"))
            self.section["zero"] = 0
        return "zero"
