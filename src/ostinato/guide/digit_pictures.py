"""The pictures of handwritten digits, and of what the model makes of them."""

import math
from typing import Any

import numpy as np

from ostinato.guide.course import Picture
from ostinato.guide.drawing import (
    BOTH_SIGNS,
    FAULTS,
    INK,
    LINES,
    MUTED,
    RED,
    SHARE,
    SMALL,
    TEAL,
    embed,
    figure,
    in_style,
    picture,
)


@in_style
def confusion(labels: Any, answers: Any) -> Picture:
    """Draws how often each digit was taken for which."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, answers), 1)
    right, wrong = np.eye(10, dtype=bool), ~np.eye(10, dtype=bool)
    drawn = figure(SMALL[0], 4.5)
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
    return picture(drawn, caption, "Confusion matrix of the ten digits")


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
    drawn = figure(10.8 if wide else SMALL[0], 0.5 + 0.8 * rows)
    axes = drawn.add_subplot()
    for place, index in enumerate(chosen):
        row, column = divmod(place, columns)
        left, top = 1.12 * column, -1.4 * row
        frame = (left, left + 1, top - 1, top)
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=1, extent=frame)
        wrong = labels[index] != answers[index]
        text = f"{answers[index]} ({labels[index]})" if wrong else f"{answers[index]}"
        weight = "bold" if wrong else "normal"
        style = {"ha": "center", "va": "top", "weight": weight, "color": RED if wrong else MUTED}
        axes.text(left + 0.5, top - 1.06, text, size=9, **style)
        if wrong:
            axes.plot(*_frame(left, top), color=RED, linewidth=1.2)
    axes.set(title=title, xlim=(-0.05, 1.12 * columns - 0.05), ylim=(-1.4 * rows, 0.08))
    axes.set_axis_off()
    return picture(drawn, caption, f"{title}: {caption}", wide=wide)


def _frame(left: float, top: float) -> tuple[list[float], list[float]]:
    return [left, left + 1, left + 1, left, left], [top, top, top - 1, top - 1, top]


@in_style
def verdict(image: Any, beliefs: Any, label: int) -> Picture:
    """Draws one digit beside the probabilities that the model gives."""
    drawn = figure(SMALL[0], 3.0)
    digit, bars = drawn.subplots(1, 2, width_ratios=[1, 1.2])
    digit.imshow(image, cmap="gray_r")
    digit.set(title=f"Target {label}")
    digit.set_axis_off()
    answer = int(np.argmax(beliefs))
    bars.barh(range(10), beliefs, color=[TEAL if n == answer else "#b9c6c8" for n in range(10)])
    bars.set(title=f"Predicted {answer}", xlim=(0, 1), ylim=(9.6, -0.6), xlabel="probability")
    bars.set_yticks(range(10))
    bars.grid(visible=False, axis="y")
    return picture(
        drawn,
        f"The model gives {beliefs[answer]:.1%} to {answer}.",
        f"A handwritten {label} and the probability of each digit",
    )


@in_style
def reading(image: Any, h: Any, c: Any, beliefs: Any) -> Picture:
    """Draws a digit, and on the same rows the LSTM's states and what they make it believe."""
    drawn = figure(10.8, 4.7)
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
        place.axvline(0, color="#c9c4b8", linewidth=0.8, zorder=0)
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
    return picture(drawn, caption, "States of the LSTM over the 28 rows of a digit", wide=True)


@in_style
def banner(h: Any) -> str:
    """Returns all units' outputs over a digit's rows as a strip of colours, without axes."""
    drawn = figure(12, 1.3, layout="none")
    axes = drawn.add_axes((0, 0, 1, 1))
    # By the row where a unit moves most, so that the strip reads as one motion.
    order = np.argsort(np.abs(np.diff(h, axis=0)).argmax(axis=0), kind="stable")
    axes.imshow(h[:, order], cmap=BOTH_SIGNS, vmin=-1, vmax=1, aspect="auto")
    axes.set_axis_off()
    return embed(drawn, stretch=True)
