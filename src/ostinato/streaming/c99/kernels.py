"""What a product multiplies with: a kernel in floats, or in int8 with a scale for each column."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kernel:
    """A kernel to be written.

    Attributes:
        values: (depth, columns), floats or int8.
        scales: (columns,) of int8's; else None.
    """

    values: np.ndarray
    scales: np.ndarray | None = None

    @property
    def columns(self) -> int:
        """How many columns it has."""
        return int(self.values.shape[1])

    def take(self, columns: np.ndarray) -> "Kernel":
        """Some of its columns, by number, in that order."""
        scales = None if self.scales is None else self.scales[columns]
        return Kernel(self.values[:, columns], scales)


# So many products of a number of 14 bits and one of 7 fit a sum of 32 bits.
_MOST_IN_A_SUM = 2048


def product_of_floats(depth: int, columns: int, panel: int) -> list[str]:
    """The lines of a function that adds x (depth,) times a kernel to z, in panels of columns.

    Each sum is in the order of x, as a plain loop would have it.
    """
    whole, rest = columns // panel * panel, columns % panel
    lines = ["int k, i;"]
    if whole:
        lines += ["int p;", f"for (p = 0; p < {whole}; p += {panel}) {{"]
        lines += [*_panel(depth, panel, f"w + p * {depth}", "z + p"), "}"]
    if rest:
        lines += ["{", *_panel(depth, rest, f"w + {whole * depth}", f"z + {whole}"), "}"]
    return lines


def _panel(depth: int, columns: int, w: str, z: str) -> list[str]:
    span = f"for (i = 0; i < {columns}; ++i)"
    return [
        f"  const REAL *RESTRICT v = {w};",
        f"  REAL *RESTRICT y = {z};",
        f"  REAL sum[{columns}];",
        f"  {span} sum[i] = y[i];",
        f"  for (k = 0; k < {depth}; ++k, v += {columns}) {span} sum[i] += x[k] * v[i];",
        f"  {span} y[i] = sum[i];",
    ]


def product_of_int8(depth: int, columns: int) -> list[str]:
    """The same of a kernel in int8, column by column: sums are whole numbers, and exact."""
    lines = [
        f"int16_t q[{depth}];",
        f"const REAL step = @digits(x, {depth}, q);",
        "int i, k;",
        f"for (i = 0; i < {columns}; ++i, w += {depth}) {{",
        "  int32_t sum = 0;",
    ]
    if depth <= _MOST_IN_A_SUM:
        lines.append(f"  for (k = 0; k < {depth}; ++k) sum += (int32_t)q[k] * w[k];")
        return [*lines, "  z[i] += step * scales[i] * (REAL)sum;", "}"]
    return [
        *lines,
        "  REAL all = 0.0f;",
        f"  for (k = 0; k < {depth}; ++k) {{",
        "    sum += (int32_t)q[k] * w[k];",
        f"    if (k % {_MOST_IN_A_SUM} == {_MOST_IN_A_SUM - 1}) {{",
        "      all += (REAL)sum;",
        "      sum = 0;",
        "    }",
        "  }",
        "  z[i] += step * scales[i] * (all + (REAL)sum);",
        "}",
    ]
