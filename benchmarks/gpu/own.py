"""Cells of one's own on the CUDA kernel: whether they're right, and how fast beside LSTM."""

from typing import Any

import numpy as np
import torch

from benchmarks import own_cells
from benchmarks.gpu import right, running
from benchmarks.gpu.context import Context, reason
from benchmarks.gpu.running import MODES, Contender
from benchmarks.own_cells import CELLS, Own
from ostinato import layers

TIMED = ("PeepholeLSTM", "MultiplicativeLSTM", "Antisymmetric", "SRU")
WITH = (own_cells.normal, own_cells.observed, own_cells.positive)


def run(context: Context) -> None:
    running.set_precision("float32")
    names = [name for name, own in CELLS.items() if own.inputs in WITH and not own.memory]
    names = ["PeepholeLSTM"] if context.fake else [n for n in names if not CELLS[n].spikes]
    names = [] if context.without == "cuda" else names
    for name in context.within(names, needs=20 if not context.fake else 1):
        _right(context, name, CELLS[name])
    running.set_precision("tf32")
    shape = (2, 4, 5) if context.fake else (64, 100, 256)
    for mode in context.within(MODES):
        found = running.contest(
            context, _contenders(shape, mode, context.fake), rounds=4, seconds=0.2
        )
        B, T, U = shape
        base = running.per_step(found["LSTM by plan"], T)
        heading = f"B{B} T{T} D{U} U{U} tf32 {mode}, times LSTM's by plan"
        running.rows(context, heading, found, T, base, mode=mode, size=shape)


def _layer(own: Own, x: np.ndarray, units: int, dtype: str) -> Any:
    with running.policy(dtype):
        layer = layers.RNN(own.make(units), return_sequences=True)
    layer.build(x.shape)
    return layer


def _right(context: Context, name: str, own: Own) -> None:
    """Beside the portable loop in float64, on the card."""
    units = 5 if context.fake else 64
    rng = np.random.default_rng(0)
    x = own.inputs(rng, 3 if context.fake else 19, 4 if context.fake else 20, units)
    mask = rng.random(x.shape[:2]) < 0.8
    try:
        ours = _layer(own, x, units, "float32")
        exact = _layer(own, x, units, "float64")
        exact.set_weights(ours.get_weights())
        with context.forced("scan"), torch.no_grad():
            width = exact(running.tensor(x, "float64")).shape
        upstream = [rng.standard_normal(tuple(width))]
        with context.forced("scan"):
            expected = right.pulled(exact, x, [], mask, upstream, "float64")
        with context.forced("cuda"):
            found = right.pulled(ours, x, [], mask, upstream, "float32")
    except Exception as error:  # noqa: BLE001 - a refusal is a finding
        said = reason(error)
        context.tell(f"refused {name}: {said}", cell=name, refused=said)
        return running.need_card(said)
    off = [right._off(*pair) for pair in zip(found, expected, strict=True)]
    is_wrong = not max(off) < own.tolerance
    context.wrong += is_wrong
    shown = f"values off by {off[0]:.1e}, gradients by {off[1]:.1e}"
    return context.tell(f"{'WRONG' if is_wrong else 'right'} {name}: {shown}", cell=name, off=off)


def _contenders(shape: tuple[int, int, int], mode: str, fake: bool) -> dict[str, Contender]:
    x, units = running.random(shape, "float32"), shape[-1]

    def of(name: str) -> Any:
        return lambda: running.runs(_layer(CELLS[name], x, units, "float32"), x, mode)

    def lstm() -> Any:
        return running.runs(running.built(layers, "LSTM", x, units, "float32"), x, mode)

    found: dict[str, Contender] = {"LSTM by plan": (None, lstm), "LSTM by cuda": ("cuda", lstm)}
    for name in TIMED[:1] if fake else TIMED:
        found[f"{name} by cuda"] = ("cuda", of(name))
        found[f"{name} by scan"] = ("scan", of(name))
    return found
