"""A pass in a layout as CUDA C++: its step's text, around what kernel.cuh has for all of them."""

import functools
import math
import struct
from collections.abc import Sequence
from importlib.resources import files

from ostinato.cuda.layout import Layout
from ostinato.cuda.passes import Pass
from ostinato.cuda.units import CARRY, FLAGS, OUTPUTS, ROWS, STEPS, VECTOR, Source, Statement
from ostinato.programs.node import D_STATE, STATE

ENTRY = "ostinato_run"
_BARRIERS = ("BLOCK_BARRIER", "CLUSTER_BARRIER", "GRID_BARRIER")


@functools.cache
def _text(name: str) -> str:
    return files("ostinato.cuda").joinpath(name).read_text("utf-8")


def source(passed: Pass, layout: Layout, three_products: bool = True) -> str:
    """The text of a pass's kernel, whose name is ENTRY.

    Args:
        passed: The pass.
        layout: How it's laid out.
        three_products: Whether products of float32 have its precision, by three products of TF32
            each, or TF32's by one.
    """
    parts = [
        *_constants(passed, layout, three_products),
        _text("kernel.cuh"),
        _text("operations.cuh"),
        *_Writer(passed, layout).lines(),
        _text("recurrence.cuh"),
    ]
    return "\n".join(parts)


def _constants(passed: Pass, layout: Layout, three_products: bool) -> list[str]:
    numbers = {
        "UNITS": passed.step.units,
        "UNITS_OF_BLOCK": layout.units,
        "ROWS": layout.rows,
        "BLOCKS": layout.blocks,
        "THREADS": layout.threads,
        "CHUNK": layout.chunk,
        "PIECES": max(layout.pieces, 1),
        "TAKES": max(len(passed.takes), 1),
        "GIVES": max(len(passed.gives), 1),
        "THREE_PRODUCTS": int(three_products),
        "REVERSE": int(passed.reverse),
    }
    lines = [f"#define {name} {number}" for name, number in numbers.items()]
    return [*lines, f"#define BARRIER {_BARRIERS[layout.barrier]}"]


class _Writer:
    def __init__(self, passed: Pass, layout: Layout) -> None:
        self.passed, self.layout, self.step = passed, layout, passed.step
        self.of = {statement.name: statement for statement in self.step.statements}
        self.shared = [
            list(
                dict.fromkeys(
                    piece
                    for product in self.step.products
                    if product.section == section
                    for piece in product.pieces
                )
            )
            for section in range(self.step.sections)
        ]
        self.members = self._members()

    def lines(self) -> list[str]:
        """All that is the pass's own."""
        lines = [*self._lane(), *self._products(), self._begin()]
        lines += [self._section(section) for section in range(self.step.sections)]
        return [*lines, self._finish(), self._timestep()]

    def _members(self) -> list[str]:
        """The scalars that a later section uses."""
        found: dict[str, None] = {}
        for statement in self.step.statements:
            for name in statement.arguments:
                if self.of[name].section < statement.section:
                    found[name] = None
        for section, pieces in enumerate(self.shared):
            found.update((name, None) for name in pieces if self.of[name].section < section)
        last = self.step.sections - 1
        found.update((name, None) for name in self.step.carries if self.of[name].section < last)
        return [name for name in found if self.of[name].operation != "literal"]

    def _carries(self) -> list[tuple[int, int]]:
        """Each carry: which state's, and which of its scalars."""
        return [
            (state, number)
            for state, count in enumerate(self.passed.carried)
            for number in range(count)
        ]

    def _carry(self, state: int, number: int) -> str:
        return f"l.c{state}_{number}"

    def _lane(self) -> list[str]:
        names = [f"c{state}_{number}" for state, number in self._carries()]
        return ["struct Lane {", *(f"  float {name};" for name in [*names, *self.members]), "};"]

    def _products(self) -> list[str]:
        lines, weights, sums = [], 0, 0
        for number, product in enumerate(self.step.products):
            columns = len(product.columns) * self.layout.units
            pieces = [self.shared[product.section].index(piece) for piece in product.pieces]
            split = self.layout.splits[number]
            lines += [
                f"struct Product{number} {{",
                f"  static constexpr int pieces = {len(pieces)}, columns = {len(product.columns)};",
                f"  static constexpr int weight = {product.weight}, row = {product.pitch};",
                f"  static constexpr bool transposed = {str(product.transposed).lower()};",
                f"  static constexpr int split = {split};",
                f"  static constexpr int weights_at = {weights}, sums_at = {sums};",
                _choice("piece", pieces),
                _choice("column", product.columns),
                "};",
            ]
            weights += len(pieces) * self.layout.padded * columns
            sums += split * self.layout.rows * (columns + 4)
        left = self.layout.shared // 4 - weights - sums
        places = f"constexpr int SUMS_AT = {weights}, LEFT_AT = {weights + sums}, LEFT = {left};"
        return [*lines, places]

    def _begin(self) -> str:
        takes = {(o.kind, o.number): place for place, o in enumerate(self.passed.takes)}
        kind = next((o.kind for o in self.passed.takes if o.kind == D_STATE), STATE)
        lines = []
        for state, number in self._carries():
            address = self._address(
                Source(ROWS, takes[kind, state], self._state_width(state), number * self.step.units)
            )
            lines.append(f"  {self._carry(state, number)} = p.in{address};")
        return _function("begin", lines)

    def _finish(self) -> str:
        gives = {(o.kind, o.number): place for place, o in enumerate(self.passed.gives)}
        kind = next((o.kind for o in self.passed.gives if o.kind == D_STATE), STATE)
        lines = []
        for state, number in self._carries():
            address = self._address(
                Source(ROWS, gives[kind, state], self._state_width(state), number * self.step.units)
            )
            lines.append(f"  p.out{address} = {self._carry(state, number)};")
        return _function("finish", lines)

    def _state_width(self, state: int) -> int:
        return self.passed.carried[state] * self.step.units

    def _address(self, at: Source) -> str:
        """An operand's number and the element's place in it."""
        element = "0" if at.offset is None else f"{at.offset} + at.unit"
        row = {
            STEPS: f"((long long)at.t * p.B + at.row) * {at.width} + ",
            OUTPUTS: f"((long long)(p.every ? at.t : 0) * p.B + at.row) * {at.width} + ",
            ROWS: f"(long long)at.row * {at.width} + ",
            VECTOR: "",
        }[at.kind]
        return f"[{at.number}][{row}{element}]"

    def _name(self, name: str) -> str:
        statement = self.of[name]
        if statement.operation == "literal":
            return _literal(statement.number)
        return f"l.{name}" if name in self.members else name

    def _section(self, section: int) -> str:
        lines = []
        for statement in self.step.statements:
            if statement.section == section and statement.operation != "literal":
                name = self._name(statement.name)
                kind = "" if name.startswith("l.") else "const float "
                lines.append(f"  {kind}{name} = {self._value(statement)};")
        for place, piece in enumerate(self.shared[section]):
            lines.append(f"  share(p, b, at, {place}, {self._name(piece)});")
        for write in self.step.writes:
            if self.of[write.scalar].section == section:
                address = self._address(write.source)
                lines.append(f"  p.out{address} = {self._name(write.scalar)};")
        if section == self.step.sections - 1:
            new = [self._name(name) for name in self.step.carries]
            lines += [f"  const float next{i} = {name};" for i, name in enumerate(new)]
            for i, carry in enumerate(self._carries()):
                lines.append(f"  {self._carry(*carry)} = next{i};")
        return _function(f"section{section}", lines)

    def _value(self, statement: Statement) -> str:
        if statement.operation == "product":
            return f"result<Product{int(statement.number)}>(b, at, {statement.column})"
        if statement.operation == "read":
            return self._read(statement.source)
        arguments = ", ".join(self._name(name) for name in statement.arguments)
        return f"op_{statement.operation}({arguments})"

    def _read(self, at: Source | None) -> str:
        assert at is not None
        if at.kind == CARRY:
            return self._carry(at.number, (at.offset or 0) // self.step.units)
        if at.kind == FLAGS:
            return "p.mask[(long long)at.t * p.B + at.row] ? 1.f : 0.f"
        if at.kind == OUTPUTS:
            return f"p.every || at.t == p.T - 1 ? p.in{self._address(at)} : 0.f"
        return f"p.in{self._address(at)}"

    def _timestep(self) -> str:
        lines = []
        for section in range(self.step.sections):
            if section:
                lines.append("  meet(p, b);")
                lines += [
                    f"  product<Product{number}>(p, b);"
                    for number, product in enumerate(self.step.products)
                    if product.section == section - 1
                ]
                lines.append("  ++b.meetings;")
            lines.append(f"  FOR_EACH(section{section}(p, b, at, lanes[e]))")
        body = "\n".join(lines)
        loads = "\n".join(
            f"  load_weights<Product{number}>(p, b);" for number in range(len(self.step.products))
        )
        return (
            '#define FOR_EACH(what) _Pragma("unroll") for (int e = 0; e < PER_THREAD; ++e) '
            "{ At at; if (place(p, b, e, t, at)) { what; } }\n"
            f"DEVICE void timestep(const Call &p, Block &b, Lane *lanes, int t) {{\n{body}\n}}\n"
            f"DEVICE void load_all_weights(const Call &p, const Block &b) {{\n{loads}\n}}"
        )


def _function(name: str, lines: Sequence[str]) -> str:
    head = f"DEVICE void {name}(const Call &p, const Block &b, const At &at, Lane &l) {{"
    return "\n".join([head, *lines, "}"])


def _choice(name: str, numbers: Sequence[int]) -> str:
    """A function that gives one of some numbers, without an array in memory."""
    text = str(numbers[-1])
    for place, number in reversed(list(enumerate(numbers[:-1]))):
        text = f"i == {place} ? {number} : {text}"
    return f"  DEVICE int {name}(int i) {{ return {text}; }}"


def _literal(number: float) -> str:
    if math.isfinite(number) and abs(number) <= 3.4e38:
        return f"{number!r}f" if "." in repr(number) or "e" in repr(number) else f"{number!r}.f"
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    return f"__uint_as_float({bits}u)"
