"""`fit` on the guide's model: time of a step, from an epoch's begin to its end."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ostinato.bench.cases import Case
from ostinato.bench.contenders import Contender
from ostinato.bench.prepared import Prepared, engine_of, layer_for, library_of

STEPS = 60  # of an epoch: what an epoch itself costs is then a small part
COMPARED = 5  # steps after which weights are compared


@dataclass(frozen=True)
class Fitting(Prepared):
    """A model whose `run` is an epoch and returns the seconds of one step."""

    def seconds(self) -> float:
        """Runs an epoch: seconds of one step."""
        return float(self.run())


def prepare(contender: Contender, case: Case) -> Fitting:
    """The guide's model, compiled as the guide does, its first steps done."""
    library = library_of(contender)
    model, layer = _model(contender, case)
    clock = _clock(library)
    B, T, D, _ = case.shape
    rng = np.random.default_rng(7)
    x = rng.standard_normal((STEPS * B, T, D), dtype="float32")
    y = rng.integers(0, 10, STEPS * B)

    def fit(steps: int) -> float:
        model.fit(
            x[: steps * B],
            y[: steps * B],
            batch_size=B,
            shuffle=False,
            verbose=0,
            callbacks=[clock],
        )
        return float(clock.spent / steps)

    fit(COMPARED)
    learned = [np.array(weight) for weight in model.get_weights()]
    return Fitting(lambda: fit(STEPS), lambda _: learned, engine_of(contender, layer))


def _model(contender: Contender, case: Case) -> tuple[Any, Any]:
    library = library_of(contender)
    B, T, D, U = case.shape
    layer = layer_for(contender, case, return_sequences=False)
    dense = library.layers.Dense(10)
    dense.build((B, U))
    rng = np.random.default_rng(8)
    dense.set_weights([rng.standard_normal((U, 10), dtype="float32") / 8, np.zeros(10, "float32")])
    inputs = library.layers.Input((T, D))
    model = library.Sequential([inputs, layer, library.layers.BatchNormalization(), dense])
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, optimizer="sgd", metrics=["accuracy"])
    return model, layer


def _clock(library: Any) -> Any:
    class Clock(library.callbacks.Callback):
        """Times an epoch, without what `fit` does before its first and after its last."""

        async_safe = True  # Keras 3: steps needn't wait for it
        _supports_tf_logs = True  # tf_keras: likewise

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            float(logs["loss"])  # there when the last step is done
            self.spent = time.perf_counter() - self.began

    return Clock()
