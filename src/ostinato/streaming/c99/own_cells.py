"""A timestep of a cell of one's own, in C: its routine's instructions, one after another."""

import re
from collections.abc import Sequence

import numpy as np

from ostinato.routines import Routine
from ostinato.streaming.c99 import routine as r
from ostinato.streaming.c99.functions import ACTIVATIONS
from ostinato.streaming.c99.kernels import Kernel
from ostinato.streaming.c99.routine import Map, Place, Product, Tables
from ostinato.streaming.c99.source import Source

# What operations are in C, of a, b and c; those of ACTIVATIONS, and what `functions.py` has under
# their names, aside.
_EXPRESSIONS = {
    "neg": "-a",
    "abs": "fabsf(a)",
    "sign": "a > 0.0f ? 1.0f : (a < 0.0f ? -1.0f : a)",
    "expm1": "expm1f(a)",
    "log": "logf(a)",
    "log1p": "log1pf(a)",
    "sqrt": "sqrtf(a)",
    "rsqrt": "1.0f / sqrtf(a)",
    "square": "a * a",
    "reciprocal": "1.0f / a",
    "erf": "erff(a)",
    "sin": "sinf(a)",
    "cos": "cosf(a)",
    "tan": "tanf(a)",
    "arcsin": "asinf(a)",
    "arccos": "acosf(a)",
    "arctan": "atanf(a)",
    "sinh": "sinhf(a)",
    "cosh": "coshf(a)",
    "arcsinh": "asinhf(a)",
    "arccosh": "acoshf(a)",
    "arctanh": "atanhf(a)",
    "floor": "floorf(a)",
    "ceil": "ceilf(a)",
    "round": "rintf(a)",
    "trunc": "truncf(a)",
    "logical_not": "a == 0.0f ? 1.0f : 0.0f",
    "isnan": "a != a ? 1.0f : 0.0f",
    "isinf": "fabsf(a) == INFINITY ? 1.0f : 0.0f",
    "isfinite": "fabsf(a) < INFINITY ? 1.0f : 0.0f",
    "linear": "a",
    "add": "a + b",
    "sub": "a - b",
    "mul": "a * b",
    "div": "a / b",
    "pow": "powf(a, b)",
    "arctan2": "atan2f(a, b)",
    "hypot": "hypotf(a, b)",
    "gt": "a > b ? 1.0f : 0.0f",
    "ge": "a >= b ? 1.0f : 0.0f",
    "lt": "a < b ? 1.0f : 0.0f",
    "le": "a <= b ? 1.0f : 0.0f",
    "eq": "a == b ? 1.0f : 0.0f",
    "ne": "a != b ? 1.0f : 0.0f",
    "logical_and": "a != 0.0f && b != 0.0f ? 1.0f : 0.0f",
    "logical_or": "a != 0.0f || b != 0.0f ? 1.0f : 0.0f",
    "logical_xor": "(a != 0.0f) != (b != 0.0f) ? 1.0f : 0.0f",
    "select": "a != 0.0f ? b : c",
    "fma": "a * b + c",
    "clip": "a < b ? b : (a > c ? c : a)",
}
_FUNCTIONS = {
    "exp": "exp",
    "max": "maximum",
    "min": "minimum",
    "mod": "mod",
    "floordiv": "floordiv",
}


class OwnCell:
    """A cell of one's own to be written.

    Attributes:
        carries: How many elements each of its carries has: its states, and outputs that it holds.
    """

    def __init__(self, routine: Routine, number: int, weights: Sequence[np.ndarray]) -> None:
        self._tables, self._number = Tables(routine), number
        self.carries = self._tables.carries
        given = iter(weights)
        self._weights = {
            i: next(given) for i, (kind, _) in enumerate(self._tables.operands) if kind == r.WEIGHT
        }
        self._names: dict[int, str] = {}

    def write(
        self, source: Source, x: str, out: str, states: Sequence[str], mask: str | None
    ) -> None:
        """Appends the functions of a timestep and of a masked one, and what calls them.

        Args:
            source: Where to.
            x: What it reads.
            out: The member for its output.
            states: The members for its carries.
            mask: The mask's name; None where there's none.
        """
        number = self._number
        following = [
            source.field(f"n{number}_{k}", size, "a state to come")
            for k, size in enumerate(self.carries)
        ]
        if self._tables.arena:
            scratch = source.field(f"t{number}", self._tables.arena, "within a timestep")
        else:
            scratch = out  # nobody reads it
        arguments = ["const REAL *RESTRICT x", "REAL *RESTRICT out", "REAL *scratch"]
        arguments += [f"const REAL *RESTRICT s{k}" for k in range(len(states))]
        arguments += [f"REAL *RESTRICT n{k}" for k in range(len(states))]
        given = ", ".join((x, out, scratch, *states, *following))
        body = self._function(source, f"@own{number}", arguments, self._tables.body, 1)
        calls = f"{body}({given});"
        if mask is not None:
            instructions = self._tables.idle or self._tables.body
            idle = self._function(source, f"@idle{number}", arguments, instructions, 0)
            calls = f"if ({mask}) {calls} else {idle}({given});"
        source.step.append(calls)
        for state, new, size in zip(states, following, self.carries, strict=True):
            source.step.append(f"memcpy({state}, {new}, {size} * sizeof(REAL));")

    def _function(
        self,
        source: Source,
        name: str,
        arguments: Sequence[str],
        instructions: Sequence[Product | Map],
        mask: int,
    ) -> str:
        lines = [
            f"(void){argument.split('*')[1].removeprefix('RESTRICT ')};" for argument in arguments
        ]
        self._mask = f"{mask}.0f"
        for instruction in instructions:
            if isinstance(instruction, Product):
                lines += self._product(source, instruction)
            else:
                lines += self._map(source, instruction)
        return source.function(name, arguments, lines)

    # --- instructions ---

    def _product(self, source: Source, product: Product) -> list[str]:
        columns, kernel = product.columns, self._weights[product.weight]
        if product.transposed:
            kernel = kernel.reshape(columns, product.depth).T
        kernel = kernel.reshape(product.depth, columns)
        begins = {r.ZEROS: "0.0f"}
        if product.begins == r.BIAS:
            bias = self._weight(source, product.bias)
            begins[r.BIAS] = f"{bias}[{product.bias_offset} + i]"
        lines = []
        for at in range(product.places):
            a = self._address(source, product.a, at)
            out = self._address(source, product.out, at)
            if product.begins in begins:
                value = begins[product.begins]
                span = f"for (i = 0; i < {columns}; ++i)"
                lines += ["{", "  int i;", f"  REAL *z = {out};", f"  {span} z[i] = {value};", "}"]
            lines.append(source.product(a, Kernel(kernel), out))
        return lines

    def _weight(self, source: Source, operand: int) -> str:
        """The array of a weight as it is."""
        if operand not in self._names:
            self._names[operand] = source.weight(self._weights[operand])
        return self._names[operand]

    def _base(self, source: Source, place: Place) -> tuple[str, int]:
        """The array of a place, and where in it its value begins."""
        if place.space == r.CARRY:
            return f"s{place.number}", 0
        if place.space == r.NEXT:
            return f"n{place.number}", 0
        if place.space == r.SCRATCH:
            return "scratch", self._tables.offsets[place.number]
        if place.space == r.RESULT and place.number == 0:
            return "out", 0
        kind = self._tables.operands[place.number][0] if place.space == r.OPERAND else None
        if kind == r.SEQUENCE:
            return "x", 0
        if kind == r.WEIGHT:
            return self._weight(source, place.number), 0
        raise ValueError(f"a place of a cell of one's own has no C: {place}")

    def _address(self, source: Source, place: Place, at: int) -> str:
        base, offset = self._base(source, place)
        return f"{base} + {offset + place.offset + at * place.strides[0]}"

    def _element(self, source: Source, place: Place, dims: Sequence[int]) -> str:
        base, offset = self._base(source, place)
        terms = [
            f"{stride} * i{axis}"
            for axis, (stride, size) in enumerate(zip(place.strides, dims, strict=True))
            if stride and size > 1
        ]
        return f"{base}[{' + '.join((str(offset + place.offset), *terms))}]"

    def _map(self, source: Source, mapped: Map) -> list[str]:
        if 0 in mapped.dims:
            return []
        inner = self._registers(source, mapped)
        begins = {r.ADD_UP: "0.0f", r.LARGEST: "-INFINITY"}
        lines = []
        for register, mode, place in mapped.outputs:
            element, value = self._element(source, place, mapped.dims), f"r{register}"
            if mode in begins:
                lines += _looped(mapped.dims, [f"{element} = {begins[mode]};"])
            if mode == r.LARGEST:
                inner.append(f"{element} = {source.call('maximum')}({value}, {element});")
            else:
                inner.append(f"{element} {'=' if mode == r.STORE else '+='} {value};")
        return lines + _looped(mapped.dims, inner)

    def _registers(self, source: Source, mapped: Map) -> list[str]:
        """Definitions of the registers that outputs come from, each before it's read."""
        needed = {register for register, *_ in mapped.outputs}
        first = len(mapped.inputs)
        for number in range(len(mapped.operations) - 1, -1, -1):
            if first + number in needed:
                needed.update(mapped.operations[number][1])
        lines = []
        for number, place in enumerate(mapped.inputs):
            if number in needed:
                lines.append(f"const REAL r{number} = {self._read(source, place, mapped.dims)};")
        for number, (name, registers) in enumerate(mapped.operations, first):
            if number in needed:
                names = [f"r{register}" for register in registers]
                lines.append(f"const REAL r{number} = {_expression(source, name, names)};")
        return lines

    def _read(self, source: Source, place: Place, dims: Sequence[int]) -> str:
        if place.space == r.LITERAL:
            return source.dialect.number(self._tables.literals[place.number])
        if place.space == r.OPERAND and self._tables.operands[place.number][0] == r.MASK:
            return self._mask
        return self._element(source, place, dims)


def _expression(source: Source, name: str, arguments: Sequence[str]) -> str:
    if name in ACTIVATIONS:
        return f"{source.call(name)}({arguments[0]})"
    if name in _FUNCTIONS:
        return f"{source.call(_FUNCTIONS[name])}({', '.join(arguments)})"
    if name not in _EXPRESSIONS:
        raise ValueError(f"operation {name!r} of a cell of one's own has no C")
    given = dict(zip("abc", arguments, strict=False))
    return re.sub(r"\b[abc]\b", lambda found: given[found[0]], _EXPRESSIONS[name])


def _looped(dims: Sequence[int], inner: Sequence[str]) -> list[str]:
    """Statements within loops over all dims but those of size 1."""
    axes = [axis for axis, size in enumerate(dims) if size > 1]
    lines = [f"int i{axis};" for axis in axes]
    lines += [f"for (i{axis} = 0; i{axis} < {dims[axis]}; ++i{axis})" for axis in axes]
    return ["{", *lines, "{", *inner, "}", "}"]
