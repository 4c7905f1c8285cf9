"""A step as scalars of one unit: what a thread of the kernel computes for one row and one unit.

The largest state has U elements, one a unit. A value of more is several scalars of each unit, the
last of which only some units have; a value of one element is a scalar that all units share. Only
products and reductions see other units: all blocks share their arguments first, and meet. What a
step computes between two such meetings is a section.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ostinato.programs.node import LITERAL, WEIGHT, Node, ProgramError, Value
from ostinato.programs.operations import operations
from ostinato.programs.places import VIEWS

# How an operand's address depends on the timestep t, the row r, and the element i:
STEPS = "steps"  # (B, T, width)
OUTPUTS = "outputs"  # the same, or (B, width) where only the last timestep counts
ROWS = "rows"  # (B, width)
VECTOR = "vector"  # (width,)
FLAGS = "flags"  # (B, T), the mask
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
        operation: An elementwise operation, or "read", "product", "reduction" or "literal".
        arguments: The names of scalars, of an operation.
        section: When it's known: after so many meetings.
        source: Of what is read, from where.
        number: Of a product or reduction which; of a literal its value.
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
        rows: The elements of its left side: the last piece may have fewer than U.
        width: The elements of its result.
        weight: The operand that holds the weights.
        pitch: The length of their rows.
        transposed: Whether their columns are the left side's elements.
        columns: From which column on each of its results is, U elements each.
        section: After so many meetings its left side is known.
    """

    pieces: tuple[str, ...]
    rows: int
    width: int
    weight: int
    pitch: int
    transposed: bool
    columns: tuple[int, ...]
    section: int


@dataclass(frozen=True)
class Reduction:
    """The sum, or the largest, of a value's elements.

    Attributes:
        operation: "add" or "max": of two elements.
        pieces: The scalars of each unit that make the value, U elements each.
        rows: Its elements: the last piece may have fewer than U.
        section: After so many meetings they're known.
    """

    operation: str
    pieces: tuple[str, ...]
    rows: int
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
        reductions: The reductions.
        carries: The new value of each carry.
        writes: What is put down.
    """

    units: int
    statements: tuple[Statement, ...]
    products: tuple[Product, ...]
    reductions: tuple[Reduction, ...]
    carries: tuple[str, ...]
    writes: tuple[Write, ...]

    @property
    def across(self) -> tuple[Product | Reduction, ...]:
        """What sees other units."""
        return (*self.products, *self.reductions)

    @cached_property
    def lasting(self) -> tuple[str, ...]:
        """The scalars that a later section uses: they stay in registers while units meet."""
        of = {statement.name: statement for statement in self.statements}
        found: dict[str, None] = {}
        for statement in self.statements:
            for name in statement.arguments:
                if of[name].section < statement.section:
                    found[name] = None
        for each in self.across:
            found.update((name, None) for name in each.pieces if of[name].section < each.section)
        last = self.sections - 1
        found.update((name, None) for name in self.carries if of[name].section < last)
        return tuple(name for name in found if of[name].operation != "literal")

    @property
    def sections(self) -> int:
        """How many sections a timestep has: one more than meetings."""
        return 1 + max((statement.section for statement in self.statements), default=0)


def offsets_of(width: int, units: int) -> list[Offset]:
    """Where each of a value's scalars begins; of the last, units beyond the width have none."""
    return [None] if width == 1 and units != 1 else list(range(0, width, units))


class Steps:
    """Makes a step of a graph's wanted values."""

    def __init__(self, nodes: Sequence[Node], units: int, located: Located) -> None:
        self.nodes, self.units, self.located = nodes, units, located
        self.wanted: dict[Value, dict[Offset, None]] = {}

    def want(self, value: Value) -> list[Lane]:
        """All scalars of a value, which are computed then."""
        lanes = offsets_of(self._width(value), self.units)
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
            return self._pieces(self._left_side(node))
        if self._is_reduction(node):
            return self._pieces(node.arguments[0])
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

    def _pieces(self, value: Value) -> list[Lane]:
        return [(value, offset) for offset in offsets_of(self._width(value), self.units)]

    def _left_side(self, node: Node) -> Value:
        left, weight = node.arguments
        if self.nodes[weight].operation != WEIGHT:
            raise ProgramError("it multiplies by weights that it computes at every timestep")
        if len(node.shape) != 1:
            raise ProgramError("it multiplies several rows of elements for each row of the batch")
        return left

    def _is_reduction(self, node: Node) -> bool:
        """Whether a node has one element of many; other sums and such are views."""
        is_one = self._width_of(node.shape) == 1
        return node.operation in _REDUCTIONS and is_one and self._width(node.arguments[0]) > 1

    def _seen_through(self, value: Value, offset: Offset) -> Lane | None:
        """What a view's scalar is; None where it's zero."""
        node = self.nodes[value]
        if node.operation == "assemble":
            return self._part(node, offset)
        is_view = node.operation in VIEWS and node.operation not in ("transpose", "windows")
        if not is_view and node.operation not in _REDUCTIONS:
            raise ProgramError(f"its {node.operation} moves values from unit to unit")
        argument = node.arguments[0]
        if node.operation == "slice":
            return self._slice(node, offset)
        if self._width(argument) not in (1, self._width(value)):
            raise ProgramError(f"its {node.operation} moves values from unit to unit")
        return self._aligned(argument, offset)

    def _slice(self, node: Node, offset: Offset) -> Lane:
        (argument,), (starts, steps, _) = node.arguments, node.attributes
        if len(starts) != 1 or (steps[0] != 1 and offset is not None):
            raise ProgramError("its slice moves values from unit to unit")
        if offset is not None:
            return argument, starts[0] + offset
        if self._width(argument) == 1:
            return argument, None
        raise ProgramError("it takes one element of many, which all units would need")

    def _part(self, node: Node, offset: Offset) -> Lane | None:
        shape, places = node.attributes
        if len(shape) != 1 or offset is None:
            raise ProgramError("it puts parts together that are more than rows of units")
        for part, (starts, steps) in zip(node.arguments, places, strict=True):
            width = self._width(part)
            first, last = starts[0], starts[0] + (width - 1) * steps[0]
            if steps[0] == 1 and first <= offset and min(offset + self.units, shape[0]) - 1 <= last:
                return part, offset - first
            if min(first, last) < offset + self.units and offset <= max(first, last):
                raise ProgramError("it puts parts together that don't begin where the units do")
        return None

    def _width(self, value: Value) -> int:
        return self._width_of(self.nodes[value].shape)

    @staticmethod
    def _width_of(shape: tuple[int, ...]) -> int:
        if sum(size != 1 for size in shape) > 1:
            raise ProgramError(f"it computes values of several dimensions, {shape} for each row")
        return max(shape, default=1)

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
        elif self._is_reduction(node):
            pieces = tuple(made.names[lane] for lane in self._pieces(node.arguments[0]))
            rows = self._width(node.arguments[0])
            made.reduced((value, offset), name, _REDUCTIONS[node.operation], pieces, rows)
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
        node = self.nodes[value]
        left, weight = node.arguments
        lanes = self._pieces(left)
        if offset is None or lanes == [(left, None)]:
            self._say_thin_product(made, (value, offset), name, lanes)
            return
        pieces = tuple(made.names[lane] for lane in lanes)
        section = max(made.section[piece] for piece in pieces)
        columns = [at for at in self.wanted[value] if at is not None]
        if value not in made.products:
            source = self.located(weight, 0)
            assert source is not None
            pitch, transposed = self.nodes[weight].shape[1], bool(node.attributes[0])
            sizes = self._width(left), self._width(value), source.number, pitch
            made.products[value] = Product(pieces, *sizes, transposed, tuple(columns), section)
        number, column = list(made.products).index(value), columns.index(offset)
        statement = Statement(name, "product", section=section + 1, number=number, column=column)
        made.add((value, offset), statement)

    def _say_thin_product(self, made: "Made", lane: Lane, name: str, lanes: Sequence[Lane]) -> None:
        """A product by one row of weights, or one column: no tiles are multiplied then."""
        value, offset = lane
        source = self.located(self.nodes[value].arguments[1], 0)
        assert source is not None
        is_row = lanes[0][1] is None
        width = self._width(value if is_row else lanes[0][0])
        terms = []
        for piece, at in [(lanes[0], offset)] if is_row else [(each, each[1]) for each in lanes]:
            left, weight = made.names[piece], f"{name}_w{at or 0}"
            read = Source(VECTOR, source.number, width, at)
            made.say(Statement(weight, "read", source=read))
            term = Statement(f"{name}_t{at or 0}", "mul", (left, weight), made.section[left])
            terms.append(made.say(term))
        if is_row:
            made.names[lane] = terms[0]
        else:
            made.reduced(lane, name, "add", tuple(terms), width)


# What is reduced across the units: by which operation of two elements.
_REDUCTIONS = {"sum": "add", "amax": "max"}


@dataclass
class Made:
    """The scalars of a step.

    Attributes:
        statements: In order.
        names: Of each scalar of a value its name.
        section: Of each name when it's known.
        products: The products, by their values.
        reductions: The reductions.
    """

    statements: list[Statement] = field(default_factory=list)
    names: dict[Lane, str] = field(default_factory=dict)
    section: dict[str, int] = field(default_factory=dict)
    products: dict[Value, Product] = field(default_factory=dict)
    reductions: list[Reduction] = field(default_factory=list)

    def add(self, lane: Lane, statement: Statement) -> None:
        """One more."""
        self.names[lane] = self.say(statement)

    def say(self, statement: Statement) -> str:
        """One that is no value's, and its name."""
        self.statements.append(statement)
        self.section[statement.name] = statement.section
        return statement.name

    def zero(self) -> str:
        """The name of a zero."""
        if "zero" not in self.section:
            self.statements.append(Statement("zero", "literal"))
            self.section["zero"] = 0
        return "zero"

    def reduced(
        self, lane: Lane, name: str, operation: str, pieces: tuple[str, ...], rows: int
    ) -> None:
        """A reduction, and the scalar that it gives."""
        section = max(self.section[piece] for piece in pieces)
        number = len(self.reductions)
        self.reductions.append(Reduction(operation, pieces, rows, section))
        self.add(lane, Statement(name, "reduction", section=section + 1, number=number))
