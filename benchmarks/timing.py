"""Interleaved timing, and the check that what is timed computes the same."""

import time
from dataclasses import dataclass

import numpy as np
from keras import ops

from benchmarks.cases import Case
from benchmarks.running import Run, functions


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: the minimum and the median of its rounds."""

    minimum: float
    median: float


def interleaved(contenders: dict[str, Run], rounds: int) -> dict[str, Timing]:
    """Times contenders turn by turn, so that a slow moment of the machine hits them all."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        for _ in range(3):
            run()
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(min(s), float(np.median(s))) for name, s in seconds.items()}


def time_case(case: Case, rounds: int) -> dict[str, dict[str, Timing]]:
    """Times a case's forward pass and training step, of Keras's layer and of ours.

    Raises:
        RuntimeError: if the two don't agree, for then their times mean nothing.
    """
    x = case.inputs()
    runs = {name: functions(layer, x) for name, layer in case.layers().items()}
    timings = {}
    for mode in ("forward", "training step"):
        contenders = {name: run[mode] for name, run in runs.items()}
        _agree(case, mode, contenders)
        timings[mode] = interleaved(contenders, rounds)
    return timings


def _agree(case: Case, mode: str, contenders: dict[str, Run]) -> None:
    results = [[ops.convert_to_numpy(t) for t in run()] for run in contenders.values()]
    for first, second in zip(*results, strict=True):
        scale = max(1.0, float(np.abs(first).max()))
        difference = float(np.abs(first - second).max()) / scale
        if difference > 1e-4:
            raise RuntimeError(f"{case}, {mode}: the results differ by {difference:.1e} of scale.")
