"""A picture of the comparison, by matplotlib."""

import io
import textwrap
from collections.abc import Iterable
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ostinato.bench.cases import KINDS, MODES, SIZES
from ostinato.bench.results import Row
from ostinato.bench.tables import Comparison, compare, in_order, milliseconds

COLOURS = {"infer": "#2a7f9e", "train": "#d9822b", "fit": "#7a5195"}
FAINT = "#555555"
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: a tenth of the size, and it can be searched
    "svg.hashsalt": "ostinato",  # the same numbers give the same file
}
WIDTH, BAR, MARGIN = 9.4, 0.165, 1.75  # inches: of all, of a bar's row, above and below the bars
GAP, HEADING = 0.4, 1.6  # rows: between sizes, and for the name of a kind


def speedups(runs: Iterable[Row], about: str, command: str) -> str:
    """Bars of how many times faster Ostinato is than its best peer, case by case, as SVG."""
    found = [c for c in map(compare, in_order(runs)) if c is not None]
    with matplotlib.rc_context(STYLE):
        drawn = Figure(facecolor="white")
        axes = drawn.add_subplot()
        rows = _draw(axes, found)
        drawn.set_size_inches(WIDTH, height := MARGIN + BAR * rows)
        drawn.subplots_adjust(0.235, 0.62 / height, 0.985, 1 - (MARGIN - 0.62) / height)
        who = found[0].ours.title if found else "Ostinato"
        left, top = 0.015, height - 0.3
        drawn.text(left, top / height, "How many times faster than the best other library",
                   size=14, weight="bold")  # fmt: skip
        said = f"{who}; ratio of the fastest runs, taken by turns. Longer is better."
        drawn.text(left, (top - 0.24) / height, said)
        modes = [mode for mode in MODES if any(c.case.mode == mode for c in found)]
        keys = [axes.barh(0, 0, color=COLOURS[mode], label=MODES[mode]) for mode in modes]
        drawn.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, (top - 0.27) / height),
                     ncols=len(modes) or 1, frameon=False, handlelength=1)  # fmt: skip
        foot = textwrap.fill(about, 150) + f"\nMade by: {command}"
        drawn.text(left, 0.1 / height, foot, size=7.5, color=FAINT, va="bottom")
        file = io.StringIO()
        drawn.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _draw(axes: Any, found: list[Comparison]) -> float:
    """Draws all bars, from the top down, and returns how many rows they take."""
    longest = max([1.0, *(c.ratio for c in found)])
    axes.set(xlim=(0, 1.6 * longest))  # room for what stands beside a bar
    row = 0.0
    for kind in KINDS:
        of_kind = [c for c in found if c.case.kind == kind]
        if of_kind:
            axes.text(-0.293, row + 0.8, kind, size=11, weight="bold",
                      transform=axes.get_yaxis_transform())  # fmt: skip
            row += HEADING
        for size in SIZES:
            of_size = [c for c in of_kind if c.case.size == size]
            for place, comparison in enumerate(of_size):
                _bar(axes, comparison, row + place)
            if of_size:
                _size(axes, size, row + (len(of_size) - 1) / 2)
                row += len(of_size) + GAP
    axes.axvline(1, color="#333333", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate("as fast", (1, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                  textcoords="offset points", ha="center", size=8)  # fmt: skip
    axes.set_ylim(row, -0.5)
    axes.set_axis_off()
    return row


def _size(axes: Any, size: str, row: float) -> None:
    B, T, D, U = SIZES[size]
    beside = {"transform": axes.get_yaxis_transform(), "va": "center"}
    axes.text(-0.27, row, size, weight="bold", **beside)
    axes.text(-0.01, row, f"B{B} T{T} D{D} U{U}", size=8, color=FAINT, ha="right", **beside)


def _bar(axes: Any, comparison: Comparison, row: float) -> None:
    axes.barh(row, comparison.ratio, 0.84, color=COLOURS[comparison.case.mode])
    at = {"xy": (max(comparison.ratio, 1), row), "textcoords": "offset points", "va": "center"}
    axes.annotate(f"{comparison.ratio:.2f}", xytext=(4, 0), weight="bold", **at)
    said = (
        f"{milliseconds(comparison.ours_seconds)} ms, {comparison.peer.title} "
        f"{milliseconds(comparison.peer_seconds)} ms"
    )
    axes.annotate(said, xytext=(30, 0), size=8, color=FAINT, **at)
