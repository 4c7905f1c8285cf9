"""Items as instructions: maps over one shape that may be done together become one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ostinato import native
from ostinato.programs.items import Item, Map, Outer, Products
from ostinato.programs.lowered import Lowered, Scratch
from ostinato.programs.node import LITERAL, ProgramError, Shape, Value
from ostinato.programs.operations import operations
from ostinato.programs.places import NUMBER, SCRATCH, Place, aligned

PRODUCT, OUTER, MAP = 1, 2, 3  # the codes of native/core/routine/routine.h
MOST_AXES = 6
FROM_ZERO, ONTO, FROM_BIAS = range(3)  # how a product begins


@dataclass
class Instruction:
    """One instruction.

    Attributes:
        code: What it is.
        payload: What it says, with scratch and numbers by their places in the tables.
        reads: The scratch that it reads.
        writes: The scratch that it writes.
        shown: What it does, for people.
    """

    code: int
    payload: list[int]
    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    shown: str = ""


@dataclass
class Numbers:
    """The numbers that instructions mention, each once."""

    values: list[float] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def place(self, value: float) -> int:
        """Its place in the table."""
        place = self._places.setdefault(float.hex(value), len(self.values))  # -0.0 isn't 0.0
        if place == len(self.values):
            self.values.append(value)
        return place


@dataclass
class Listing:
    """A step's instructions.

    Attributes:
        instructions: In order.
        scratches: The memory that they use.
        shared: Elementwise values that more than one instruction computes.
    """

    instructions: list[Instruction]
    scratches: list[Scratch]
    shared: frozenset[Value]


def listing(lowered: Lowered, numbers: Numbers) -> Listing:
    """The instructions of a step's items."""
    groups = _grouped(lowered.items)
    emitted: Counter[Value] = Counter()
    instructions = []
    for group in groups:
        items = [lowered.items[number] for number in group]
        first = items[0]
        if isinstance(first, Map):
            maps = [item for item in items if isinstance(item, Map)]
            made = _MapWriter(lowered, numbers, first.shape)
            instructions.append(made.write(maps))
            emitted.update(made.inlined)
        elif isinstance(first, Products):
            instructions += _written_products(first)
        else:
            assert isinstance(first, Outer)
            instructions.append(_written_outer(first))
    shared = frozenset(value for value, count in emitted.items() if count > 1)
    return Listing(instructions, lowered.scratches, shared)


def _grouped(items: Sequence[Item]) -> list[list[int]]:
    """Items in groups, those of a group being maps over one shape; in an order that will do."""
    groups: list[list[int]] = []
    shapes: list[Shape | None] = []
    at: dict[int, int] = {}
    for number, item in enumerate(items):
        first = max((at[other] + 1 for other in item.after), default=0)
        first = max([first, *(at[other] for other in item.beside)])
        place = None
        if isinstance(item, Map):
            later = range(first, len(groups))
            place = next((each for each in later if shapes[each] == item.shape), None)
        if place is None:
            place = len(groups)
            groups.append([])
            shapes.append(item.shape if isinstance(item, Map) else None)
        groups[place].append(number)
        at[number] = place
    return groups


def _reference(place: Place, instruction: Instruction, *, writes: bool) -> list[int]:
    if place.space == SCRATCH:
        (instruction.writes if writes else instruction.reads).add(place.number)
    return [place.space, place.number, place.offset]


class _MapWriter:
    """Writes maps over one shape as one instruction.

    Attributes:
        inlined: The values without a place that it computes.
    """

    def __init__(self, lowered: Lowered, numbers: Numbers, shape: Shape) -> None:
        self.lowered, self.numbers, self.shape = lowered, numbers, shape
        self.codes = {name: code for code, name in enumerate(native.routine_operations())}
        self.instruction = Instruction(MAP, [])
        self.inputs: list[Place] = []
        self.steps: list[tuple[int, ...]] = []  # of operations: code, a, b, c
        self.registers: dict[Value, int] = {}  # of operations; those of inputs are negative
        self.inlined: set[Value] = set()
        self.made: set[Value] = set()

    def write(self, maps: Sequence[Map]) -> Instruction:
        outs: list[tuple[int, int, Place]] = []
        for item in maps:
            register = self._number(0.0) if item.value < 0 else self._value(item.value, top=item)
            outs += [(register, out.mode, out.place) for out in item.outs]
        strides = [place.strides for place in (*self.inputs, *(place for _, _, place in outs))]
        shape, strides = _merged(self.shape, strides)
        seen = iter(strides)
        payload = [len(shape), *shape, len(self.inputs)]
        for place in self.inputs:
            payload += [*_reference(place, self.instruction, writes=False), *next(seen)]
        payload.append(len(self.steps))
        for code, *operands in self.steps:
            payload += [code, *(self._final(each) for each in operands)]
        payload.append(len(outs))
        for register, mode, place in outs:
            reference = _reference(place, self.instruction, writes=True)
            payload += [self._final(register), mode, *reference, *next(seen)]
            if mode == 2 and place.space == SCRATCH:
                self.instruction.reads.add(place.number)
        self.instruction.payload = payload
        return self.instruction

    def _final(self, register: int | None) -> int:
        """A register's number: those of the inputs come first."""
        if register is None:
            return -1
        return -1 - register if register < 0 else len(self.inputs) + register

    def _input(self, place: Place) -> int:
        if place not in self.inputs:
            self.inputs.append(place)
        return -1 - self.inputs.index(place)

    def _number(self, value: float) -> int:
        return self._input(Place(NUMBER, self.numbers.place(value), 0, (0,) * len(self.shape)))

    def _value(self, value: Value, top: Map | None = None) -> int:
        """The register that holds a value."""
        if value in self.registers:
            return self.registers[value]
        node = self.lowered.nodes[value]
        if node.operation == LITERAL:
            return self._number(node.attributes[0])
        place = self._located(value)
        is_made_here = top is not None and self._is_made_by(value, top)
        if place is not None and not is_made_here:
            shape = self.lowered.nodes[value].shape
            if place.space == NUMBER:
                return self._number(self.lowered.nodes[place.number].attributes[0])
            return self._input(aligned(place, shape, self.shape))
        operands = [self._value(argument) for argument in node.arguments]
        padded = [*operands, None, None, None][:3]
        self.steps.append((self.codes[node.operation], *padded))  # type: ignore[arg-type]
        self.registers[value] = len(self.steps) - 1
        if not is_made_here:
            self.inlined.add(value)
        return self.registers[value]

    def _is_made_by(self, value: Value, item: Map) -> bool:
        makers = self.lowered.made_by.get(value, ())
        items = self.lowered.items
        known = operations().get(self.lowered.nodes[value].operation)
        makes_it = any(items[number] is item for number in makers)
        return makes_it and known is not None and known.is_elementwise

    def _located(self, value: Value) -> Place | None:
        return self.lowered.located(value)


def _merged(shape: Shape, strides: Sequence[Shape]) -> tuple[Shape, list[Shape]]:
    """A shape with axes made one that all values go through as one, and without those of size 1."""
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(
            mine and mine[-1] == size * step[axis]
            for mine, step in zip(steps, strides, strict=True)
        ):
            sizes[-1] *= size
            for mine, step in zip(steps, strides, strict=True):
                mine[-1] = step[axis]
            continue
        sizes.append(size)
        for mine, step in zip(steps, strides, strict=True):
            mine.append(step[axis])
    if len(sizes) > MOST_AXES:
        raise ProgramError(f"a value of {shape} takes more than {MOST_AXES} axes")
    return tuple(sizes), [tuple(mine) for mine in steps]


def _written_products(item: Products) -> list[Instruction]:
    assert item.out is not None
    written = []
    for number, term in enumerate(item.terms):
        made = Instruction(PRODUCT, [])
        begins = ONTO if number else (FROM_ZERO if item.bias is None else FROM_BIAS)
        bias = (item.bias.number, item.bias.offset) if begins == FROM_BIAS and item.bias else (0, 0)
        made.payload = [
            *_reference(term.place, made, writes=False),
            *term.place.strides,
            *term.sizes[:2],
            term.sizes[2],
            term.weight,
            int(term.transposed),
            *_reference(item.out, made, writes=True),
            *item.out.strides,
            begins,
            *bias,
        ]
        if number and item.out.space == SCRATCH:
            made.reads.add(item.out.number)
        written.append(made)
    return written


def _written_outer(item: Outer) -> Instruction:
    assert item.left is not None
    assert item.right is not None
    assert item.out is not None
    made = Instruction(OUTER, [])
    made.payload = [
        *_reference(item.left, made, writes=False),
        *item.left.strides,
        *_reference(item.right, made, writes=False),
        *item.right.strides,
        *item.sizes,
        item.out.number,
        item.out.offset,
    ]
    return made
