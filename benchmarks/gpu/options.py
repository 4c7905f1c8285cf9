"""Every option of a layer over the defaults, of ours and of Keras's layers."""

import itertools
from dataclasses import dataclass
from typing import Any

import keras

from benchmarks.cliff import DEFAULTS, OPTIONS, Option
from benchmarks.gpu import running
from benchmarks.gpu.context import Context
from benchmarks.gpu.running import Contender
from ostinato import layers


@dataclass(frozen=True)
class Case:
    """As `ostinato.bench.cases.Case`, of any shape B, T, D, U."""

    kind: str
    mode: str
    shape: tuple[int, int, int, int]


def run(context: Context) -> None:
    running.set_precision("tf32")
    shape = (2, 4, 3, 5) if context.fake else (64, 100, 128, 256)
    names = [DEFAULTS, "recurrent_dropout", "Bidirectional"] if context.fake else list(OPTIONS)
    modes = ("train",) if context.fake else ("train", "infer")
    for mode, kind in context.within(itertools.product(modes, ("LSTM", "GRU")), needs=6):
        case, base = Case(kind, mode, shape), None
        B, T, D, U = shape
        context.tell(f"{kind} B{B} T{T} D{D} U{U} tf32 {mode}, times the defaults by plan")
        for name in context.within([name for name in names if _has(OPTIONS[name], case)]):
            contenders = _contenders(case, OPTIONS[name])
            found = running.contest(context, contenders, rounds=5, seconds=0.1)
            if name == DEFAULTS:
                base = running.per_step(found["by plan"], T)
            key = {"kind": kind, "size": shape, "mode": mode, "option": name}
            running.rows(context, f"  {name}", found, T, base, **key)


def _has(option: Option, case: Case) -> bool:
    return case.kind in option.kinds and case.mode in option.modes


def _contenders(case: Case, option: Option) -> dict[str, Contender]:
    x = running.random(case.shape[:3], "float32")

    def of(library: Any) -> Any:
        def make() -> Any:
            layer = option.wrap(case.kind, case.shape[3], option.arguments, library)
            layer.build(tuple(x.shape))
            return running.runs(layer, x, case.mode, **option.call(case))

        return make

    ours = of(layers)
    return {"by plan": (None, ours), "cuda": ("cuda", ours), "keras": (None, of(keras.layers))}
