"""Training steps beside other operations: `KERAS_BACKEND=torch python -m benchmarks.beside`.

Other operations of a process leave threads that spin on for a while, OpenMP's or their own, on
the cores that the next step wants. A line for each operation: the median milliseconds of a step
right after it, ours and torch.nn's, and that over the median of steps one after another.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import keras

B, T, D, U = 32, 100, 64, 128  # M


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80)
    steps = parser.parse_args().steps
    if keras.backend.backend() != "torch":
        parser.error(f"PyTorch alone: KERAS_BACKEND=torch, not {keras.backend.backend()}")
    contenders, others = _contenders(), _others()
    alone = {name: _median(step, steps) for name, step in contenders.items()}
    print(f"{'':30}" + "".join(f"{name:>22}" for name in contenders))
    print(f"{'one after another':30}" + "".join(f"{alone[name]:19.2f} ms" for name in contenders))
    for title, other in others.items():
        medians = {name: _median(step, steps, other) for name, step in contenders.items()}
        cells = (f"{ms:9.2f} ms, {ms / alone[name]:5.2f} x" for name, ms in medians.items())
        print(f"{'after ' + title:30}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def _contenders() -> dict[str, Callable[[], None]]:
    import torch

    from ostinato.layers import LSTM

    x = torch.randn(B, T, D)
    ours, theirs = LSTM(U, return_sequences=True), torch.nn.LSTM(D, U, batch_first=True)
    return {
        "ostinato": lambda: ours(x, training=True).sum().backward(),
        "torch.nn": lambda: theirs(x)[0].sum().backward(),
    }


def _others() -> dict[str, Callable[[], object]]:
    """NumPy's product last, as it keeps a core for longest."""
    import numpy as np
    import torch

    x, left = torch.randn(B, T, D), torch.randn(500, 500)
    half = torch.nn.LSTM(D, U, batch_first=True).bfloat16()
    gru, array = torch.nn.GRU(D, U, batch_first=True), np.random.randn(600, 600).astype("f")
    return {
        "torch's product": lambda: left @ left,
        "torch.nn's GRU": lambda: gru(x)[0].sum().backward(),
        "torch.nn's LSTM in bfloat16": lambda: half(x.bfloat16())[0].sum().backward(),
        "NumPy's product": lambda: array @ array,
    }


def _median(
    step: Callable[[], None], steps: int, other: Callable[[], object] | None = None
) -> float:
    """Milliseconds of a step; the first ten don't count."""
    times = []
    for _ in range(steps + 10):
        if other is not None:
            other()
        begin = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times[10:])


if __name__ == "__main__":
    main()
