"""No cliff: what each option costs, beside the defaults in the same run and process.

Run by `python -m benchmarks cliff`, on the backend that KERAS_BACKEND names:
    python -m benchmarks.cliff RESULTS.json [--kinds ...] [--cases ...] [--rounds N] [--options ...]
"""

import argparse
import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import ostinato
from benchmarks.turns import minima
from ostinato import layers
from ostinato.bench.cases import Case
from ostinato.bench.prepared import Prepared
from ostinato.bench.results import Results

KEY = ("backend", "kind", "size", "mode", "option")
SIZES, KINDS, MODES = ("S", "M"), ("LSTM", "GRU"), ("infer", "train")
DEFAULTS = "defaults"


def _half(case: Case) -> np.ndarray:
    """Lengths of 1 to T - 1, half of all timesteps."""
    B, T, _, _ = case.shape
    lengths = np.rint(np.linspace(1, T - 1, B)).astype(int)
    return np.random.default_rng(0).permutation(lengths)[:, None]


def _right(case: Case) -> dict[str, Any]:
    return {"mask": np.arange(case.shape[1]) < _half(case)}


def _left(case: Case) -> dict[str, Any]:
    return {"mask": np.arange(case.shape[1])[::-1] < _half(case)}


def _interior(case: Case) -> dict[str, Any]:
    """Three of four timesteps valid, at random; the first and the last always."""
    B, T, _, _ = case.shape
    mask = np.random.default_rng(0).random((B, T)) < 0.75
    mask[:, [0, -1]] = True
    return {"mask": mask}


def _states(case: Case) -> dict[str, Any]:
    B, _, _, U = case.shape
    rng = np.random.default_rng(0)
    count = 2 if case.kind == "LSTM" else 1
    return {"initial_state": [rng.standard_normal((B, U), dtype="float32") for _ in range(count)]}


def _resets(rate: float) -> Callable[[Case], dict[str, Any]]:
    """Rows that begin anew before so much of all timesteps."""

    def call(case: Case) -> dict[str, Any]:
        B, T, _, _ = case.shape
        return {"resets": np.random.default_rng(0).random((B, T)) < rate}

    return call


def _layer(kind: str, units: int, arguments: dict[str, Any], library: Any = layers) -> Any:
    return getattr(library, kind)(units, return_sequences=True, **arguments)


def _rnn_of_cell(kind: str, units: int, arguments: dict[str, Any], library: Any = layers) -> Any:
    return library.RNN(getattr(library, f"{kind}Cell")(units), return_sequences=True)


def _bidirectional(kind: str, units: int, arguments: dict[str, Any], library: Any = layers) -> Any:
    return library.Bidirectional(_layer(kind, units, arguments, library))


@dataclass(frozen=True)
class Option:
    """A layer that differs from the defaults in one thing, or is called with one more.

    Attributes:
        arguments: Of the layer's constructor.
        wrap: Makes the layer of its class, units, arguments and, if not ours, library.
        call: Makes the call's arguments of the case.
        kinds: Where it exists.
        modes: Where it does something.
    """

    arguments: dict[str, Any]
    wrap: Callable[..., Any] = _layer
    call: Callable[[Case], dict[str, Any]] = lambda case: {}
    kinds: tuple[str, ...] = KINDS
    modes: tuple[str, ...] = MODES


OPTIONS = {
    DEFAULTS: Option({}),
    "activation=relu": Option({"activation": "relu"}),
    "activation=gelu": Option({"activation": "gelu"}),
    "recurrent_activation=hard_sigmoid": Option({"recurrent_activation": "hard_sigmoid"}),
    "use_bias=False": Option({"use_bias": False}),
    "dropout": Option({"dropout": 0.2}, modes=("train",)),
    "recurrent_dropout": Option({"recurrent_dropout": 0.2}, modes=("train",)),
    "go_backwards": Option({"go_backwards": True}),
    "unroll=True": Option({"unroll": True}),
    "RNN(cell)": Option({}, wrap=_rnn_of_cell),
    "initial states": Option({}, call=_states),
    "random interior mask": Option({}, call=_interior),
    "right padding": Option({}, call=_right),
    "left padding": Option({}, call=_left),
    "resets, none": Option({}, call=_resets(0.0)),
    "resets, 1 in 50": Option({}, call=_resets(0.02)),
    "resets, every timestep": Option({}, call=_resets(1.0)),
    "reset_after=False": Option({"reset_after": False}, kinds=("GRU",)),
    "Bidirectional": Option({}, wrap=_bidirectional),
}


def _prepared(case: Case, option: Option) -> tuple[Prepared, str]:
    """An option's layer, ready to run, and the engine that runs it."""
    B, T, D, U = case.shape
    keras.utils.set_random_seed(0)
    layer = option.wrap(case.kind, U, option.arguments)
    layer.build((B, T, D))
    width = 2 * U if isinstance(layer, layers.Bidirectional) else U
    cotangent = np.random.default_rng(1).standard_normal((B, T, width), dtype="float32")
    call = option.call(case)
    framework = importlib.import_module(f"ostinato.bench.on_{keras.config.backend()}")
    engines = {row.engine for row in ostinato.explain(layer)}
    return framework.prepare(layer, case, call, cotangent), "+".join(sorted(engines))


def measure(case: Case, names: list[str], rounds: int) -> list[dict[str, Any]]:
    """The rows of a case: each option's time, the defaults' and the ratio."""
    wanted = [DEFAULTS, *(name for name in names if name != DEFAULTS)]
    options = {n: OPTIONS[n] for n in wanted}
    options = {
        name: option
        for name, option in options.items()
        if case.kind in option.kinds and case.mode in option.modes
    }
    made = {name: _prepared(case, option) for name, option in options.items()}
    seconds = minima({name: prepared for name, (prepared, _) in made.items()}, rounds)
    return [
        {
            "backend": keras.config.backend(),
            "kind": case.kind,
            "size": case.size,
            "mode": case.mode,
            "option": name,
            "engine": made[name][1],
            "seconds": seconds[name],
            "defaults": seconds[DEFAULTS],
            "ratio": seconds[name] / seconds[DEFAULTS],
        }
        for name in options
        if name != DEFAULTS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cliff", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--cases", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--options", nargs="+", default=list(OPTIONS), choices=OPTIONS)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    results = Results(asked.results)
    for kind, size, mode in itertools.product(asked.kinds, asked.cases, asked.modes):
        case = Case(kind, size, mode)
        rows = measure(case, asked.options, asked.rounds)
        print(f"\n{case}: defaults {rows[0]['defaults'] * 1e3:.3f} ms", flush=True)
        for row in rows:
            print(f"  {row['option']:36} {row['ratio']:.2f}  {row['engine']}", flush=True)
            results.put("cliff", row, KEY)


if __name__ == "__main__":
    main()
