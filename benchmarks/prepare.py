"""What a call takes to prepare: `KERAS_BACKEND=torch python -m benchmarks.prepare [--calls]`.

A line for each way to call a layer at S, eagerly, and in it microseconds of the calling thread's
processor time, the least and the median: of `layer.call` with the native operation's results at
hand, so of all that is ours in Python before and after it. Keras's `__call__` around it isn't
counted, nor is what the framework does to call an operation.

With `--calls`, on PyTorch, whole calls are measured instead, `layer(x)` with the operation run, and
torch.nn's beside them. PyTorch has one thread here, as other threads' time wouldn't be counted.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import keras
import numpy as np
from keras import ops

from ostinato import layers
from ostinato.bench.cases import Case
from ostinato.doors import door

KINDS, REPEATS = ("LSTM", "GRU"), 20
DEFAULTS = "defaults"
Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--calls", action="store_true", help="whole calls, on PyTorch")
    parser.add_argument("--rounds", type=int, default=200)
    asked = parser.parse_args()
    if asked.calls and keras.config.backend() != "torch":
        parser.error(f"--calls is for PyTorch: KERAS_BACKEND=torch, not {keras.config.backend()}")
    if keras.config.backend() == "torch":
        import torch

        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
    for kind in KINDS:
        case = Case(kind, "S", "infer")
        calls = _calls(case, asked.calls)
        times = _times(calls, asked.rounds, asked.calls)
        print(f"{case}, {keras.config.backend()}")
        for name, found in times.items():
            least = min(found)
            ratio = f"{least / min(times[DEFAULTS]):8.2f} x" if asked.calls else ""
            print(f"  {name:16}{least:9.1f}{statistics.median(found):9.1f} us{ratio}", flush=True)


def _calls(case: Case, whole: bool) -> dict[str, Call]:
    """Ways to call a layer by their names: `layer.call`, or the `whole` of `layer(...)`."""
    B, T, D, U = case.shape
    layer = getattr(layers, case.kind)(U, return_sequences=True)
    layer.build((B, T, D))
    x = ops.convert_to_tensor(case.inputs())
    lengths = np.rint(np.linspace(1, T - 1, B)).astype(int)[:, None]
    mask = ops.convert_to_tensor(np.arange(T) < np.random.default_rng(0).permutation(lengths))
    states = [ops.ones((B, U)) for _ in range(2 if case.kind == "LSTM" else 1)]
    call = layer if whole else layer.call
    calls = {
        DEFAULTS: lambda: call(x),
        "half padded": lambda: call(x, mask=mask),
        "initial states": lambda: call(x, initial_state=states),
        "training": lambda: call(x, training=True),
    }
    if whole:
        calls["torch.nn"] = _torch_nn(case, x)
    return calls


def _torch_nn(case: Case, x: Any) -> Call:
    import torch

    _, _, D, U = case.shape
    module = getattr(torch.nn, case.kind)(D, U, batch_first=True).eval()
    return lambda: module(x)


def _times(calls: dict[str, Call], rounds: int, whole: bool) -> dict[str, list[float]]:
    """Microseconds of each call, of some at once; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    stubs = {name: None if whole else _results(call) for name, call in calls.items()}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            with _in_place_of_the_operation(stubs[name]):
                begin = time.thread_time_ns()
                for _ in range(REPEATS):
                    call()
                spent = time.thread_time_ns() - begin
            if round_:  # the first fills caches
                found[name].append(spent / REPEATS / 1e3)
    return found


def _results(call: Call) -> Any:
    """What the native operation gives in a call."""
    operation, found = door.native_run, []

    def kept(*given: Any) -> Any:
        found.append(operation(*given))
        return found[-1]

    with mock.patch.object(door, "native_run", kept):
        call()
    return found[0]


def _in_place_of_the_operation(results: Any) -> AbstractContextManager[Any]:
    """Where the operation gives some results at once; of None, where it's itself."""
    if results is None:
        return nullcontext()

    def at_once(*given: Any) -> Any:
        return results

    return mock.patch.object(door, "native_run", at_once)


if __name__ == "__main__":
    main()
