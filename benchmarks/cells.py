"""Cells of one's own: the engine that runs them, the portable loop and the built-in LSTM by turns.

Run by `python -m benchmarks cells`, on the backend that KERAS_BACKEND names:
    python -m benchmarks.cells RESULTS.json [--cells ...] [--sizes S M] [--modes ...] [--rounds N]
    python -m benchmarks.cells --peak CELL ENGINE    # bytes that a training step needs
"""

import argparse
import importlib
import itertools
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

import ostinato
from benchmarks import memory
from benchmarks.own_cells import CELLS
from benchmarks.turns import minima
from ostinato import layers
from ostinato.bench.prepared import Prepared
from ostinato.bench.results import Results
from ostinato.layers.planning import Call, question_about
from ostinato.plan import plan

KEY = ("backend", "cell", "size", "mode")
MEMORY_KEY = ("backend", "cell", "engine")
# B batch, T timesteps, U units, and as many features
SIZES = {"S": (64, 28, 64), "M": (64, 100, 128), "tiny": (8, 4, 16)}
TIMED, TIMED_MODES = ("S", "M"), ("infer", "train")
PORTABLE, LSTM = "scan", "LSTM"
LIMIT = 20.0  # seconds for one contender in a case
STREAMED, STEPS, ROUNDS_OF_STEPS = "PeepholeLSTM", 300, 25


@dataclass(frozen=True)
class Case:
    """A cell's layer at a size, in a mode: as `ostinato.bench.cases.Case` for layers.

    Attributes:
        cell: A name in `CELLS`, or `LSTM` for the built-in layer.
        size: A name in `SIZES`.
        mode: "infer" or "train".
    """

    cell: str
    size: str
    mode: str

    def inputs(self) -> Any:
        """The layer's inputs."""
        B, T, U = SIZES[self.size]
        rng = np.random.default_rng(1)
        if self.cell == LSTM:
            return rng.standard_normal((B, T, U), "float32")
        return CELLS[self.cell].inputs(rng, B, T, U)

    def options(self) -> dict[str, Any]:
        """What the layer is called with beside them."""
        B, _, U = SIZES[self.size]
        m = 0 if self.cell == LSTM else CELLS[self.cell].memory
        memory_of_m = np.random.default_rng(2).standard_normal((B, m, U), "float32")
        return {"constants": [memory_of_m]} if m else {}

    def layer(self) -> Any:
        """The layer, built; of the same weights each time."""
        keras.utils.set_random_seed(0)
        _, _, U = SIZES[self.size]
        if self.cell == LSTM:
            layer = layers.LSTM(U, return_sequences=True)
        else:
            layer = layers.RNN(CELLS[self.cell].make(U), return_sequences=True)
        layer.build(keras.tree.map_structure(np.shape, self.inputs()))
        return layer

    def cotangent(self, layer: Any) -> Any:
        """The loss's gradient to each output."""
        B, T, _ = SIZES[self.size]
        shapes = layer.compute_output_shape(keras.tree.map_structure(np.shape, self.inputs()))
        rng = np.random.default_rng(3)

        def normal(shape: tuple[int, ...]) -> np.ndarray:
            return rng.standard_normal((B, T, *shape[2:]), "float32")

        return keras.tree.map_shape_structure(normal, shapes)

    def comparable(self, outputs: np.ndarray) -> np.ndarray:
        """There is no padding."""
        return outputs


def prepared(case: Case, engine: str | None = None) -> Prepared:
    """A case ready to run, on an engine that may be forced."""
    framework = importlib.import_module(f"ostinato.bench.on_{keras.config.backend()}")
    with _forced(engine):
        layer = case.layer()
        found: Prepared = framework.prepare(layer, case, case.options(), case.cotangent(layer))

    def run() -> Any:
        with _forced(engine):  # on PyTorch it's chosen at each call
            return found.run()

    return replace(found, run=run) if engine else found


def _forced(engine: str | None) -> Any:
    return ostinato.use_engine(engine) if engine else nullcontext()


def engine_of(case: Case) -> tuple[str, str]:
    """The engine that runs a case where none is forced, and why no faster one does."""
    layer, B = case.layer(), SIZES[case.size][0]
    xs, options = keras.tree.map_structure(
        keras.ops.convert_to_tensor, (case.inputs(), case.options())
    )
    call = Call(layer.get_initial_state(B), options.get("constants"), case.mode == "train")
    found = plan(question_about(layer.cell, xs, call=call))
    return (found.engine.name if found.engine else "none"), found.why_not()


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """The row of a case: seconds of ours, of the portable loop and of the built-in LSTM."""
    engine, why_not = engine_of(case)
    contenders = {
        "ours": prepared(case),
        PORTABLE: prepared(case, PORTABLE),
        LSTM: prepared(replace(case, cell=LSTM)),
    }
    difference = _difference(contenders["ours"], contenders[PORTABLE])
    if difference > CELLS[case.cell].tolerance and not CELLS[case.cell].spikes:
        raise RuntimeError(f"{case}: {engine} and {PORTABLE} differ by {difference:.1e}.")
    seconds = minima(contenders, rounds, LIMIT)
    return {
        "backend": keras.config.backend(),
        "cell": case.cell,
        "size": case.size,
        "mode": case.mode,
        "engine": engine,
        "why_not": why_not,
        "seconds": seconds["ours"],
        "scan": seconds[PORTABLE],
        "lstm": seconds[LSTM],
        "difference": difference,
    }


def _difference(one: Prepared, other: Prepared) -> float:
    """By how much outputs and gradients differ, each against the largest number in it."""
    values = [each.values(each.run()) for each in (one, other)]
    return max(
        float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
        for a, b in zip(*values, strict=True)
    )


def peak(cell: str, engine: str) -> int:
    """Bytes that training steps of a cell need, in this process, which has to be a fresh one."""
    size = "S" if CELLS[cell].is_vast else "M"
    forced = engine if engine == PORTABLE else None
    return memory.peak(
        lambda small: prepared(Case(cell, "tiny" if small else size, "train"), forced)
    )


def measure_memory(cell: str, engine: str) -> dict[str, Any]:
    """A row: the peak of an engine in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.cells", "--peak", cell, engine]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return {
        "backend": keras.config.backend(),
        "cell": cell,
        "engine": engine,
        "bytes": int(done.stdout.split()[-1]),
    }


def measure_stream() -> dict[str, Any]:
    """A row: microseconds of a step of one stream."""
    _, _, U = SIZES["S"]
    stream = ostinato.stream(Case(STREAMED, "S", "infer").layer())
    xs = np.random.default_rng(1).standard_normal((STEPS, U), dtype="float32")
    fastest = float("inf")
    for _ in range(ROUNDS_OF_STEPS):
        begin = time.perf_counter()
        for x in xs:
            stream.step(x)
        fastest = min(fastest, (time.perf_counter() - begin) / STEPS * 1e6)
    return {
        "backend": keras.config.backend(),
        "cell": STREAMED,
        "us": fastest,
        "why_not": stream.why_not_native or "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS)
    parser.add_argument("--sizes", nargs="+", default=TIMED, choices=SIZES)
    parser.add_argument("--modes", nargs="+", default=TIMED_MODES, choices=TIMED_MODES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("CELL", "ENGINE"))
    asked = parser.parse_args()
    if asked.peak:
        memory.answer(lambda: peak(*asked.peak))
        return
    results = Results(asked.results)
    for cell, size in itertools.product(asked.cells, asked.sizes):
        rows = [measure(Case(cell, size, mode), asked.rounds) for mode in asked.modes]
        for row in rows:
            results.put("cells", row, KEY)
        print(f"{cell} {size} ({rows[0]['engine']}): {'; '.join(map(_told, rows))}", flush=True)
    for cell, engine in itertools.product(
        [] if asked.no_memory else asked.cells, ("ours", PORTABLE)
    ):
        row = measure_memory(cell, engine)
        print(f"{cell}, training, {engine}: {row['bytes'] >> 20} MB", flush=True)
        results.put("cells_memory", row, MEMORY_KEY)
    if STREAMED in asked.cells:
        row = measure_stream()
        print(f"A step of a stream of {STREAMED}: {row['us']:.2f} us {row['why_not']}", flush=True)
        results.put("cells_stream", row, ("backend", "cell"))


def _told(row: dict[str, Any]) -> str:
    return (
        f"{row['mode']} {row['seconds'] * 1e3:.2f} ms, {row['seconds'] / row['lstm']:.2f} of the "
        f"LSTM's, {row['scan'] / row['seconds']:.2f} times faster than {PORTABLE}"
    )


if __name__ == "__main__":
    main()
