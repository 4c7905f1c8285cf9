"""How every picture of the report looks: colours, type, and how a figure becomes an image."""

import base64
import functools
import io
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib import font_manager
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ostinato.guide.course import Picture

P = ParamSpec("P")
R = TypeVar("R")

INK, MUTED, GRID = "#1f2430", "#6c7280", "#e9e5dc"
TEAL, ORANGE, RED = "#0b7285", "#d9730d", "#c92a2a"
PAPER = "#fbf9f4"
# Told apart by people who are colour-blind, too.
LINES = (TEAL, ORANGE, "#7b4b94", "#5a8a2f", "#3b6fb6", "#b8486b")

SMALL = (5.4, 3.4)  # inches: two of them side by side fill the page
BOTH_SIGNS = LinearSegmentedColormap.from_list("both signs", [ORANGE, PAPER, TEAL])
SHARE = LinearSegmentedColormap.from_list("share", ["#ffffff", TEAL])
FAULTS = LinearSegmentedColormap.from_list("faults", ["#fbe3dc", RED])

FONTS = ("Inter", "Helvetica Neue", "Segoe UI", "Arial", "Liberation Sans", "DejaVu Sans")


def style() -> dict[str, Any]:
    """Returns matplotlib's settings for a figure."""
    present = {font.name for font in font_manager.fontManager.ttflist}
    return {
        "font.family": "sans-serif",
        "font.sans-serif": [font for font in FONTS if font in present],
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": "#c9c4b8",
        "axes.linewidth": 0.8,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "lines.linewidth": 2,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "path",  # a browser needs none of the fonts
        "svg.hashsalt": "ostinato",  # the same figure gives the same file
    }


def figure(width: float, height: float, layout: Any = "constrained") -> Any:
    """Returns an empty figure, in inches. No display is needed: nothing of pyplot is used."""
    return Figure(figsize=(width, height), layout=layout, facecolor="none")


def picture(drawn: Any, caption: str, alt: str, *, wide: bool = False) -> Picture:
    """Returns the figure as an image, embedded in its own address."""
    return Picture(embed(drawn), caption, alt, wide)


def embed(drawn: Any, *, stretch: bool = False) -> str:
    """Returns the figure as an SVG in a data URI; `stretch` lets it take any proportions."""
    file = io.StringIO()
    drawn.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    # Matplotlib's preamble names a DTD on the network.
    text = re.sub(r"<!DOCTYPE.*?>", "", file.getvalue(), flags=re.DOTALL)
    if stretch:
        text = text.replace("<svg ", '<svg preserveAspectRatio="none" ', 1)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def in_style(draw: Callable[P, R]) -> Callable[P, R]:
    """Makes a function that draws do so in this style, whatever matplotlib's settings are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(style()):
            return draw(*args, **kwargs)

    return drawn
