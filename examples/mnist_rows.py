"""Handwritten digits, read row by row: a training that may be killed at any time, and goes on.

    python examples/mnist_rows.py      # kill it, run it again: it goes on where it was

Keras's callbacks do it, as with any Keras layer: after each epoch CSVLogger writes a line,
ModelCheckpoint keeps the best model, and BackupAndRestore the weights and the optimizer's state.
The digits come in the same order in every epoch; so a run that was killed ends with the very
weights of one that wasn't. The baseline names the digit whose mean picture is nearest.
"""

import csv

import _shared  # first: it chooses the backend
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

from ostinato.guide import digits
from ostinato.layers import LSTM

BATCH, UNITS = 64, 128
HELD_BACK = 1000  # of the training digits: they choose the best epoch


def build(steps):
    """An LSTM that reads 28 rows of 28 pixels; its learning rate falls over all the steps."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((28, 28)), LSTM(UNITS), layers.Dense(10)])
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(adam, loss, metrics=["accuracy"])
    return model


def rows_of(log):
    """The log's lines, one an epoch, as dicts of numbers."""
    with log.open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    # Killed between log and backup, an epoch is run and logged once more, the same.
    return list({row["epoch"]: row for row in rows}.values())


def train(model, data, epochs, folder):
    """Fits, from the beginning or from where an earlier run was killed; returns the log."""
    backup, log = folder / "backup", folder / "log.csv"
    interrupted = (backup / "training_metadata.json").exists()
    done = rows_of(log) if interrupted else []
    if interrupted:
        print(f"An earlier run was stopped after epoch {len(done)} of {epochs}: going on.")
    least = max((row["val_accuracy"] for row in done), default=None)  # to be the best from now on
    best = {"monitor": "val_accuracy", "save_best_only": True, "initial_value_threshold": least}
    callbacks = [
        keras.callbacks.CSVLogger(log, append=interrupted),
        keras.callbacks.ModelCheckpoint(folder / "best.keras", **best),
        keras.callbacks.BackupAndRestore(backup, double_checkpoint=True),  # last: logged first
    ]
    data |= {"batch_size": BATCH, "epochs": epochs, "shuffle": False}
    model.fit(**data, callbacks=callbacks, verbose=2)
    return rows_of(log)


def draw(log, baseline, wrong, path):
    """The curves, and the digits that were missed with most confidence."""
    figure = plt.figure(figsize=(10, 3.8))
    curves, gallery = figure.subfigures(1, 2)
    axes = curves.subplots()
    epochs = [row["epoch"] + 1 for row in log]
    for key, label in (("accuracy", "training"), ("val_accuracy", "held back")):
        axes.plot(epochs, [100 * row[key] for row in log], marker="o", markersize=4, label=label)
    axes.axhline(100 * baseline, color=_shared.MUTED, linestyle="--", label="nearest mean, unseen")
    axes.set(title="Digits named right", xlabel="epoch", ylabel="%", ylim=(None, 100.5))
    axes.legend(loc="lower right")
    gallery.suptitle("Missed with most confidence", fontsize=11, fontweight="bold")
    for place, (image, label, answer) in zip(gallery.subplots(2, 5).flat, wrong, strict=False):
        place.imshow(image, cmap="Greys")
        place.set_title(f"a {label}, not {answer}", fontsize=9, fontweight="normal")
        place.axis("off")
    _shared.picture(figure, path)


def main(argv=None):
    asked = _shared.arguments(__doc__, argv, epochs=12, digits=8500)
    folder = asked.output / "mnist_rows"
    folder.mkdir(exist_ok=True)
    shipped = digits.shipped("10,000 digits of MNIST").part(asked.digits, 1500)
    x, y = shipped.x_train[HELD_BACK:], shipped.y_train[HELD_BACK:]
    held_back = shipped.x_train[:HELD_BACK], shipped.y_train[:HELD_BACK]
    unseen, truth = shipped.x_test, shipped.y_test
    print(f"{len(x):,} digits to train on, {HELD_BACK:,} to choose an epoch, {len(truth):,} unseen")

    data = {"x": x, "y": y, "validation_data": held_back}
    model = build(asked.epochs * -(-len(x) // BATCH))
    log = train(model, data, asked.epochs, folder)
    best = max(log, key=lambda row: row["val_accuracy"])
    print(f"Best epoch: {best['epoch'] + 1:.0f}, {best['val_accuracy']:.1%} of those held back")
    scores = keras.saving.load_model(folder / "best.keras").predict(unseen, verbose=0)
    answers = scores.argmax(axis=1)
    right = [f"{digit} {np.mean(answers[truth == digit] == digit):.0%}" for digit in range(10)]
    print(f"Right of each digit: {', '.join(right)}")
    missed = np.flatnonzero(answers != truth)
    missed = missed[np.argsort(scores[missed, truth[missed]] - scores[missed].max(axis=1))]
    baseline = float(np.mean(_shared.nearest_mean(x, y, unseen) == truth))
    accuracy = float(np.mean(answers == truth))
    wrong = zip(unseen[missed], truth[missed], answers[missed], strict=True)
    draw(log, baseline, wrong, folder / "mnist_rows.png")
    print(f"Unseen digits named right: {accuracy:.1%}; by the nearest mean picture {baseline:.1%}")
    return {"accuracy": accuracy, "baseline": baseline, "log": log, "model": model}


if __name__ == "__main__":
    main()
