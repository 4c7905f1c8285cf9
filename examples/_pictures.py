"""The pictures of encoder_decoder.py, characters.py, forecast.py and missing_values.py."""

import numpy as np
from _shared import GREEN, INK, MUTED, ORANGE, PURPLE, TEAL, bars, picture, plt
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

LINES = 18


def draw_written(watch, words, path):
    """Which unseen numbers are right after each epoch, and how one of them reads."""
    figure, (left, beside) = plt.subplots(1, 2, figsize=(11.6, 3.6), width_ratios=[2, 3.4])
    written, meant = np.array(watch.written), watch.words[:, 1:]
    right, epochs = np.all(written == meant, axis=2), np.arange(1, len(written) + 1)
    for digits in (3, 4, 5, 6):
        of_these = (watch.numbers >= 10 ** (digits - 1)) & (watch.numbers < 10**digits)
        left.plot(epochs, right[:, of_these].mean(axis=1), label=f"of {digits} digits")
    left.set(title="Unseen numbers without a fault", xlabel="epoch", ylim=(-0.02, 1.02))
    left.yaxis.set_major_formatter("{x:.0%}")
    left.legend(loc="lower right")
    rows = epochs[:8]
    number = watch.numbers[watch.shown]
    beside.set(title=f"{number:,} after each epoch", xlim=(-0.6, 10), ylim=(rows[-1] + 0.5, 0.3))
    beside.axis("off")
    for epoch in rows:
        beside.text(-0.3, epoch, epoch, color=MUTED, size=8, ha="right")
        pairs = zip(written[epoch - 1, watch.shown], meant[watch.shown], strict=True)
        for place, (word, wanted) in enumerate(pairs):
            colour = TEAL if word == wanted else ORANGE
            beside.text(place, epoch, words[word], color=colour, size=8)
    picture(figure, path)


def draw_forecast(record, ahead, band, errors, path):
    """The record from 1990 on with every fourth forecast, and the errors by weeks ahead."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 6.4), height_ratios=[3, 2])
    shown = slice(int(ahead[0, 0]), None)
    above.plot(record.dates[shown], record.ppm[shown], color=MUTED, lw=1, label="measured")
    for place in range(0, len(ahead), 4):  # they don't overlap
        low, median, high = (each[place] for each in band)
        dates, named = record.dates[ahead[place]], place == 0
        above.plot(dates, median, color=ORANGE, lw=1.4, label="forecast" if named else None)
        label = "eight in ten futures" if named else None
        above.fill_between(dates, low, high, color=ORANGE, alpha=0.25, lw=0, label=label)
        above.plot(dates[0], record.ppm[ahead[place, 0]], ".", color=INK)
    above.margins(x=0.01)
    below.margins(x=0.01)
    above.set(title="CO2 over Mauna Loa, each year forecast in one go", ylabel="ppm")
    above.legend(loc="upper left")
    for (name, error), colour in zip(errors.items(), (MUTED, TEAL, ORANGE), strict=True):
        below.plot(np.arange(1, error.shape[1] + 1), error.mean(axis=0), color=colour, label=name)
    below.set(title="Mean error by weeks ahead", xlabel="weeks ahead", ylabel="ppm", yscale="log")
    below.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"], minor=False)
    below.yaxis.minorticks_off()
    below.legend(loc="lower right", ncols=3)
    picture(figure, path)


def draw_read(watch, bits, text, path):
    """Bits per character by epoch, and lines of the held-out text, marked where it's unexpected."""
    figure, (left, beside) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[2, 3])
    for (name, value), colour in zip(bits.items(), (MUTED, PURPLE, GREEN, TEAL), strict=True):
        if name == "LSTM":
            left.plot(np.arange(1, len(watch.epochs) + 1), watch.epochs, color=colour, label=name)
        else:
            left.axhline(value, color=colour, ls="--", lw=1.4, label=name)
    left.set(title="Bits per held-out character", xlabel="epoch", ylim=(0, None))
    left.legend(loc="lower left", ncols=2)
    title = "Held-out text: the darker, the less the LSTM expected it"
    beside.set(title=title, xlim=(0, 76), ylim=(LINES, 0))
    beside.axis("off")
    start = text.index("\n\n") + 2
    for row in range(LINES):
        end = text.index("\n", start)
        for column, place in enumerate(range(start, end)):
            share = min(watch.bits[max(place - 1, 0)] / 10, 1)
            at = {"facecolor": (*to_rgb(ORANGE), share), "lw": 0}
            beside.add_patch(Rectangle((column, row), 1, 1, **at))
            at = {"family": "monospace", "size": 7, "ha": "center", "va": "center"}
            beside.text(column + 0.5, row + 0.5, text[place], **at)
        start = end + 1
    picture(figure, path)


def draw_missing_values(results, baseline, utterance, scores, path):
    """The shares of results, what is there of an utterance, and what is believed as it's read."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4))
    names, shares = list(results), np.array([share for share, _ in results.values()])
    colours = [TEAL, ORANGE]
    bars(left, names, 100 * shares, "Named right, % (baseline dashed)", colours, "%.1f")
    left.axvline(100 * baseline, color=INK, linestyle="--")
    values, there = np.split(utterance, 2, axis=-1)
    shown = np.where(there > 0.5, values, np.nan)
    middle.imshow(shown.T, aspect="auto", cmap="BrBG", vmin=-2.5, vmax=2.5)
    middle.set(title="What is there of an utterance", xlabel="timestep", ylabel="feature")
    middle.grid(visible=False)
    beliefs = np.exp(scores - scores.max(axis=-1, keepdims=True))
    beliefs /= beliefs.sum(axis=-1, keepdims=True)
    right.plot(100 * beliefs, color=MUTED)
    right.plot(100 * beliefs[:, beliefs[-1].argmax()], color=ORANGE, linewidth=2)
    right.set(title="Belief in each speaker, streamed, %", xlabel="timestep")
    picture(figure, path)
