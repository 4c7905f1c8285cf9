"""Microseconds of a timestep: ours, torch.nn's, Keras's and a bare loop's, by size and dtype."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras

from benchmarks.gpu import running
from benchmarks.gpu.context import Context
from benchmarks.gpu.running import DTYPES, MODES, ON_TORCH, Contender
from ostinato import layers

LOOP = 64  # timesteps of the bare loop: it takes the same for each


def run(context: Context) -> None:
    timesteps = 8 if context.fake else 1024
    for kind, batch, units, precision in context.within(_sizes(context.fake), needs=8):
        running.set_precision(precision)
        shape = (batch, timesteps, units)
        x = running.random(shape, DTYPES[precision])
        for mode in MODES:
            contenders, steps = _contenders(kind, x, units, DTYPES[precision], mode)
            found = running.contest(context, contenders, rounds=4, seconds=0.3)
            base = "torch.nn" if ON_TORCH else "keras"
            size = f"B{batch} T{timesteps} D{units} U{units}"
            running.rows(
                context,
                f"{kind} {size} {precision} {mode}, times {base}'s",
                found,
                {name: steps.get(name, timesteps) for name in found},
                running.per_step(found[base], timesteps),
                kind=kind,
                batch=batch,
                units=units,
                precision=precision,
                mode=mode,
            )


def _sizes(fake: bool) -> Iterator[tuple[str, int, int, str]]:
    """The most telling first: there may be no time for all."""
    if fake:
        yield "GRU", 2, 6, "float32"
        return
    kinds, precisions = ("LSTM", "GRU"), ("tf32", "float32", "bfloat16")
    if not ON_TORCH:  # each takes seconds to compile
        yield from itertools.product(("LSTM",), (16,), (512, 64, 1024), ("tf32", "bfloat16"))
        yield from itertools.product(("GRU",), (64,), (256,), ("tf32",))
        yield from itertools.product(("LSTM",), (64,), (256, 768), ("tf32", "float32"))
        return
    yield "LSTM", 16, 768, "float16"  # cuDNN's persistent kernel is for that
    for units, kind in itertools.product(((64, 256, 1024), (128, 512, 768)), kinds):
        for precision, own, batch in itertools.product(precisions, units, (16, 64)):
            yield kind, batch, own, precision


def _contenders(
    kind: str, x: Any, units: int, dtype: str, mode: str
) -> tuple[dict[str, Contender], dict[str, int]]:
    """Those who take part, and the timesteps of those who run fewer."""
    ours = running.built(layers, kind, x, units, dtype)

    def plain() -> Any:
        return running.runs(ours, x, mode)

    def in_keras() -> Any:
        return running.runs(running.built(keras.layers, kind, x, units, dtype), x, mode)

    def loop() -> Any:
        return running.runs(ours, x[:, :LOOP], mode)

    found: dict[str, Contender] = {"keras": (None, in_keras)}
    if ON_TORCH:
        found = {
            "torch.nn": (None, lambda: _torch_nn(kind, x, units, mode)),
            "cudnn": ("cudnn", plain),
            "cuda": ("cuda", plain),
            **found,
        }
    else:
        found |= {"cudnn": ("cudnn", plain)} if kind == "LSTM" else {}
        found["cuda"] = ("cuda", plain)
    found["scan"] = ("scan", loop if ON_TORCH else plain)
    return found, {"scan": min(LOOP, x.shape[1])} if ON_TORCH else {}


def _torch_nn(kind: str, x: Any, units: int, mode: str) -> Any:
    module = torch_module(kind, x, units)
    return running.torch_runs(module, list(module.parameters()), x, mode)


def torch_module(kind: str, x: Any, units: int, **arguments: Any) -> Any:
    """PyTorch's own layer, where x is."""
    import torch

    of_kind = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "SimpleRNN": torch.nn.RNN}[kind]
    own = {"batch_first": True, "device": x.device, "dtype": x.dtype, **arguments}
    return of_kind(x.shape[-1], units, **own)
