"""A timestep of the built-in cells and of a dense layer, in C.

The products with inputs and state fill one array z, from which the new states are made. Kernels
are as Keras has them, row by row, but that GRU's candidate comes first: its z is [n z r u], where u
is the state's part of the candidate (native/core/kinds has them so, too).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ostinato.streaming.c99.kernels import Kernel
from ostinato.streaming.c99.source import Source

Names = Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A cell to be written.

    Attributes:
        number: Of its operation.
        depth: How many features it reads.
        units: How many it has.
        activation: A function's name.
        recurrent_activation: Likewise.
        kernel: (depth, gates * units).
        recurrent: (units, gates * units).
        bias: As in Keras; None where it has none.
    """

    number: int
    depth: int
    units: int
    activation: str
    recurrent_activation: str
    kernel: Kernel
    recurrent: Kernel
    bias: np.ndarray | None

    def bias_rows(self, rows: int, gates: int) -> np.ndarray:
        """The bias, (rows, gates, units)."""
        shape = (rows, gates, self.units)
        return np.zeros(shape) if self.bias is None else self.bias.reshape(shape)


def beginning(source: Source, bias: np.ndarray) -> str:
    """A statement that fills z with the bias."""
    value = f"{source.weight(bias)}[i]" if bias.any() else "0.0f"
    return f"for (i = 0; i < {bias.size}; ++i) z[i] = {value};"


def applying(source: Source, name: str, first: int, last: int) -> list[str]:
    """Statements that apply an activation to z from first to last."""
    if name == "linear":
        return []
    return [f"for (i = {first}; i < {last}; ++i) z[i] = {source.call(name)}(z[i]);"]


def _simple_rnn(source: Source, cell: Cell) -> list[str]:
    return [
        beginning(source, cell.bias_rows(1, 1)),
        source.product("x", cell.kernel, "z"),
        source.product("h", cell.recurrent, "z"),
        *applying(source, cell.activation, 0, cell.units),
        f"for (i = 0; i < {cell.units}; ++i) h[i] = z[i];",
    ]


def _lstm(source: Source, cell: Cell) -> list[str]:
    units = cell.units
    shown = "next" if cell.activation == "linear" else f"{source.call(cell.activation)}(next)"
    return [
        beginning(source, cell.bias_rows(1, 4)),
        source.product("x", cell.kernel, "z"),
        source.product("h", cell.recurrent, "z"),
        *applying(source, cell.recurrent_activation, 0, 2 * units),
        *applying(source, cell.activation, 2 * units, 3 * units),
        *applying(source, cell.recurrent_activation, 3 * units, 4 * units),
        f"for (i = 0; i < {units}; ++i) {{",
        f"  const REAL new = z[{units} + i] * c[i] + z[i] * z[{2 * units} + i];".replace(
            "new", "next"
        ),
        "  c[i] = next;",
        f"  h[i] = z[{3 * units} + i] * {shown};",
        "}",
    ]


def _blending(cell: Cell) -> list[str]:
    """The new state, z h + (1 - z) n."""
    return [
        f"for (i = 0; i < {cell.units}; ++i)",
        f"  h[i] = z[i] + z[{cell.units} + i] * (h[i] - z[i]);",
    ]


def _candidate_first(kernel: Kernel) -> Kernel:
    update, reset, candidate = np.split(np.arange(kernel.columns), 3)
    return kernel.take(np.concatenate([candidate, update, reset]))


def _gru(source: Source, cell: Cell) -> list[str]:
    units = cell.units
    of_x, of_h = cell.bias_rows(2, 3)
    bias = np.stack([of_x[2], of_x[0] + of_h[0], of_x[1] + of_h[1], of_h[2]])
    return [
        beginning(source, bias),
        source.product("x", _candidate_first(cell.kernel), "z"),
        source.product("h", cell.recurrent, f"z + {units}"),
        *applying(source, cell.recurrent_activation, units, 3 * units),
        f"for (i = 0; i < {units}; ++i) z[i] += z[{2 * units} + i] * z[{3 * units} + i];",
        *applying(source, cell.activation, 0, units),
        *_blending(cell),
    ]


def _gru_reset_before(source: Source, cell: Cell) -> list[str]:
    units = cell.units
    (of_x,) = cell.bias_rows(1, 3)
    gates = cell.recurrent.take(np.arange(2 * units))
    candidate = cell.recurrent.take(np.arange(2 * units, 3 * units))
    return [
        beginning(source, np.stack([of_x[2], of_x[0], of_x[1]])),
        source.product("x", _candidate_first(cell.kernel), "z"),
        source.product("h", gates, f"z + {units}"),
        *applying(source, cell.recurrent_activation, units, 3 * units),
        # r h takes the reset gate's place.
        f"for (i = 0; i < {units}; ++i) z[{2 * units} + i] *= h[i];",
        source.product(f"z + {2 * units}", candidate, "z"),
        *applying(source, cell.activation, 0, units),
        *_blending(cell),
    ]


# By the kernels' names of the kinds: how it's written, how many columns z has per unit.
_KINDS: dict[str, tuple[Callable[[Source, Cell], list[str]], int]] = {
    "simple_rnn": (_simple_rnn, 1),
    "lstm": (_lstm, 4),
    "gru": (_gru, 4),
    "gru_reset_before": (_gru_reset_before, 3),
}


def columns_of(kind: str) -> int:
    """How many numbers a unit z takes.

    Raises:
        ValueError: if nobody has written the kind as C.
    """
    if kind not in _KINDS:
        raise ValueError(f"the built-in cell {kind!r} has no C")
    return _KINDS[kind][1]


def write_cell(source: Source, kind: str, cell: Cell, states: Names) -> str:
    """The function `(x, h, [c,] z)` of a cell."""
    write, _ = _KINDS[kind]
    names = ("h", "c")[: len(states)]
    arguments = ["const REAL *RESTRICT x", *(f"REAL *RESTRICT {name}" for name in names)]
    lines = ["int i;", *write(source, cell)]
    return source.function(f"@cell{cell.number}", [*arguments, "REAL *RESTRICT z"], lines)
