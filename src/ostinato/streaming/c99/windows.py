"""What looks back over timesteps, in C: windows of the last few, and pools of all so far.

A window's timesteps lie in a ring: rows, and the number of the oldest.
"""

from collections.abc import Sequence

import numpy as np

from ostinato.streaming import program as p
from ostinato.streaming.c99.source import Source
from ostinato.streaming.program import Operation

_ARGUMENTS = ["const REAL *RESTRICT x", "REAL *RESTRICT out"]


def write_window(
    source: Source,
    operation: Operation,
    depth: int,
    state: str,
    weights: Sequence[np.ndarray],
) -> tuple[str, list[str]]:
    """The function `(x, out[, rows, oldest])` of a window, and what comes after x and out.

    Args:
        source: Where it's written to.
        operation: The WINDOW.
        depth: The width of what it reads.
        state: The member with the rows; "" of a window of one timestep.
        weights: Of WEIGHTED its kernel.
    """
    name, last, span = f"@window{operation.out}", operation.taps - 1, 0
    kernel = source.weight(weights[0]) if weights else ""
    lines = ["int i;"]
    if last:
        span = last * operation.dilation
        lines = ["const int at = *oldest;", "int i, k;", f"for (k = 0; k < {last}; ++k) {{"]
        lines.append(f"  const int behind = at + k * {operation.dilation};")
        row = f"rows + {depth} * (behind < {span} ? behind : behind - {span})"
        lines.append(f"  const REAL *RESTRICT row = {row};")
        lines += [f"  {line}" for line in _taking(source, operation, depth, "row", "k", kernel)]
        lines.append("}")
    lines += _taking(source, operation, depth, "x", str(last), kernel)
    if operation.kind == p.MEAN:
        lines.append(f"for (i = 0; i < {depth}; ++i) out[i] /= {operation.taps}.0f;")
    if not last:
        return source.function(name, _ARGUMENTS, lines), []
    lines.append(f"for (i = 0; i < {depth}; ++i) rows[{depth} * at + i] = x[i];")
    lines.append(f"*oldest = at + 1 == {span} ? 0 : at + 1;")
    source.function(name, [*_ARGUMENTS, "REAL *RESTRICT rows", "int *oldest"], lines)
    return name, [state, source.counter(operation.out, "the oldest of a window")]


def _taking(
    source: Source, operation: Operation, depth: int, row: str, tap: str, kernel: str
) -> list[str]:
    """Statements that put the timestep of a tap into `out`."""
    span = f"for (i = 0; i < {depth}; ++i)"
    if operation.kind == p.ALL:
        return [f"{span} out[{depth} * {tap} + i] = {row}[i];"]
    value = f"{row}[i] * {kernel}[{depth} * {tap} + i]" if kernel else f"{row}[i]"
    if operation.taps == 1:
        return [f"{span} out[i] = {value};"]
    if operation.kind == p.LARGEST:
        joined = f"{source.call('maximum')}(out[i], {value})"
    else:
        joined = f"out[i] + {value}"
    if tap != "k":
        return [f"{span} out[i] = {joined};"]
    return [f"{span} out[i] = k == 0 ? {value} : {joined};"]


def write_pool(source: Source, operation: Operation) -> str:
    """The function of a pool: `(x, out, largest)`, or `(x, out, sum, lost, count, mask)`."""
    name, width = f"@pool{operation.out}", operation.width
    if operation.kind == p.POOL_LARGEST:
        value = f"{source.call('maximum')}(largest[i], x[i])"
        lines = ["int i;", f"for (i = 0; i < {width}; ++i) out[i] = largest[i] = {value};"]
        return source.function(name, [*_ARGUMENTS, "REAL *RESTRICT largest"], lines)
    most = f"{p.COUNTED_BY}.0f"
    lines = [
        "REAL number;",
        "int i;",
        "if (mask) {",
        "  count[1] += 1.0f;",
        f"  if (count[1] >= {most}) {{",
        "    count[0] += 1.0f;",
        f"    count[1] -= {most};",
        "  }",
        f"  for (i = 0; i < {width}; ++i) {{",
        # Kahan's sum: what one timestep's rounding lost is added at the next.
        "    const REAL added = x[i] - lost[i], made = sum[i] + added;",
        "    const REAL off = (made - sum[i]) - added;",
        "    lost[i] = off - off == 0.0f ? off : 0.0f;",
        "    sum[i] = made;",
        "  }",
        "}",
        f"number = count[0] * {most} + count[1];",
        f"for (i = 0; i < {width}; ++i) out[i] = sum[i] / number;",
    ]
    kept = [f"REAL *RESTRICT {each}" for each in ("sum", "lost", "count")]
    return source.function(name, [*_ARGUMENTS, *kept, "int mask"], lines)
