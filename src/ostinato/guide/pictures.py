"""The pictures of losses, states and times. Each function draws one, from arrays and lists."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ostinato.guide.course import Picture
from ostinato.guide.drawing import (
    BOTH_SIGNS,
    GRID,
    INK,
    MUTED,
    ORANGE,
    SHARE,
    SMALL,
    TEAL,
    figure,
    in_style,
    picture,
)

if TYPE_CHECKING:
    from ostinato.guide.timing import Times


@in_style
def memory(whole: Any, apart: Any) -> Picture:
    """Draws how long the vector h is over 30 timesteps, with state carried over and without."""
    drawn = figure(*SMALL)
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
    return picture(drawn, caption, "Length of the state over 30 timesteps, with and without state")


@in_style
def agreement(layer: Sequence[float], loop: Sequence[float]) -> Picture:
    """Draws two losses over the steps of an epoch, and below how far apart they are."""
    gaps = np.abs(np.subtract(layer, loop))
    steps = np.arange(1, len(layer) + 1)
    drawn = figure(*SMALL)
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
    return picture(drawn, caption, "Loss of LSTM and of RNN(LSTMCell) over one epoch: one curve")


@in_style
def curves(history: Mapping[str, Sequence[float]]) -> tuple[Picture, Picture]:
    """Draws loss and accuracy over the epochs, on the digits trained on and on unseen ones."""
    titles = {"loss": "Loss", "accuracy": "Accuracy"}
    loss, accuracy = (_curve(history, name, title) for name, title in titles.items())
    return loss, accuracy


def _curve(history: Mapping[str, Sequence[float]], name: str, title: str) -> Picture:
    drawn = figure(*SMALL)
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
    return picture(drawn, f"On unseen digits {seen} at the end.", f"{title} by epoch")


@in_style
def nested(parts: Mapping[str, Sequence[Any]]) -> Picture:
    """Draws a vector and a matrix for each name: what goes into the cell, and what comes out."""
    drawn = figure(*SMALL)
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
            each.spines[:].set(visible=True, color="#c9c4b8")
        axes.set_title(name, size=10)
        beside.set_xlabel(str(len(vector)), size=9)
        axes.set_xlabel(" x ".join(map(str, matrix.shape)), size=9)
    caption = (
        "One sample at its last timestep: what goes into the cell, what comes out, what it keeps. "
        "Orange is below zero."
    )
    return picture(drawn, caption, "A vector and a matrix as input, output and state of the cell")


@in_style
def timing(times: Sequence["Times"]) -> Picture:
    """Draws the time of each step, of Ostinato's layers and of Keras's, with the medians."""
    drawn = figure(10.8, 1.3 + 1.15 * len(times))
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
    return picture(drawn, caption, "Time per training step, Ostinato beside Keras", wide=True)
