"""A routine for inference, read from its encoding (native/core/routine/routine.h) into tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ostinato import native
from ostinato.routines import Dims, Routine

OPERAND, RESULT, CARRY, NEXT, SCRATCH, SAVED, SAVED_NEXT, LITERAL = range(8)  # spaces
SEQUENCE, ROWS, WEIGHT, MASK = range(4)  # kinds of operands
STORE, ADD_UP, ADD, LARGEST = range(4)  # modes of a MAP's outputs
ZEROS, WHAT_IS_THERE, BIAS = range(3)  # what a PRODUCT begins with
PRODUCT, _, MAP = range(1, 4)


class Place(NamedTuple):
    """Elements of a value: at offset + sum(stride * coordinate)."""

    space: int
    number: int
    offset: int
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Product:
    """out = what it begins with + a W, at each of `places`."""

    a: Place
    places: int
    depth: int
    columns: int
    weight: int
    transposed: bool
    out: Place
    begins: int
    bias: int
    bias_offset: int


@dataclass(frozen=True)
class Map:
    """Operations element by element over `dims`; of each output its register and mode."""

    dims: Dims
    inputs: tuple[Place, ...]
    operations: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[int, int, Place], ...]


class Tables:
    """What a routine says.

    Attributes:
        operands: The kind and the dims of each operand.
        carries: How many elements a row each carry has.
        arena: How many elements all scratch takes.
        offsets: Where in it each scratch value lies.
        body: The instructions of a timestep.
        idle: Those of a masked one; where there are none the body does that, too.
        literals: The numbers that it speaks of.
    """

    def __init__(self, routine: Routine) -> None:
        numbers = _Numbers(routine.ints)
        numbers.many(2)
        self.operands = [(numbers.many(2)[0], numbers.counted()) for _ in numbers.count()]
        for _ in numbers.count():  # results: the output, and the carries
            numbers.many(3)
            numbers.counted()
        self.carries = [numbers.many(3)[0] for _ in numbers.count()]
        for _ in numbers.count():
            numbers.many(2)
        self.offsets = [numbers.many(3)[1] for _ in numbers.count()]
        (self.arena,) = numbers.many(1)
        self.body, self.idle = _instructions(numbers), _instructions(numbers)
        self.literals = routine.floats


class _Numbers:
    def __init__(self, numbers: Sequence[int]) -> None:
        self._rest = iter(numbers)

    def many(self, count: int) -> tuple[int, ...]:
        return tuple(next(self._rest) for _ in range(count))

    def count(self) -> Iterator[int]:
        return iter(range(next(self._rest)))

    def counted(self) -> tuple[int, ...]:
        return self.many(next(self._rest))


def _instructions(numbers: _Numbers) -> list[Product | Map]:
    found: list[Product | Map] = []
    for _ in numbers.count():
        (code,) = numbers.many(1)
        payload = _Numbers(numbers.counted())
        if code not in (PRODUCT, MAP):
            raise ValueError(f"instruction {code} of a cell of one's own has no C")
        found.append(_product(payload) if code == PRODUCT else _map(payload))
    return found


def _product(numbers: _Numbers) -> Product:
    a = _place(numbers, 1)
    places, depth, columns, weight, transposed = numbers.many(5)
    out = _place(numbers, 1)
    begins, bias, bias_offset = numbers.many(3)
    return Product(
        *(a, places, depth, columns, weight, bool(transposed)),
        *(out, begins, bias, bias_offset),
    )


def _map(numbers: _Numbers) -> Map:
    dims, names = numbers.counted(), native.routine_operations()
    inputs = tuple(_place(numbers, len(dims)) for _ in numbers.count())
    operations = []
    for _ in numbers.count():
        code, *registers = numbers.many(4)
        operations.append((names[code], tuple(each for each in registers if each >= 0)))
    outputs = []
    for _ in numbers.count():
        register, mode = numbers.many(2)
        outputs.append((register, mode, _place(numbers, len(dims))))
    return Map(dims, inputs, tuple(operations), tuple(outputs))


def _place(numbers: _Numbers, rank: int) -> Place:
    space, number, offset = numbers.many(3)
    return Place(space, number, offset, numbers.many(rank))
