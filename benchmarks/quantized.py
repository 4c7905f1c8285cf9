"""Weights in int8 beside float32: steps of streams, batch 1.

`python -m benchmarks.quantized`: float32 and int8 in turns in one process; prints the minimum of
each, and float32's over int8's.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import ostinato
from ostinato.layers import GRU, LSTM, SimpleRNN

ROUNDS, STEPS, WARM = 40, 100, 10
SIZES = ((256, 32), (256, 256), (512, 128), (512, 512), (1024, 256))
KINDS: dict[str, Callable[..., Any]] = {
    "LSTM": LSTM,
    "GRU": GRU,
    "GRU, reset before": lambda units, **options: GRU(units, reset_after=False, **options),
    "SimpleRNN": SimpleRNN,
}


def made(kind: str, units: int, features: int) -> Any:
    """A model of one layer, whose outputs are of every timestep."""
    layer = KINDS[kind](units, return_sequences=True)
    return keras.Sequential([keras.Input((None, features)), layer])


def fastest(contenders: list[Callable[[], None]]) -> list[float]:
    """The least seconds of each, all in turns."""
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(ROUNDS):
        for own, run in zip(times, contenders, strict=True):
            begin = time.perf_counter()
            run()
            own.append(time.perf_counter() - begin)
    return [min(own) for own in times]


def _stepping(stream: Any, xs: np.ndarray) -> Callable[[], None]:
    def run() -> None:
        for x in xs:
            stream.step(x)

    for _ in range(WARM):
        run()
    return run


def rows() -> Iterator[str]:
    """The lines of a Markdown table: microseconds a timestep."""
    yield "| a step of a stream | float32 | int8 | ratio |"
    yield "|---|---|---|---|"
    for kind in KINDS:
        for units, features in SIZES:
            stream = ostinato.stream(made(kind, units, features))
            xs = np.random.default_rng(1).standard_normal((STEPS, features), dtype="float32")
            both = [_stepping(each, xs) for each in (stream, ostinato.quantize(stream))]
            plain, int8 = (seconds / STEPS * 1e6 for seconds in fastest(both))
            case = f"{kind}, {units} units, {features} features"
            yield f"| {case} | {plain:.1f} | {int8:.1f} | {plain / int8:.2f} |"


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
