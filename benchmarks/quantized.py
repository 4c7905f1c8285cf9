"""Weights in int8 beside float32: steps of streams, and layers on sequences; batch 1.

`python -m benchmarks.quantized`: both in turns in one process, on the backend of KERAS_BACKEND;
prints the minimum of each in microseconds a timestep, and float32's over int8's.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import ostinato
from ostinato.layers import GRU, LSTM, SimpleRNN

ROUNDS, STEPS, WARM = 20, 100, 5  # turns, timesteps in a turn, turns that don't count
SIZES = ((256, 32), (256, 256), (512, 128), (512, 512), (1024, 256))  # units, features
KINDS: dict[str, Callable[..., Any]] = {
    "LSTM": LSTM,
    "GRU": GRU,
    "GRU, reset before": lambda units, **options: GRU(units, reset_after=False, **options),
    "SimpleRNN": SimpleRNN,
}

Run = Callable[[], object]


def made(kind: str, units: int, features: int) -> Any:
    """A model of one layer, whose outputs are of every timestep."""
    layer = KINDS[kind](units, return_sequences=True)
    return keras.Sequential([keras.Input((None, features)), layer])


def fastest(contenders: list[Run]) -> list[float]:
    """The least seconds of each, all in turns."""
    times: list[list[float]] = [[] for _ in contenders]
    for turn in range(WARM + ROUNDS):
        for own, run in zip(times, contenders, strict=True):
            begin = time.perf_counter()
            run()
            if turn >= WARM:
                own.append(time.perf_counter() - begin)
    return [min(own) for own in times]


def _stepping(stream: Any, xs: np.ndarray) -> Run:
    def run() -> None:
        for x in xs:
            stream.step(x)

    return run


def _calling(model: Any, xs: np.ndarray) -> Run:
    """A call on a sequence, compiled where the backend compiles."""
    x: Any = xs[None]
    if keras.config.backend() == "jax":
        import jax

        compiled = jax.jit(lambda x: model(x, training=False))
        return lambda: compiled(x).block_until_ready()
    if keras.config.backend() == "torch":
        import torch

        given = torch.from_numpy(x)
        return torch.inference_mode()(lambda: model(given, training=False))
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False))
    given = tf.constant(x)
    return lambda: function(given)


def rows() -> Iterator[str]:
    """The lines of a Markdown table."""
    backend = keras.config.backend()
    yield f"| batch 1, us a timestep | a stream's step | | | a layer, T{STEPS}, {backend} | | |"
    yield "|---" * 7 + "|"
    yield "| | float32 | int8 | ratio | float32 | int8 | ratio |"
    for kind in KINDS:
        for units, features in SIZES:
            model = made(kind, units, features)
            xs = np.random.default_rng(1).standard_normal((STEPS, features), dtype="float32")
            streams = [ostinato.stream(model), ostinato.quantize(ostinato.stream(model))]
            models = [model, ostinato.quantize(model)]
            cells = []
            for contenders in (
                [_stepping(stream, xs) for stream in streams],
                [_calling(each, xs) for each in models],
            ):
                plain, int8 = (seconds / STEPS * 1e6 for seconds in fastest(contenders))
                cells += [f"{plain:.1f}", f"{int8:.1f}", f"{plain / int8:.2f}"]
            yield f"| {kind}, {units} units, {features} features | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
