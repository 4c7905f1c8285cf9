"""Under torch.compile: whether layers are one graph, give what they give eagerly, and how fast."""

from typing import Any

import torch

from benchmarks.gpu import running
from benchmarks.gpu.context import Context, reason
from benchmarks.gpu.running import MODES, Contender
from ostinato import layers

ENGINES = {"by plan": None, "cuda": "cuda"}


def run(context: Context) -> None:
    running.set_precision("float32")
    engines = {"by plan": None} if context.without == "cuda" else ENGINES
    B, T, U = shape = (2, 4, 5) if context.fake else (16, 128, 256)
    x = running.random(shape, "float32")
    for kind in context.within(("LSTM", "GRU"), needs=10):
        layer = running.built(layers, kind, x, U, "float32")
        whole = torch.compile(
            layer, fullgraph=True, backend="aot_eager" if context.fake else "inductor"
        )
        for mode in MODES[:1] if context.fake else MODES:
            contenders: dict[str, Contender] = {}
            for name, engine in engines.items():
                for said, function in (("", layer), (" compiled", whole)):
                    contenders[f"{name}{said}"] = (engine, _made(layer, function, x, mode))
                _compare(context, kind, mode, name, contenders)
            found = running.contest(context, contenders, rounds=4, seconds=0.1)
            base = running.per_step(found["by plan"], T)
            heading = f"{kind} B{B} T{T} D{U} U{U} float32 {mode}, times the eager plan's"
            running.rows(context, heading, found, T, base, kind=kind, mode=mode)
        torch.compiler.reset()


def _made(layer: Any, function: Any, x: Any, mode: str) -> Any:
    weights = [variable.value for variable in layer.trainable_variables]
    return lambda: running.torch_runs(function, weights, x, mode, tells_training=True)


def _compare(
    context: Context, kind: str, mode: str, name: str, contenders: dict[str, Contender]
) -> None:
    try:
        pair = []
        for each in (name, f"{name} compiled"):
            engine, make = contenders[each]
            torch.manual_seed(0)
            with context.forced(engine):
                result = make()()
            pair.append(result if isinstance(result, tuple) else (result,))
        off = max(float((a - b).norm() / (b.norm() or 1.0)) for a, b in zip(*pair, strict=True))
    except Exception as error:  # noqa: BLE001 - the others run
        context.wrong += 1
        said = f"FAILED {kind} {mode} {name} compiled: {reason(error)}"
        context.tell(said, error=reason(error))
        return running.need_card(said)
    is_wrong = not off < 1e-4
    context.wrong += is_wrong
    shown = "WRONG" if is_wrong else "right"
    return context.tell(f"{shown} {kind} {mode} {name} compiled: off by {off:.1e}", off=off)
