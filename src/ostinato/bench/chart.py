"""A picture of the comparison: SVG of our own, which needs no plotting library."""

from collections.abc import Iterable
from html import escape

from ostinato.bench.cases import KINDS, MODES, SIZES
from ostinato.bench.results import Row
from ostinato.bench.tables import Comparison, compare, in_order, milliseconds

WIDTH, LEFT, RIGHT = 900, 215, 40
BAR, GAP = 15, 5  # pixels: a bar's height, and between cases
COLOURS = {"infer": "#2a7f9e", "train": "#d9822b", "fit": "#7a5195"}
_STYLE = "font-family='system-ui, Helvetica, Arial, sans-serif'"


def speedups(runs: Iterable[Row], about: str, command: str) -> str:
    """Bars of how many times faster Ostinato is than the best of its peers, case by case."""
    found = [c for c in map(compare, in_order(runs)) if c is not None]
    scale = (WIDTH - LEFT - RIGHT - 235) / max([1.0, *(c.ratio for c in found)])
    drawn: list[str] = []
    top = 102.0
    for kind in KINDS:
        of_kind = [c for c in found if c.case.kind == kind]
        if of_kind:
            drawn.append(_text(16, top + 14, kind, size=15, weight=700))
            top = _cases(drawn, of_kind, top + 24, scale) + 14
    one = LEFT + scale
    line = (
        f"<path d='M {one:.1f} 94 V {top - 10:.1f}' fill='none' stroke='#333' "
        "stroke-dasharray='4 3'/>"
    )
    who = found[0].ours.title if found else "Ostinato"
    modes = [mode for mode in MODES if any(c.case.mode == mode for c in found)]
    head = [
        _text(16, 30, "How many times faster than the best other library", size=20, weight=700),
        _text(16, 51, f"{who}; ratio of the fastest runs, taken by turns. Longer is better.", 13),
        *_legend(modes),
        _text(one, 91, "as fast", 11, anchor="middle"),
    ]
    feet = [*_wrapped(about, 132), f"Made by: {command}"]
    foot = [_text(16, top + 12 + 15 * row, text, 11, "#555") for row, text in enumerate(feet)]
    height = top + 24 + 15 * len(feet)
    body = "\n".join([*head, line, *drawn, *foot])
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' "
        f"width='{WIDTH}' height='{height:.0f}' role='img' {_STYLE}>\n"
        f"<title>How many times faster Ostinato is than the best other library</title>\n"
        f"<rect width='100%' height='100%' fill='white'/>\n{body}\n</svg>\n"
    )


def _cases(drawn: list[str], found: list[Comparison], top: float, scale: float) -> float:
    for size in SIZES:
        of_size = [c for c in found if c.case.size == size]
        if not of_size:
            continue
        B, T, D, U = SIZES[size]
        middle = top + len(of_size) * BAR / 2 + 4
        drawn.append(_text(32, middle, size, 13, weight=600))
        drawn.append(_text(LEFT - 8, middle, f"B{B} T{T} D{D} U{U}", 11, "#555", anchor="end"))
        for comparison in of_size:
            drawn += _bar(comparison, top, scale)
            top += BAR
        top += GAP
    return top


def _bar(comparison: Comparison, top: float, scale: float) -> list[str]:
    length = comparison.ratio * scale
    label = (
        f"{milliseconds(comparison.ours_seconds)} ms, {comparison.peer.title} "
        f"{milliseconds(comparison.peer_seconds)} ms"
    )
    colour = COLOURS[comparison.case.mode]
    end = LEFT + max(length, scale)  # right of the line at 1
    return [
        f"<rect x='{LEFT}' y='{top:.1f}' width='{length:.1f}' height='{BAR - 2}' fill='{colour}'/>",
        _text(end + 5, top + 11, f"{comparison.ratio:.2f}", 12, weight=700),
        _text(end + 40, top + 11, label, 11, "#555"),
    ]


def _legend(modes: list[str]) -> list[str]:
    drawn = []
    for place, mode in enumerate(modes):
        x = 16 + 135 * place
        drawn.append(f"<rect x='{x}' y='62' width='12' height='12' fill='{COLOURS[mode]}'/>")
        drawn.append(_text(x + 18, 72, MODES[mode], 12))
    return drawn


def _text(
    x: float,
    y: float,
    text: str,
    size: int = 12,
    colour: str = "#111",
    *,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' "
        f"fill='{colour}' text-anchor='{anchor}'>{escape(text)}</text>"
    )


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
