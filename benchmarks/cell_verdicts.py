"""What `python -m benchmarks cells` showed: a table for each backend, and the targets."""

import statistics
from collections.abc import Iterator

from benchmarks import targets
from benchmarks.own_cells import CELLS
from benchmarks.verdict import Verdict
from ostinato.bench.cases import MODES
from ostinato.bench.results import Results, Row
from ostinato.bench.tables import markdown, milliseconds
from ostinato.machine import FRAMEWORKS

SIZES, PORTABLE = ("S", "M"), "scan"
PAIRS = [(size, mode) for size in SIZES for mode in ("infer", "train")]
_COLUMNS = {
    ("infer", "seconds"): "forward, ms",
    ("infer", "lstm"): "over LSTM",
    ("infer", "scan"): "faster than `scan`",
    ("train", "seconds"): "training, ms",
    ("train", "lstm"): "over LSTM",
    ("train", "scan"): "faster than `scan`",
}


def table(results: Results) -> str:
    """Markdown: for each backend and size a row a cell."""
    parts = []
    for backend in FRAMEWORKS:
        for size in SIZES:
            rows = [_row(results, backend, cell, size) for cell in CELLS]
            lines = [row for row in rows if row is not None]
            if lines:
                headings = (f"{FRAMEWORKS[backend]}, {size}", *_COLUMNS.values(), "memory", "")
                parts.append(markdown(headings, lines))
    return "\n\n".join(parts)


def cell_verdicts(results: Results) -> Iterator[Verdict]:
    """Section by section what was wanted of cells of one's own, beside what was measured."""
    for backend in dict.fromkeys(row["backend"] for row in results.section("cells")):
        yield from _over_lstm(results, backend)
        yield from _over_scan(results, backend)
        yield from _memory(results, backend)
    for row in results.section("cells_stream"):
        what = f"{row['cell']}, 64 units, {row['backend']}"
        group = "Cells of one's own: microseconds a timestep of ostinato.stream"
        yield Verdict(
            group, what, targets.CELLS_STREAM, row["us"], at_most=True, note=row["why_not"]
        )


def _over_lstm(results: Results, backend: str) -> Iterator[Verdict]:
    group = "Cells of one's own: time over the built-in LSTM's"
    for cell, of_backend in targets.CELLS_OVER_LSTM.items():
        for size, mode in PAIRS:
            row = _find(results, backend, cell, size, mode)
            what = f"{FRAMEWORKS[backend]}, {cell} {size}, {MODES[mode]}"
            got = row["seconds"] / row["lstm"] if row else None
            note = f"{milliseconds(row['seconds'])} ms" if row else ""
            yield Verdict(group, what, of_backend[backend], got, at_most=True, note=note)


def _over_scan(results: Results, backend: str) -> Iterator[Verdict]:
    group, title = "Cells of one's own: times faster than the portable loop", FRAMEWORKS[backend]
    gated = [name for name, cell in CELLS.items() if cell.is_gated]
    for size, mode in PAIRS:
        where = f"{size}, {MODES[mode]}"
        wanted = targets.CELLS_GATED[backend][mode]
        times = _times(results, backend, gated, size, mode)
        whole = len(times) == len(gated)
        median = statistics.median(times.values()) if whole else None
        yield Verdict(group, f"{title}, median of gated cells, {where}", wanted, median)
        for cell in targets.CELLS_VAST_NAMES:
            got = _times(results, backend, [cell], size, mode).get(cell)
            wanted = targets.CELLS_VAST[backend][mode]
            yield Verdict(group, f"{title}, {cell}, {where}", wanted, got)
        times = _times(results, backend, list(CELLS), size, mode)
        slowest = min(times, key=lambda cell: times[cell]) if times else ""
        what = f"{title}, slowest of {len(times)} cells, {where}"
        yield Verdict(group, what, targets.CELLS_SLOWEST, times.get(slowest), note=slowest)
    engines = [row["engine"] for row in _rows(results, backend, "S", "train")]
    compiled = float(engines.count("compiled"))
    group = "Cells of one's own: how many are compiled"
    yield Verdict(group, f"{title}, of {len(engines)}", targets.CELLS_COMPILED, compiled)


def _memory(results: Results, backend: str) -> Iterator[Verdict]:
    group = "Cells of one's own: peak memory of a training step over the portable loop's"
    for cell in CELLS:
        ours, portable = _peaks(results, backend, cell)
        got = ours / portable if ours is not None and portable else None
        note = f"{ours >> 20} MB; {portable >> 20} MB" if ours is not None and portable else ""
        what = f"{FRAMEWORKS[backend]}, {cell}"
        yield Verdict(group, what, targets.MEMORY, got, at_most=True, note=note)


def _row(results: Results, backend: str, cell: str, size: str) -> tuple[str, ...] | None:
    found = {mode: _find(results, backend, cell, size, mode) for mode in ("infer", "train")}
    if not any(found.values()):
        return None
    texts = [_entry(found[mode], what) for mode, what in _COLUMNS]
    ours, portable = _peaks(results, backend, cell)
    is_measured_here = size == ("S" if CELLS[cell].is_vast else "M")
    both = f"{ours >> 20} / {portable >> 20}" if ours is not None and portable is not None else "-"
    engines = {row["engine"] for row in found.values() if row} - {"compiled"}
    return (cell, *texts, both if is_measured_here else "", ", ".join(engines))


def _entry(row: Row | None, what: str) -> str:
    if row is None:
        return "-"
    if what == "seconds":
        return milliseconds(row["seconds"])
    ratio = row["seconds"] / row["lstm"] if what == "lstm" else row["scan"] / row["seconds"]
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _peaks(results: Results, backend: str, cell: str) -> tuple[int | None, int | None]:
    """Bytes of ours and of the portable loop."""
    wanted = {"backend": backend, "cell": cell}
    rows = [results.find("cells_memory", {**wanted, "engine": e}) for e in ("ours", PORTABLE)]
    ours, portable = (row["bytes"] if row else None for row in rows)
    return ours, portable


def _times(
    results: Results, backend: str, cells: list[str], size: str, mode: str
) -> dict[str, float]:
    """How many times faster than the portable loop the measured ones of some cells are."""
    rows = [row for row in _rows(results, backend, size, mode) if row["cell"] in cells]
    return {row["cell"]: row["scan"] / row["seconds"] for row in rows}


def _rows(results: Results, backend: str, size: str, mode: str) -> list[Row]:
    found = (_find(results, backend, cell, size, mode) for cell in CELLS)
    return [row for row in found if row is not None]


def _find(results: Results, backend: str, cell: str, size: str, mode: str) -> Row | None:
    wanted = {"backend": backend, "cell": cell, "size": size, "mode": mode}
    return results.find("cells", wanted)
