"""The pictures of the report. Each function draws one, from arrays and lists, as an SVG.

How they look stands in report.mplstyle.
"""

import base64
import functools
import importlib.resources
import io
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ostinato.guide.section import Picture

if TYPE_CHECKING:
    from ostinato.guide.timing import Times

P = ParamSpec("P")
R = TypeVar("R")

INK, MUTED, GRID, AXIS = "#1f2430", "#6c7280", "#e9e5dc", "#c9c4b8"
TEAL, ORANGE, RED, PAPER = "#0b7285", "#d9730d", "#c92a2a", "#fbf9f4"
# Told apart by people who are colour-blind, too.
LINES = (TEAL, ORANGE, "#7b4b94", "#5a8a2f", "#3b6fb6", "#b8486b")
BOTH_SIGNS = LinearSegmentedColormap.from_list("both signs", [ORANGE, PAPER, TEAL])
SHARE = LinearSegmentedColormap.from_list("share", ["#ffffff", TEAL])
FAULTS = LinearSegmentedColormap.from_list("faults", ["#fbe3dc", RED])

SMALL, WIDE = (5.4, 3.4), 10.8  # inches: two small ones side by side fill the page


def in_style(draw: Callable[P, R]) -> Callable[P, R]:
    """Makes a function that draws do so in the report's style, whatever matplotlib's settings."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        style = importlib.resources.files("ostinato.guide") / "report.mplstyle"
        with importlib.resources.as_file(style) as path, matplotlib.style.context(path):
            return draw(*args, **kwargs)

    return drawn


def embed(drawn: Any, *, stretch: bool = False) -> str:
    """Returns the figure as an SVG in a data URI; `stretch` lets it take any proportions."""
    file = io.StringIO()
    drawn.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    # Matplotlib's preamble names a DTD on the network.
    text = re.sub(r"<!DOCTYPE.*?>", "", file.getvalue(), flags=re.DOTALL)
    if stretch:
        text = text.replace("<svg ", '<svg preserveAspectRatio="none" ', 1)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


@in_style
def memory(whole: Any, apart: Any) -> Picture:
    """Draws how long the vector h is over 30 timesteps, with state carried over and without."""
    drawn = Figure(SMALL)
    axes = drawn.add_subplot()
    steps = np.arange(1, len(whole) + 1)
    axes.plot(steps, np.linalg.norm(apart, axis=1), color=ORANGE, label="each paragraph anew")
    axes.plot(steps, np.linalg.norm(whole, axis=1), color=TEAL, label="stateful")
    for boundary in (10.5, 20.5):
        axes.axvline(boundary, ymax=0.8, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set(
        title="What the layer remembers",
        xlabel="timestep; dotted: where a new paragraph begins",
        ylabel="length of h",
        xlim=(1, len(steps)),
    )
    axes.set_ylim(0, 1.28 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left", ncols=2)
    caption = (
        "Stateful, a layer reads on where it stopped; without state it starts each paragraph anew."
    )
    return Picture(
        embed(drawn), caption, "Length of the state over 30 timesteps, with and without state"
    )


@in_style
def agreement(layer: Sequence[float], loop: Sequence[float]) -> Picture:
    """Draws two losses over the steps of an epoch, and below how far apart they are."""
    gaps = np.abs(np.subtract(layer, loop))
    steps = np.arange(1, len(layer) + 1)
    drawn = Figure(SMALL)
    if gaps.any():
        above, below = drawn.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
        below.semilogy(steps, np.maximum(gaps, 1e-8), color=ORANGE, linewidth=1.4)
        below.set(ylabel="difference", ylim=(5e-9, 1e-2))
        below.set_yticks([1e-8, 1e-5, 1e-2])
        beneath = "Below, what lies between the two runs (zero is drawn as 1e-8)."
    else:
        above = below = drawn.add_subplot()
        beneath = "The two runs are the same to the last bit, after every step."
    above.plot(steps, layer, color=TEAL, linewidth=5, alpha=0.35, label="LSTM(64)")
    above.plot(steps, loop, color=INK, linewidth=1.2, linestyle="--", label="RNN(LSTMCell(64))")
    above.set(title="One epoch, two ways to write it", ylabel="training loss")
    above.legend(loc="upper right")
    below.set(xlabel="step, of 64 digits each", xlim=(1, steps[-1]))
    caption = f"The loss that Keras's progress bar shows: the mean since the epoch began. {beneath}"
    return Picture(
        embed(drawn), caption, "Loss of LSTM and of RNN(LSTMCell) over one epoch: one curve"
    )


@in_style
def curves(history: Mapping[str, Sequence[float]]) -> tuple[Picture, Picture]:
    """Draws loss and accuracy over the epochs, on the digits trained on and on unseen ones."""
    titles = {"loss": "Loss", "accuracy": "Accuracy"}
    loss, accuracy = (_curve(history, name, title) for name, title in titles.items())
    return loss, accuracy


def _curve(history: Mapping[str, Sequence[float]], name: str, title: str) -> Picture:
    drawn = Figure(SMALL)
    axes = drawn.add_subplot()
    epochs = np.arange(1, len(history[name]) + 1)
    dots = {"marker": "o", "markersize": 4.5}
    axes.plot(epochs, history[name], color=TEAL, label="digits trained on", **dots)
    axes.plot(epochs, history[f"val_{name}"], color=ORANGE, label="unseen digits", **dots)
    axes.set(title=title, xlabel="epoch")
    axes.set_xticks(epochs[:: max(1, len(epochs) // 8)])
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])  # room for the legend
    if name == "accuracy":
        axes.set_ylim(min(0.8, *history[name], *history[f"val_{name}"]) - 0.02, 1.0)
        axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(loc="lower right" if name == "accuracy" else "upper right")
    last = history[f"val_{name}"][-1]
    seen = f"{last:.1%}" if name == "accuracy" else f"{last:.3f}"
    return Picture(embed(drawn), f"On unseen digits {seen} at the end.", f"{title} by epoch")


@in_style
def nested(parts: Mapping[str, Sequence[Any]]) -> Picture:
    """Draws a vector and a matrix for each name: what goes into the cell, and what comes out."""
    drawn = Figure(SMALL)
    columns = drawn.subplots(1, 2 * len(parts), width_ratios=[1, 9] * len(parts))
    for place, (name, (vector, matrix)) in enumerate(parts.items()):
        beside, axes = columns[2 * place], columns[2 * place + 1]
        colours = BOTH_SIGNS if np.min(matrix) < 0 else SHARE
        for each, values in ((beside, vector[:, None]), (axes, matrix)):
            end = float(np.max(np.abs(values)))
            start = -end if colours is BOTH_SIGNS else 0
            each.imshow(values, cmap=colours, vmin=start, vmax=end, aspect="auto")
            each.set(xticks=[], yticks=[])
            each.grid(visible=False)
            each.spines[:].set(visible=True, color=AXIS)
        axes.set_title(name, size=10)
        beside.set_xlabel(str(len(vector)), size=9)
        axes.set_xlabel(" x ".join(map(str, matrix.shape)), size=9)
    caption = (
        "One sample at its last timestep: what goes into the cell, what comes out, what it keeps. "
        "Orange is below zero."
    )
    return Picture(
        embed(drawn), caption, "A vector and a matrix as input, output and state of the cell"
    )


@in_style
def timing(times: Sequence["Times"]) -> Picture:
    """Draws the time of each step, of Ostinato's layers and of Keras's, with the medians."""
    drawn = Figure((WIDE, 1.3 + 1.15 * len(times)))
    axes = drawn.add_subplot()
    random = np.random.default_rng(0)
    end = 1.2 * max(np.quantile(spent, 0.95) for t in times for spent in (t.ours, t.keras))
    ticks = []
    for place, each in enumerate(times):
        lines = ((each.ours, TEAL, "Ostinato"), (each.keras, ORANGE, "Keras"))
        for offset, (spent, colour, name) in zip((-0.2, 0.2), lines, strict=True):
            y, middle = place + offset, statistics.median(spent)
            jitter = y + random.uniform(-0.1, 0.1, len(spent))
            axes.scatter(spent, jitter, s=11, color=colour, alpha=0.45, linewidths=0)
            axes.plot([middle, middle], [y - 0.17, y + 0.17], color=colour, linewidth=3)
            ticks.append((y, f"{each.name}, {name}"))
            at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            at |= {"va": "center", "color": colour}
            axes.annotate(f"{middle:.1f} ms", (1, y), xytext=(6, 0), weight="bold", **at)
            axes.annotate(f"min {min(spent):.1f}", (1, y), xytext=(62, 0), size=9, **at)
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.set(xlim=(0, end), ylim=(len(times) - 0.5, -0.5), xlabel="milliseconds")
    axes.set(title="Time of a training step")
    axes.grid(visible=False, axis="y")
    for border in range(1, len(times)):
        axes.axhline(border - 0.5, color=GRID, linewidth=0.8)
    beyond = sum(step > end for t in times for spent in (t.ours, t.keras) for step in spent)
    caption = (
        f"Each dot is one step of the guide's model on 64 digits; the bar and the number are the "
        f"median of {len(times[0].ours)}, beside it the fastest. The layers took turns "
        "in one run, on one backend. "
        + (f"Beyond the right edge: {beyond} slower steps." if beyond else "")
    )
    return Picture(
        embed(drawn), caption, "Time per training step, Ostinato beside Keras", wide=True
    )


@in_style
def confusion(labels: Any, answers: Any) -> Picture:
    """Draws how often each digit was taken for which."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, answers), 1)
    right, wrong = np.eye(10, dtype=bool), ~np.eye(10, dtype=bool)
    drawn = Figure((SMALL[0], 4.5))
    axes = drawn.add_subplot()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(np.ma.array(share, mask=wrong), cmap=SHARE, vmin=0, vmax=1.15)
    worst = max(4, counts[wrong].max())
    axes.imshow(np.ma.array(counts, mask=right | (counts == 0)), cmap=FAULTS, vmin=1, vmax=worst)
    for row, column in zip(*np.nonzero(counts), strict=True):
        dark = share[row, column] > 0.5 if row == column else counts[row, column] > 0.6 * worst
        axes.text(
            column, row, counts[row, column], ha="center", va="center", size=9,
            color="white" if dark else INK,
        )  # fmt: skip
    axes.set(title="Which digit is taken for which", xlabel="predicted", ylabel="target")
    axes.set_xticks(range(10))
    axes.set_yticks(range(10))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    caption = f"{counts[right].sum():,} right, {counts[wrong].sum():,} wrong of {counts.sum():,}."
    return Picture(embed(drawn), caption, "Confusion matrix of the ten digits")


@in_style
def galleries(images: Any, labels: Any, answers: Any, shown: int = 40) -> list[Picture]:
    """Draws the first unseen digits with predictions, and the first that were named wrong."""
    first = np.arange(min(shown, len(images)))
    faults = np.flatnonzero(labels != answers)
    wrong_here = int(np.sum(labels[first] != answers[first]))
    caption = f"Below each what was predicted; {wrong_here} of these {len(first)} are wrong."
    pictures = [_gallery("The first unseen digits", caption, images, labels, answers, first)]
    if len(faults):
        some = faults[:48]
        number = f"{len(some)} of the" if len(some) < len(faults) else "All"
        number += f" {len(faults)}"
        caption = f"{number} that were named wrong: predicted, then in brackets the target."
        pictures.append(_gallery("Misread", caption, images, labels, answers, some, wide=True))
    return pictures


def _gallery(
    title: str,
    caption: str,
    images: Any,
    labels: Any,
    answers: Any,
    chosen: Any,
    wide: bool = False,
) -> Picture:
    columns = 16 if wide else 8
    rows = math.ceil(len(chosen) / columns)
    drawn = Figure((WIDE if wide else SMALL[0], 0.5 + 0.8 * rows))
    axes = drawn.add_subplot()
    for place, index in enumerate(chosen):
        row, column = divmod(place, columns)
        left, top = 1.12 * column, -1.4 * row
        frame = (left, left + 1, top - 1, top)
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=1, extent=frame)
        wrong = labels[index] != answers[index]
        text = f"{answers[index]} ({labels[index]})" if wrong else f"{answers[index]}"
        weight = "bold" if wrong else "normal"
        text_style = {
            "ha": "center",
            "va": "top",
            "weight": weight,
            "color": RED if wrong else MUTED,
        }
        axes.text(left + 0.5, top - 1.06, text, size=9, **text_style)
        if wrong:
            axes.plot(*_frame(left, top), color=RED, linewidth=1.2)
    axes.set(title=title, xlim=(-0.05, 1.12 * columns - 0.05), ylim=(-1.4 * rows, 0.08))
    axes.set_axis_off()
    return Picture(embed(drawn), caption, f"{title}: {caption}", wide=wide)


def _frame(left: float, top: float) -> tuple[list[float], list[float]]:
    return [left, left + 1, left + 1, left, left], [top, top, top - 1, top - 1, top]


@in_style
def verdict(image: Any, beliefs: Any, label: int) -> Picture:
    """Draws one digit beside the probabilities that the model gives."""
    drawn = Figure((SMALL[0], 3.0))
    digit, bars = drawn.subplots(1, 2, width_ratios=[1, 1.2])
    digit.imshow(image, cmap="gray_r")
    digit.set(title=f"Target {label}")
    digit.set_axis_off()
    answer = int(np.argmax(beliefs))
    bars.barh(range(10), beliefs, color=[TEAL if n == answer else "#b9c6c8" for n in range(10)])
    bars.set(title=f"Predicted {answer}", xlim=(0, 1), ylim=(9.6, -0.6), xlabel="probability")
    bars.set_yticks(range(10))
    bars.grid(visible=False, axis="y")
    return Picture(
        embed(drawn),
        f"The model gives {beliefs[answer]:.1%} to {answer}.",
        f"A handwritten {label} and the probability of each digit",
    )


@in_style
def reading(image: Any, h: Any, c: Any, beliefs: Any) -> Picture:
    """Draws a digit, and on the same rows the LSTM's states and what they make it believe."""
    drawn = Figure((WIDE, 4.7))
    axes = drawn.subplots(1, 4, sharey=True, width_ratios=[1.5, 1, 1, 0.9])
    # All 64 would be a thicket: those that move most, told apart by colour.
    units = np.sort(np.argsort(np.ptp(h, axis=0))[-len(LINES) :])
    rows = np.arange(1, len(image) + 1)
    axes[0].imshow(image, cmap="gray_r", extent=(0.5, 28.5, 28.5, 0.5), aspect="auto")
    axes[0].set(title="The digit", ylabel="row, read from top to bottom")
    axes[0].set_xticks([])
    for place, values, title in ((axes[1], h, "h, the output"), (axes[2], c, "c, the memory")):
        for unit, colour in zip(units, LINES, strict=True):
            place.plot(values[:, unit], rows, color=colour, linewidth=1.7, label=f"unit {unit}")
        place.axvline(0, color=AXIS, linewidth=0.8, zorder=0)
        place.set(title=title, xlabel="value after the row")
    frame = (-0.5, 9.5, 28.5, 0.5)
    axes[3].imshow(beliefs, cmap=SHARE, vmin=0, vmax=1, aspect="auto", extent=frame)
    axes[3].set(title="What it believes", xlabel="digit")
    axes[3].set_xticks(range(10))
    for place in (axes[0], axes[3]):
        place.grid(visible=False)
        place.spines[:].set_visible(False)
    axes[0].set_ylim(28.5, 0.5)
    axes[0].set_yticks([1, 7, 14, 21, 28])
    drawn.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=len(units))
    caption = (
        f"The LSTM reads one row after the other. Shown are the {len(units)} of its 64 units that "
        "move most. "
        "On the right, the probability of each digit if the reading stopped after that row."
    )
    return Picture(
        embed(drawn), caption, "States of the LSTM over the 28 rows of a digit", wide=True
    )


@in_style
def banner(h: Any) -> str:
    """Returns all units' outputs over a digit's rows as a strip of colours, without axes."""
    drawn = Figure((12, 1.3), layout="none")
    axes = drawn.add_axes((0, 0, 1, 1))
    # By the row where a unit moves most, so that the strip reads as one motion.
    order = np.argsort(np.abs(np.diff(h, axis=0)).argmax(axis=0), kind="stable")
    axes.imshow(h[:, order], cmap=BOTH_SIGNS, vmin=-1, vmax=1, aspect="auto")
    axes.set_axis_off()
    return embed(drawn, stretch=True)
