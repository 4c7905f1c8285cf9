"""Time per training step, beside Keras's own layers: the one place that uses them."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import keras

from ostinato import layers
from ostinato.guide import examples, pictures
from ostinato.guide.section import SEED, Findings, Run, agree, section

BATCH, UNITS = 64, 64
WARM_UP = 4  # steps that compile, and fill the caches
TOLERANCE = 1e-3  # of predictions, after all those steps


@dataclass(frozen=True)
class Times:
    """Milliseconds of each step of a layer of Ostinato's and of Keras's, in the same run."""

    name: str
    ours: list[float]
    keras: list[float]
    ours_said: Any  # on unseen digits, after the last step
    keras_said: Any


@section(
    "Time per step",
    "The guide's model trained with Ostinato's layer and with Keras's own, on the backend of "
    "this run. They take turns, step by step and batch by batch, from the same weights.",
)
def beside_keras(run: Run) -> Findings:
    """Times the guide's model with each layer, Ostinato's and Keras's by turns."""
    names = ("LSTM",) if run.quick else ("LSTM", "GRU", "SimpleRNN")
    steps = 10 if run.quick else 80
    times = [_measure(name, run.digits, steps) for name in names]
    claim = f"after {WARM_UP + steps} steps from the same weights it predicts what Keras's does"
    facts = [agree(f"{t.name}: {claim}", t.ours_said, t.keras_said, TOLERANCE) for t in times]
    medians = [(t.name, statistics.median(t.ours), statistics.median(t.keras)) for t in times]
    showed = "; ".join(f"{n}: {ours:.1f} ms, Keras {theirs:.1f}" for n, ours, theirs in medians)
    _, ours, theirs = medians[0]
    label = f"for a training step; {theirs:.1f} ms with Keras's LSTM"
    run.figures.append((f"{ours:.1f} ms", label))
    return Findings(showed, facts, (pictures.timing(times),))


def _measure(name: str, digits: Any, steps: int) -> Times:
    keras.utils.set_random_seed(SEED)
    ours, theirs = _model(getattr(layers, name)), _model(getattr(keras.layers, name))
    theirs.set_weights(ours.get_weights())
    spent: dict[int, list[float]] = {id(ours): [], id(theirs): []}
    for step in range(WARM_UP + steps):
        first = BATCH * step % (len(digits.x_train) - BATCH)
        batch = digits.x_train[first : first + BATCH], digits.y_train[first : first + BATCH]
        # By turns and in changing order, so that whatever else the machine does falls on both.
        for model in (ours, theirs) if step % 2 else (theirs, ours):
            start = time.perf_counter()
            model.train_on_batch(*batch)  # returns the loss as a number, so the step is done
            spent[id(model)].append(1000 * (time.perf_counter() - start))
    said = (model.predict_on_batch(digits.x_test[:256]) for model in (ours, theirs))
    return Times(name, spent[id(ours)][WARM_UP:], spent[id(theirs)][WARM_UP:], *said)


def _model(recurrent: Any) -> Any:
    model = examples.build_model(recurrent(UNITS))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="sgd", loss=loss)  # no metrics, which would cost both the same
    return model
