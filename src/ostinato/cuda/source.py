"""A pass in a layout as CUDA C++: its step's text, around what kernel.cuh has for all of them."""

import functools
import math
import struct
from collections.abc import Sequence
from importlib.resources import files

from ostinato.cuda.layout import BFLOAT16, FLOAT32, Layout, depth_of, parts_of
from ostinato.cuda.passes import Pass
from ostinato.cuda.units import (
    CARRY,
    FLAGS,
    OUTPUTS,
    ROWS,
    STEPS,
    VECTOR,
    Product,
    Reduction,
    Source,
    Statement,
    offsets_of,
)
from ostinato.programs.node import D_STATE, STATE

ENTRY = "ostinato_run"
_BARRIERS = ("BLOCK_BARRIER", "CLUSTER_BARRIER", "GRID_BARRIER")


@functools.cache
def _text(name: str) -> str:
    return files("ostinato.cuda").joinpath(name).read_text("utf-8")


def source(passed: Pass, layout: Layout) -> str:
    """The text of a pass's kernel in a layout; the kernel's name is ENTRY."""
    parts = [
        *_constants(passed, layout),
        _text("kernel.cuh"),
        _text("operations.cuh"),
        *_Writer(passed, layout).lines(),
        _text("recurrence.cuh"),
    ]
    return "\n".join(parts)


def _constants(passed: Pass, layout: Layout) -> list[str]:
    numbers = {
        "UNITS": passed.step.units,
        "UNITS_OF_BLOCK": layout.units,
        "ROWS": layout.rows,
        "BLOCKS": layout.blocks,
        "THREADS": layout.threads,
        "CHUNK": layout.chunk,
        "PARTS": parts_of(layout.rows, layout.threads),
        "PIECES": max(layout.pieces, 1),
        "TAKES": max(len(passed.takes), 1),
        "GIVES": max(len(passed.gives), 1),
        "THREE_PRODUCTS": int(layout.products == FLOAT32),
        "BFLOAT16_PRODUCTS": int(layout.products == BFLOAT16),
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
                    for each in self.step.across
                    if each.section == section
                    for piece in each.pieces
                )
            )
            for section in range(self.step.sections)
        ]
        self.members = self.step.lasting

    def lines(self) -> list[str]:
        """All that is the pass's own."""
        lines = [*self._lane(), *self._products(), self._begin()]
        lines += [self._section(section) for section in range(self.step.sections)]
        return [*lines, self._finish(), self._timestep()]

    def _carries(self) -> list[tuple[int, int]]:
        """Each carry: which state's, and which of its scalars."""
        return [
            (state, number)
            for state, width in enumerate(self.passed.widths)
            for number in range(len(offsets_of(width, self.step.units)))
        ]

    def _carry(self, state: int, number: int) -> str:
        return f"l.c{state}_{number}"

    def _of_state(self, place: int, state: int, number: int) -> Source:
        """Where a carry comes from, or goes to: which operand, or result."""
        width = self.passed.widths[state]
        return Source(ROWS, place, width, offsets_of(width, self.step.units)[number])

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
                f"  static constexpr int rows = {product.rows}, width = {product.width};",
                f"  static constexpr bool transposed = {str(product.transposed).lower()};",
                f"  static constexpr int split = {split};",
                f"  static constexpr int weights_at = {weights}, sums_at = {sums};",
                _choice("piece", pieces),
                _choice("column", product.columns),
                "};",
            ]
            depth = len(pieces) * self.layout.padded
            weights += depth * columns * 8 // depth_of(self.layout.products)
            sums += split * self.layout.rows * (columns + 4)
        for number, reduction in enumerate(self.step.reductions):
            pieces = [self.shared[reduction.section].index(piece) for piece in reduction.pieces]
            lines += [
                f"struct Reduction{number} {{",
                f"  static constexpr int pieces = {len(pieces)}, rows = {reduction.rows};",
                f"  static constexpr int sums_at = {sums};",
                _choice("piece", pieces),
                f"  DEVICE float of(float a, float b) {{ return op_{reduction.operation}(a, b); }}",
                "};",
            ]
            sums += self.layout.rows * parts_of(self.layout.rows, self.layout.threads)
        left = self.layout.shared // 4 - weights - sums
        places = f"constexpr int SUMS_AT = {weights}, LEFT_AT = {weights + sums}, LEFT = {left};"
        return [*lines, places]

    def _begin(self) -> str:
        takes = {(o.kind, o.number): place for place, o in enumerate(self.passed.takes)}
        kind = next((o.kind for o in self.passed.takes if o.kind == D_STATE), STATE)
        lines = []
        for carry in self._carries():
            source = self._of_state(takes[kind, carry[0]], *carry)
            lines.append(f"  {self._carry(*carry)} = {self._loaded(source)};")
        return _function("begin", lines)

    def _finish(self) -> str:
        gives = {(o.kind, o.number): place for place, o in enumerate(self.passed.gives)}
        kind = next((o.kind for o in self.passed.gives if o.kind == D_STATE), STATE)
        lines = []
        for carry in self._carries():
            source = self._of_state(gives[kind, carry[0]], *carry)
            lines.append(f"  {self._stored(source, self._carry(*carry))}")
        return _function("finish", lines)

    def _guard(self, width: int, offset: int | None) -> str | None:
        """Which units have a scalar, where not all have it."""
        if offset is None or offset + self.step.units <= width:
            return None
        return f"at.unit < {width - offset}"

    def _loaded(self, source: Source) -> str:
        guard, address = self._guard(source.width, source.offset), f"p.in{self._address(source)}"
        return address if guard is None else f"{guard} ? {address} : 0.f"

    def _stored(self, source: Source, value: str) -> str:
        guard = self._guard(source.width, source.offset)
        return f"{'' if guard is None else f'if ({guard}) '}p.out{self._address(source)} = {value};"

    def _address(self, at: Source) -> str:
        """An operand's number and the element's place in it."""
        element = "0" if at.offset is None else f"{at.offset} + at.unit"
        row = {
            STEPS: f"((long long)at.row * p.T + at.t) * {at.width} + ",
            OUTPUTS: f"(p.every ? (long long)at.row * p.T + at.t : at.row) * {at.width} + ",
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
        lines += [
            f"  {self._stored(write.source, self._name(write.scalar))}"
            for write in self.step.writes
            if self.of[write.scalar].section == section
        ]
        if section == self.step.sections - 1:
            new = [self._name(name) for name in self.step.carries]
            lines += [f"  const float next{i} = {name};" for i, name in enumerate(new)]
            for i, carry in enumerate(self._carries()):
                lines.append(f"  {self._carry(*carry)} = next{i};")
        return _function(f"section{section}", lines)

    def _value(self, statement: Statement) -> str:
        if statement.operation == "product":
            return f"result<Product{int(statement.number)}>(b, at, {statement.column})"
        if statement.operation == "reduction":
            return f"reduced<Reduction{int(statement.number)}>(b, at)"
        if statement.operation == "read":
            return self._read(statement.source)
        arguments = ", ".join(self._name(name) for name in statement.arguments)
        return f"op_{statement.operation}({arguments})"

    def _read(self, at: Source | None) -> str:
        assert at is not None
        if at.kind == CARRY:
            return self._carry(at.number, (at.offset or 0) // self.step.units)
        if at.kind == FLAGS:
            return "p.mask[(long long)at.row * p.T + at.t] ? 1.f : 0.f"
        if at.kind == OUTPUTS:
            return f"p.every || at.t == p.T - 1 ? ({self._loaded(at)}) : 0.f"
        return self._loaded(at)

    def _across(self) -> list[tuple[str, Product | Reduction]]:
        """The functions that see other units, and of what each is."""
        found: list[tuple[str, Product | Reduction]] = []
        found += [(f"product<Product{i}>", each) for i, each in enumerate(self.step.products)]
        return found + [
            (f"reduce<Reduction{i}>", each) for i, each in enumerate(self.step.reductions)
        ]

    def _timestep(self) -> str:
        lines = []
        for section in range(self.step.sections):
            if section:
                lines.append("  meet(p, b);")
                lines += [
                    f"  {name}(p, b);"
                    for name, each in self._across()
                    if each.section == section - 1
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
