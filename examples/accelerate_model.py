"""A model that one has already, accelerated: before and after.

    python examples/accelerate_model.py

The model is made of plain keras.layers, trained on handwritten digits and saved, as any model
might be. Loaded again, `ostinato.accelerate` gives a copy that predicts the same, and goes on
training with the same losses, dropout included. Then both are timed in turns: the baseline is
the model as it was. At last `ostinato.restore` makes a plain Keras model of the fast one.
"""

import time

import _shared  # first: it chooses the backend
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

import ostinato
from ostinato.guide import digits

BATCH = 64


def train_with_keras(x, y, epochs, file):
    """What was there before: nothing of Ostinato in it."""
    keras.utils.set_random_seed(4)
    recurrent = [
        layers.Bidirectional(layers.LSTM(64, return_sequences=True, recurrent_dropout=0.1)),
        layers.GRU(64, dropout=0.1),
    ]
    model = keras.Sequential([keras.Input((28, 28)), *recurrent, layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(4e-3), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=2)
    model.save(file)


class Losses(keras.callbacks.Callback):
    """Keeps what Keras shows after each step: the mean loss since the epoch began."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))


def go_on(model, x, y):
    """Trains for one more epoch; returns the loss after each step."""
    shown = Losses()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[shown])
    return np.array(shown.losses)


def milliseconds(models, x, y, rounds):
    """Of a step of training and of `predict`, for each model: the least of rounds in turns."""
    count = len(x) // BATCH
    least = np.full((len(models), 2), np.inf)
    for _ in range(rounds + 1):  # the first compiles
        for row, model in zip(least, models, strict=True):
            begun = time.perf_counter()
            model.fit(x, y, batch_size=BATCH, verbose=0)
            fitted = time.perf_counter()
            model.predict(x, batch_size=BATCH, verbose=0)
            spent = fitted - begun, time.perf_counter() - fitted
            row[:] = np.minimum(row, 1000 * np.array(spent) / count)
    return least


def draw(losses, times, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    left.plot(losses[0], color=_shared.ORANGE, linewidth=5, alpha=0.5, label="before")
    left.plot(losses[1], color=_shared.TEAL, linewidth=1.5, label="after")
    left.set(title="Another epoch: the mean loss so far", xlabel="step")
    left.legend()
    names = [
        f"{what}, {when}" for what in ("a step of fit", "predict") for when in ("before", "after")
    ]
    colours = [_shared.ORANGE, _shared.TEAL] * 2
    _shared.bars(right, names, times.T.ravel(), "Milliseconds a batch of 64", colours, "%.1f")
    _shared.picture(figure, path)


def main(argv=None):
    asked = _shared.arguments(__doc__, argv, epochs=3, digits=8500, rounds=5)
    data = digits.shipped("10,000 digits of MNIST").part(asked.digits, 1500)
    x, y, unseen, truth = data.x_train, data.y_train, data.x_test, data.y_test
    file = asked.output / "before.keras"
    train_with_keras(x, y, asked.epochs, file)

    before = keras.saving.load_model(file)
    after = ostinato.accelerate(before)
    print(f"\nBefore:\n{ostinato.explain(before)}\n\nAfter:\n{ostinato.explain(after)}\n")

    scores = [model.predict(unseen, verbose=0) for model in (before, after)]
    apart = float(np.abs(scores[0] - scores[1]).max())
    accuracy = float(np.mean(scores[1].argmax(axis=1) == truth))
    naive = float(np.mean(_shared.nearest_mean(x, y, unseen) == truth))
    print(f"Digits named right: {accuracy:.1%}; by the nearest mean picture {naive:.1%}")
    print(f"Their scores differ by at most {apart:.0e}")
    losses = [go_on(model, x, y) for model in (before, after)]
    drift = float(np.abs(losses[0] - losses[1]).max())
    print(f"Their losses over another epoch differ by at most {drift:.0e}")
    plain = ostinato.restore(after)
    plain.save(asked.output / "after.keras")  # of Keras's own layers again

    times = milliseconds((before, after), x[: 20 * BATCH], y[: 20 * BATCH], asked.rounds)
    draw(losses, times, asked.output / "accelerate_model.png")
    for what, (was, now) in zip(("A step of fit", "Predict"), times.T, strict=True):
        print(f"{what:13} {was:6.2f} ms before, {now:6.2f} ms after: {was / now:.1f} times faster")
    return {"apart": apart, "drift": drift, "times": times, "accuracy": accuracy, "naive": naive}


if __name__ == "__main__":
    main()
