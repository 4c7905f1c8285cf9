"""One timestep at a time: `ostinato.stream` beside what else there is, in one process.

`python -m benchmarks.streaming FILE` measures on the backend of KERAS_BACKEND, contenders in turns,
and puts rows into the file of numbers.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.bench.results import Results

KEY = ("units", "features", "contender", "backend")
UNITS = (64, 128, 256)
FEATURES = (32, None)  # None: as many as units
ROUNDS, STEPS = 25, 300  # turns of each contender, and timesteps in a turn
# OpenMP's threads spin for 5 ms after torch.nn's last step, on the core of whoever is next.
WARM, REST = 20, 0.02  # timesteps that don't count, and seconds of rest before

OURS = "ostinato.stream"

Step = Callable[[np.ndarray], np.ndarray]


def contenders(units: int, features: int) -> dict[str, Step]:
    """LSTM alone by name: each takes a timestep (features,), and keeps its state."""
    import keras

    import ostinato

    layer = ostinato.layers.LSTM(units, return_sequences=True)
    layer.build((None, None, features))
    stream = ostinato.stream(layer)
    if stream.why_not_native:
        raise SystemExit(f"benchmarks.streaming: {stream.why_not_native}")
    return {
        OURS: stream.step,
        "Keras's predict_on_batch": _keras(keras, layer, units, features),
        "torch.nn.LSTM": _torch(layer, units),
    }


def _keras(keras: Any, layer: Any, units: int, features: int) -> Step:
    """A model of one timestep that is given its states: they're right so on every backend."""
    x = keras.Input(batch_shape=(1, 1, features))
    states = [keras.Input(batch_shape=(1, units)) for _ in range(2)]
    outputs = keras.layers.LSTM(units, return_state=True)(x, initial_state=states)
    model = keras.Model([x, *states], outputs)
    model.set_weights(layer.get_weights())
    predicted = [np.zeros((1, units), "float32")] * 2

    def predict(x: np.ndarray) -> np.ndarray:
        nonlocal predicted
        y, *predicted = model.predict_on_batch([x[None, None], *predicted])
        return np.asarray(y)[0]

    return predict


def _torch(layer: Any, units: int) -> Step:
    import torch

    kernel, recurrent, bias = layer.get_weights()
    module = torch.nn.LSTM(kernel.shape[0], units).eval()
    values = (kernel.T, recurrent.T, bias, np.zeros_like(bias))
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(np.array(value)))
    states = (torch.zeros(1, 1, units), torch.zeros(1, 1, units))

    @torch.inference_mode()
    def step(x: np.ndarray) -> np.ndarray:
        nonlocal states
        y, states = module(torch.from_numpy(x)[None, None], states)
        return y[0, 0].numpy()

    return step


def measure(units: int, features: int, backend: str) -> list[dict[str, Any]]:
    """A row for each contender: microseconds a timestep.

    Raises:
        RuntimeError: if their outputs don't agree.
    """
    xs = np.random.default_rng(1).standard_normal((WARM + STEPS, features), dtype="float32")
    steps = contenders(units, features)
    times: dict[str, list[float]] = {name: [] for name in steps}
    expected = None
    for _ in range(ROUNDS):
        outputs = []
        for name, step in steps.items():
            time.sleep(REST)
            for x in xs[:WARM]:
                step(x)
            begin = time.perf_counter()
            for x in xs[WARM:]:
                y = step(x)
            times[name].append((time.perf_counter() - begin) / STEPS * 1e6)
            outputs.append(y)
        expected = outputs[0]
        for name, output in zip(steps, outputs, strict=True):
            if not np.allclose(output, expected, atol=2e-5):
                raise RuntimeError(f"{name} gives other outputs at {units} units.")
    return [
        {
            "units": units,
            "features": features,
            "contender": name,
            "backend": backend,
            "us": min(of_one),
            "median_us": float(np.median(of_one)),
        }
        for name, of_one in times.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table: microseconds, minimum (median)."""
    names = list(dict.fromkeys(row["contender"] for row in rows))
    lines = [
        f"| LSTM, batch 1, us a timestep | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for case in dict.fromkeys((row["units"], row["features"]) for row in rows):
        cells = [
            f"{row['us']:.1f} ({row['median_us']:.1f})"
            for row in rows
            if (row["units"], row["features"]) == case
        ]
        lines.append(f"| {case[0]} units, {case[1]} features | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    import keras

    results, rows = Results(Path(sys.argv[1])), []
    for units in UNITS:
        for features in FEATURES:
            rows += measure(units, features or units, keras.config.backend())
    for row in rows:
        results.put("stream", row, KEY)
    print(table(rows))


if __name__ == "__main__":
    main()
