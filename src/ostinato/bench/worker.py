"""A contender's process: `python -m ostinato.bench.worker NAME`.

It answers requests that come pickled on its standard input, each a tuple of a method's name and its
arguments, until that ends. What a library prints goes to standard error.
"""

import importlib
import os
import pickle
import sys
import time
from dataclasses import replace
from typing import Any

from ostinato.bench.cases import Case
from ostinato.bench.contenders import Contender, parse
from ostinato.bench.keras_layers import engine_of, layer_for
from ostinato.bench.prepared import Prepared

# Seconds of a run that needs no warming up. At 0.1 the first run after the others' turns was what
# counted, and paid for memory that the system had taken back meanwhile (LSTM L, training, on
# JAX: 150 to 210 ms, where step after step takes 120).
LONG = 1.0


def prepare(contender: Contender, case: Case) -> Prepared:
    """What a contender makes of a case."""
    if contender.library == "sgemm":
        prepared: Prepared = _module("sgemm").prepare(case, contender.framework)
    elif contender.library == "torch.nn":
        prepared = _module("torch_nn").prepare(case)
    elif case.mode == "fit":
        prepared = _module("fitting").prepare(contender, case)
    else:
        layer = layer_for(contender, case, return_sequences=True)
        framework = _module(f"on_{contender.framework}")
        prepared = framework.prepare(layer, case, case.options(), case.cotangent())
        prepared = replace(prepared, engine=engine_of(contender, layer))
    return prepared


def _module(name: str) -> Any:
    """A module of this package that imports a framework."""
    return importlib.import_module(f"ostinato.bench.{name}")


class Worker:
    """Answers requests; the public methods are what may be asked."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._prepared: Prepared | None = None
        self._last = 0.0  # seconds of the last run

    def prepare(self, case: Case) -> tuple[list[Any], str]:
        """Makes a case ready: its results, and the engine that computes them."""
        self._prepared = None  # the memory of the case before
        self._prepared = prepare(self._contender, case)
        start = time.perf_counter()
        results = self._prepared.run()
        self._last = time.perf_counter() - start
        return self._prepared.values(results), self._prepared.engine

    def round(self, seconds: float) -> list[float]:
        """Runs the case for about so long, at least once: seconds of each run."""
        if self._prepared is None:
            raise RuntimeError("bench: expected a prepared case before a round.")
        if self._last < LONG:
            self._prepared.run()  # wakes threads, fills caches, gets memory
        times: list[float] = []
        start = now = time.perf_counter()
        while not times or now < start + seconds:
            times.append(self._prepared.seconds())
            self._last, now = time.perf_counter() - now, time.perf_counter()
        return times

    def rest(self) -> None:
        """Drops the case."""
        self._prepared = None


def main() -> None:
    """Serves until the parent closes the pipe."""
    requests = sys.stdin.buffer
    # A copy of standard output for the answers; whatever else is printed joins standard error.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        worker = Worker(parse(sys.argv[1]))
        while True:
            try:
                name, *arguments = pickle.load(requests)
            except EOFError:
                return
            pickle.dump(getattr(worker, name)(*arguments), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    main()
