"""The sections on handwritten digits: the guide's model trained, and what it makes of one digit."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ostinato import layers
from ostinato.guide import examples, pictures
from ostinato.guide.digits import Digits
from ostinato.guide.section import (
    SEED,
    Fact,
    Findings,
    Run,
    agree,
    array,
    body,
    difference,
    equal,
    section,
    whole,
)

BATCH = 64
LEARNING_RATE = 3e-3
# Asked of the model that has had this many steps. A default run gave 0.97 on each backend.
ENOUGH_STEPS, FLOOR = 1000, 0.9
# After fewer it has to beat guessing, which is right once in ten; the least seen was 0.25.
LOW_FLOOR = 0.15
# Rounding differs between two orders of the same sums, and training amplifies it.
TRAINED_TOLERANCE = 1e-3


class StepLosses(keras.callbacks.Callback):
    """Keeps the loss that Keras shows after each step: the mean since the epoch began."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the loss."""
        self.losses.append(float((logs or {})["loss"]))


@dataclass(frozen=True)
class _Trained:
    losses: list[float]  # after each step
    history: dict[str, list[float]]


@section(
    "Handwritten digits",
    "An image is read as a sequence of 28 rows of 28 pixels. The guide trains this model for "
    "one epoch with plain SGD; here LSTM and RNN(LSTMCell) both do, from the same weights, on "
    "the same batches.",
    whole(examples.build_model),
    body(examples.twins),
    whole(examples.compile_model),
    whole(examples.fit),
)
def as_the_guide(run: Run) -> Findings:
    """Trains LSTM and RNN(LSTMCell) from the same weights on the same batches."""
    keras.utils.set_random_seed(SEED)
    layer, loop = examples.twins()
    one, other = _one_epoch(layer, run.digits), _one_epoch(loop, run.digits)

    images = run.digits.x_test
    gap = difference(layer.get_weights(), loop.get_weights())
    run.figures.append(
        (f"{gap:.0e}", "between the weights of LSTM and of RNN(LSTMCell), once trained")
        if gap
        else ("Bit for bit", "the same weights from LSTM and from RNN(LSTMCell), once trained")
    )
    facts = [
        equal("Both have seen the same number of batches", len(other.losses), len(one.losses)),
        agree("Their losses agree after each step", one.losses, other.losses, TRAINED_TOLERANCE),
        agree(
            "Their weights agree after training",
            layer.get_weights(),
            loop.get_weights(),
            TRAINED_TOLERANCE,
        ),
        agree(
            "Their predictions on unseen digits agree",
            layer.predict(images, BATCH, verbose=0),
            loop.predict(images, BATCH, verbose=0),
            10 * TRAINED_TOLERANCE,
        ),
        Fact(
            "The loss falls",
            f"{one.losses[0]:.2f} to {one.losses[-1]:.2f}",
            one.losses[-1] < one.losses[0],
        ),
    ]
    accuracy = one.history["val_accuracy"][-1]
    showed = f"LSTM and RNN(LSTMCell) train alike, to {accuracy:.0%} after the guide's one epoch"
    return Findings(showed, facts, (pictures.agreement(one.losses, other.losses),))


@section(
    "Digits, learnt well",
    "One epoch of SGD is short. To see what the guide's model can do, it is trained once more "
    f"from the start, and longer: with Adam, at a rate that falls from {LEARNING_RATE} "
    "to zero along a cosine. This is our choice, not the guide's.",
    body(examples.train_longer),
)
def longer(run: Run) -> Findings:
    """Trains the guide's model until it reads well."""
    digits = run.digits
    keras.utils.set_random_seed(SEED)
    steps = _steps(run)
    model, trained = examples.train_longer(digits, run.epochs, steps, LEARNING_RATE)
    history = trained.history

    answers = model.predict(digits.x_test, BATCH, verbose=0).argmax(axis=1)
    accuracy = float(np.mean(answers == digits.y_test))
    metric = history["val_accuracy"][-1]
    floor = FLOOR if steps >= ENOUGH_STEPS else LOW_FLOOR
    facts = [
        Fact(
            f"It names more than {floor:.0%} of {len(answers):,} unseen digits right",
            f"{accuracy:.1%}",
            accuracy > floor,
        ),
        Fact("Keras's metric says so too", f"{metric:.1%}", abs(metric - accuracy) < 1e-6),
    ]
    run.model = model
    run.figures.append((f"{accuracy:.1%}", f"of {len(answers):,} unseen digits named right"))
    shown = [*pictures.curves(history), pictures.confusion(digits.y_test, answers)]
    shown += pictures.galleries(digits.x_test, digits.y_test, answers)
    return Findings(f"{accuracy:.1%} right after {run.epochs} epochs of Adam", facts, shown)


@section(
    "One digit",
    "A second model takes over the trained weights and names the first digit. The LSTM's "
    "states after each row show how it comes to its answer.",
    body(examples.predict_one),
)
def one_digit(run: Run) -> Findings:
    """Asks for one digit, and follows the LSTM down its rows."""
    model = run.trained()
    image, label = run.digits.x_train[0], int(run.digits.y_train[0])
    logits, answer = examples.predict_one(model, image)
    h, c = _states(model, image)
    beliefs = _softmax(array(_head(model, h)))

    lstm, _, _ = model.layers
    whole = layers.LSTM(64, return_sequences=True)
    whole.build((None, None, 28))
    whole.set_weights(lstm.get_weights())
    facts = [
        agree(
            "A second model with its weights answers as it does",
            logits,
            model.predict_on_batch(image[None]),
        ),
        agree("The cell, row by row, goes through the layer's states", h, whole(image[None])[0]),
        agree("After the last row they give the answer", beliefs[-1], _softmax(logits)[0]),
    ]
    if _steps(run) >= ENOUGH_STEPS:
        facts.insert(0, equal("The digit is named right", answer, label))
    run.banner = pictures.banner(h)
    shown = (
        pictures.verdict(image, beliefs[-1], label),
        pictures.reading(image, h, c, beliefs),
    )
    return Findings(f"Predicted {answer}, target {label}, read row by row", facts, shown)


def _steps(run: Run) -> int:
    return run.epochs * math.ceil(len(run.digits.x_train) / BATCH)


def _one_epoch(model: Any, digits: Digits) -> _Trained:
    keras.utils.set_random_seed(SEED)  # the same order of batches each time
    keeper = StepLosses()
    examples.compile_model(model)
    history = examples.fit(model, digits, callbacks=[keeper]).history
    return _Trained(keeper.losses, history)


def _states(model: Any, image: Any) -> tuple[Any, Any]:
    """Returns h and c after each row of one digit, each of shape (28, 64)."""
    cell = layers.LSTMCell(64)
    cell.build((None, 28))
    cell.set_weights(model.layers[0].get_weights())
    states = cell.get_initial_state(batch_size=1)
    h, c = [], []
    for row in image:
        _, states = cell(row[None], states)
        h.append(array(states[0])[0])
        c.append(array(states[1])[0])
    return np.stack(h), np.stack(c)


def _head(model: Any, h: Any) -> Any:
    """Returns what the layers after the LSTM make of its output after each row."""
    _, normalise, dense = model.layers
    return dense(normalise(h, training=False))


def _softmax(logits: Any) -> Any:
    return array(keras.ops.softmax(logits, axis=-1))
