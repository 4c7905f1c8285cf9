"""A program's operations, each as a function of the file and a call of it in `step`."""

from collections.abc import Callable, Sequence

import numpy as np

from ostinato import native
from ostinato.nests import flatten
from ostinato.streaming import program as p
from ostinato.streaming.c99.cells import Cell, applying, beginning, columns_of, write_cell
from ostinato.streaming.c99.kernels import Kernel
from ostinato.streaming.c99.own_cells import OwnCell
from ostinato.streaming.c99.source import Source
from ostinato.streaming.c99.windows import write_pool, write_window
from ostinato.streaming.program import Operation, Program, State
from ostinato.streaming.weights import weights_by_operation

Weights = Sequence[np.ndarray]


class Timestep:
    """Writes the operations of a program, one after another.

    Attributes:
        source: What they're written to.
        values: What each value is called in `step`, by its number; an array.
        widths: Their widths; 0 of ids.
        masks: What each mask is called, an int.
        rows: How many rows the tables have that an input of ids is for.
    """

    def __init__(self, source: Source, program: Program, inputs: Sequence[str]) -> None:
        self.source, self._program = source, program
        self.values: list[str] = list(inputs)
        self.widths = [port.shape[0] if port.shape else 0 for port in flatten(program.inputs)]
        self.masks: dict[int, str] = {}
        self.rows: dict[str, int] = {}
        self._states = iter(enumerate(program.states))

    def write(self) -> None:
        """All operations.

        Raises:
            ValueError: if one can't be written.
        """
        for number, (operation, weights) in enumerate(weights_by_operation(self._program)):
            write = _OPERATIONS.get(operation.code)
            if write is None:
                raise ValueError(f"operation {operation.code} of the program has no C")
            if operation.mask_out >= 0:
                self.masks[operation.mask_out] = f"m{operation.mask_out}"
            value = write(self, number, operation, weights)
            if operation.out >= 0:
                self.values.append(value)
                self.widths.append(operation.width)

    # --- what operations need ---

    def made(self, operation: Operation, what: str) -> str:
        """The member for an operation's value."""
        return self.source.field(f"v{operation.out}", operation.width, what)

    def loop(self, operation: Operation, value: str, what: str, *before: str) -> str:
        """An operation that goes element by element: `value` is of a, b, and weights by i."""
        out = self.made(operation, what)
        arguments, given = (
            ["const REAL *RESTRICT a", "REAL *RESTRICT out"],
            [
                self.values[operation.first],
                out,
            ],
        )
        if operation.second >= 0:
            arguments.insert(1, "const REAL *RESTRICT b")
            given.insert(1, self.values[operation.second])
        lines = ["int i;", *before, f"for (i = 0; i < {operation.width}; ++i) out[i] = {value};"]
        self._call(f"@{what}{operation.out}", arguments, given, lines)
        return out

    def _call(
        self, name: str, arguments: Sequence[str], given: Sequence[str], lines: Sequence[str]
    ) -> None:
        self.source.function(name, arguments, lines)
        self.source.step.append(f"{name}({', '.join(given)});")

    def take_states(self, count: int, masked: bool) -> list[tuple[int, State]]:
        """The next states of the program, with their numbers."""
        return [next(self._states) for _ in range(count + masked)]

    def keep(self, states: Sequence[tuple[int, State]]) -> list[str]:
        """The members for states."""
        made = []
        for number, state in states:
            what = "whether it has begun" if state.dtype == "bool" else str(state.shape)
            text = f"state of {state.layer}: {what}"
            made.append(self.source.state(number, np.asarray(state.initial), text))
        return made

    # --- operations ---

    def embed(self, number: int, operation: Operation, weights: Weights) -> str:
        """A row of a table."""
        (table,) = weights
        ids, out = self.values[operation.first], self.made(operation, "embedding")
        self.rows[ids] = min(len(table), self.rows.get(ids, len(table)))
        row = f"{self.source.weight(table)} + {operation.width} * (size_t){ids}"
        self.source.step.append(f"memcpy({out}, {row}, {operation.width} * sizeof(REAL));")
        if operation.mask_out >= 0:
            self.source.step.append(f"m{operation.mask_out} = {ids} != 0;")
        return out

    def mask(self, number: int, operation: Operation, weights: Weights) -> str:
        """Zeros where all is a number."""
        ((value,),) = weights
        out, mask = self.made(operation, "masked"), f"m{operation.mask_out}"
        given, literal = self.values[operation.first], self.source.dialect.number(float(value))
        span = f"for (i = 0; i < {operation.width}; ++i)"
        self.source.step += [
            f"{mask} = 0;",
            f"{span} {mask} |= {given}[i] != {literal};",
            f"{span} {out}[i] = {mask} ? {given}[i] : 0.0f;",
        ]
        return out

    def either(self, number: int, operation: Operation, weights: Weights) -> str:
        """One mask or another."""
        made = f"m{operation.mask_out} = m{operation.mask_in} | m{operation.first};"
        self.source.step.append(made)
        return ""

    def cell(self, number: int, operation: Operation, weights: Weights) -> str:
        """A built-in cell."""
        kind = {each.number: each for each in native.kinds().values()}[operation.kind]
        masked = operation.mask_in >= 0
        taken = self.take_states(kind.states, masked)
        states = self.keep(taken)
        (kernel, recurrent), rest = _kernels(operation, weights)
        bias = rest[0] if operation.has_bias else None
        depth = self.widths[operation.first]
        cell = Cell(
            *(number, depth, operation.width, operation.activation),
            *(operation.recurrent_activation, kernel, recurrent, bias),
        )
        z = self.source.work(columns_of(kind.name) * operation.width)
        name = write_cell(self.source, kind.name, cell, states[: kind.states])
        given = ", ".join((self.values[operation.first], *states[: kind.states], z))
        call = f"{name}({given});"
        if not masked:
            self.source.step.append(call)
            return states[0]
        out, begun, mask = self.made(operation, kind.name), states[-1], f"m{operation.mask_in}"
        self.source.step.append(f"if ({mask}) {{ {begun} = 1; {call} }}")
        shown = mask if operation.zero_output_for_mask else begun
        span = f"for (i = 0; i < {operation.width}; ++i)"
        self.source.step.append(f"{span} {out}[i] = {shown} ? {states[0]}[i] : 0.0f;")
        return out

    def dense(self, number: int, operation: Operation, weights: Weights) -> str:
        """A dense layer."""
        out = self.made(operation, "dense")
        (kernel,), rest = _kernels(operation, weights)
        bias = rest[0] if operation.has_bias else np.zeros(operation.width)
        lines = [
            "int i;",
            beginning(self.source, bias),
            self.source.product("x", kernel, "z"),
            *applying(self.source, operation.activation, 0, operation.width),
        ]
        arguments = ["const REAL *RESTRICT x", "REAL *RESTRICT z"]
        self._call(f"@dense{number}", arguments, [self.values[operation.first], out], lines)
        return out

    def scale(self, number: int, operation: Operation, weights: Weights) -> str:
        """Times a row, plus a row."""
        factor, offset = map(self.source.weight, weights)
        return self.loop(operation, f"a[i] * {factor}[i] + {offset}[i]", "scale")

    def normalize(self, number: int, operation: Operation, weights: Weights) -> str:
        """To mean 0, or not, and variance 1; then as `scale`."""
        width, ((epsilon,), *rows) = operation.width, weights
        factor, offset = map(self.source.weight, rows)
        total, small = self.source.call("total"), self.source.dialect.number(float(epsilon))
        mean = "0.0f" if operation.kind == p.AS_IT_IS else f"{total}(a, {width}) / {width}.0f"
        span = f"for (i = 0; i < {width}; ++i)"
        before = [
            f"const REAL mean = {mean};",
            "REAL by;",
            f"{span} out[i] = (a[i] - mean) * (a[i] - mean);",
            f"by = 1.0f / sqrtf({total}(out, {width}) / {width}.0f + {small});",
        ]
        value = f"(a[i] - mean) * by * {factor}[i] + {offset}[i]"
        return self.loop(operation, value, "normalize", *before)

    def activate(self, number: int, operation: Operation, weights: Weights) -> str:
        """An activation."""
        if operation.activation == "linear":
            return self.loop(operation, "a[i]", "copy")
        return self.loop(operation, f"{self.source.call(operation.activation)}(a[i])", "activate")

    def softmax(self, number: int, operation: Operation, weights: Weights) -> str:
        """Softmax over the width."""
        out = self.loop(operation, "a[i]", "softmax")
        self.source.step.append(f"{self.source.call('softmax')}({out}, {operation.width});")
        return out

    def combine(self, number: int, operation: Operation, weights: Weights) -> str:
        """Two values, element by element."""
        sign = {p.ADD: "+", p.SUBTRACT: "-", p.MULTIPLY: "*"}.get(operation.kind)
        if sign is not None:
            return self.loop(operation, f"a[i] {sign} b[i]", "combine")
        name = "maximum" if operation.kind == p.MAXIMUM else "minimum"
        return self.loop(operation, f"{self.source.call(name)}(a[i], b[i])", "combine")

    def concatenate(self, number: int, operation: Operation, weights: Weights) -> str:
        """Two values side by side."""
        out, before = self.made(operation, "concatenate"), self.widths[operation.first]
        for start, value in ((0, operation.first), (before, operation.second)):
            line = f"for (i = 0; i < {self.widths[value]}; ++i) {out}[{start} + i] = "
            self.source.step.append(f"{line}{self.values[value]}[i];")
        return out

    def window(self, number: int, operation: Operation, weights: Weights) -> str:
        """The last timesteps."""
        states = self.keep(self.take_states(int(operation.taps > 1), False))
        depth, out = self.widths[operation.first], self.made(operation, "window")
        state = states[0] if states else ""
        name, rest = write_window(self.source, operation, depth, state, weights)
        given = ", ".join((self.values[operation.first], out, *rest))
        self.source.step.append(f"{name}({given});")
        return out

    def pool(self, number: int, operation: Operation, weights: Weights) -> str:
        """All timesteps so far."""
        is_mean = operation.kind == p.POOL_MEAN
        states = self.keep(self.take_states(3 if is_mean else 1, False))
        out, name = self.made(operation, "pool"), write_pool(self.source, operation)
        mask = f"m{operation.mask_in}" if operation.mask_in >= 0 else "1"
        given = [self.values[operation.first], out, *states, *([mask] if is_mean else [])]
        self.source.step.append(f"{name}({', '.join(given)});")
        return out

    def routine(self, number: int, operation: Operation, weights: Weights) -> str:
        """A cell of one's own."""
        own = OwnCell(self._program.routines[operation.kind], number, weights)
        states = self.keep(self.take_states(len(own.carries), False))
        out = self.made(operation, "own cell")
        mask = f"m{operation.mask_in}" if operation.mask_in >= 0 else None
        own.write(self.source, self.values[operation.first], out, states, mask)
        return out


def _kernels(operation: Operation, weights: Weights) -> tuple[list[Kernel], Weights]:
    """The kernels of a cell or a dense layer, and the rest of its weights."""
    count = 1 if operation.code in (p.DENSE, p.INT8_DENSE) else 2
    if operation.code in (p.DENSE, p.CELL):
        return [Kernel(weight) for weight in weights[:count]], weights[count:]
    pairs = zip(weights[: 2 * count : 2], weights[1 : 2 * count : 2], strict=True)
    return [Kernel(*pair) for pair in pairs], weights[2 * count :]


_OPERATIONS: dict[int, Callable[[Timestep, int, Operation, Weights], str]] = {
    p.EMBED: Timestep.embed,
    p.MASK: Timestep.mask,
    p.EITHER: Timestep.either,
    p.CELL: Timestep.cell,
    p.INT8_CELL: Timestep.cell,
    p.DENSE: Timestep.dense,
    p.INT8_DENSE: Timestep.dense,
    p.SCALE: Timestep.scale,
    p.NORMALIZE: Timestep.normalize,
    p.ACTIVATE: Timestep.activate,
    p.SOFTMAX: Timestep.softmax,
    p.COMBINE: Timestep.combine,
    p.CONCATENATE: Timestep.concatenate,
    p.ROUTINE: Timestep.routine,
    p.WINDOW: Timestep.window,
    p.POOL: Timestep.pool,
}
