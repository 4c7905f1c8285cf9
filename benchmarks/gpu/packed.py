"""What a mask costs on cuDNN: our moves beside PyTorch's packed sequences; in a CUDA graph, too."""

import itertools
from typing import Any

import numpy as np

from benchmarks.gpu import running
from benchmarks.gpu.context import Context, reason
from benchmarks.gpu.running import MODES, Contender
from benchmarks.gpu.steps import torch_module
from ostinato import layers
from ostinato.engines import cudnn

SIZES = ((64, 100, 128, 256), (16, 200, 256, 1024), (32, 1024, 256, 512))  # B, T, D, U


def run(context: Context) -> None:
    sizes = ((2, 4, 3, 5),) if context.fake else SIZES
    running.set_precision("tf32")
    _graph(context)
    _copies(context)
    kinds = ("LSTM",) if context.fake else ("LSTM", "GRU")
    for size, kind, mode in context.within(itertools.product(sizes, kinds, MODES)):
        B, T, D, U = size
        found = running.contest(context, _masks(kind, size, mode), rounds=5, seconds=0.2)
        key = {"kind": kind, "size": size, "mode": mode}
        heading = f"{kind} B{B} T{T} D{D} U{U} tf32 {mode}, half of all timesteps padding"
        running.rows(context, heading, found, T, running.per_step(found["no mask"], T), **key)
    for kind, dropout, mode in context.within(itertools.product(kinds, (0.0, 0.2), MODES)):
        found = running.contest(context, _directions(kind, sizes[0], dropout, mode), seconds=0.2)
        heading = f"Bidirectional {kind}, dropout {dropout}, {mode}"
        key = {"kind": kind, "dropout": dropout, "mode": mode}
        T = sizes[0][1]
        running.rows(context, heading, found, T, running.per_step(found["one call"], T), **key)


def _lengths(batch: int, timesteps: int) -> np.ndarray:
    return np.rint(np.linspace(1, timesteps - 1, batch)).astype("int64")


def _masks(kind: str, size: tuple[int, ...], mode: str) -> dict[str, Contender]:
    B, T, D, U = size
    x, lengths = running.random((B, T, D), "float32"), _lengths(B, T)
    right = np.arange(T) < lengths[:, None]
    holes = np.random.default_rng(0).random((B, T)) < 0.5
    ours = running.built(layers, kind, x, U, "float32")
    with_state = running.built(layers, kind, x, U, "float32", return_state=True)

    def of(layer: Any, mask: Any = None) -> Any:
        return lambda: running.runs(layer, x, mode, mask=mask)

    return {
        "no mask": ("cudnn", of(ours)),
        "torch.nn, no mask": (None, lambda: _torch_nn(kind, x, U, mode, None)),
        "right padding": ("cudnn", of(ours, right)),
        "right padding, with final states": ("cudnn", of(with_state, right)),
        "holes": ("cudnn", of(ours, holes)),
        "torch.nn, packed": (None, lambda: _torch_nn(kind, x, U, mode, lengths)),
        "cuda, no mask": ("cuda", of(ours)),
        "cuda, right padding": ("cuda", of(ours, right)),
    }


def _torch_nn(kind: str, x: Any, units: int, mode: str, lengths: Any) -> Any:
    import torch
    from torch.nn.utils import rnn

    module = torch_module(kind, x, units)
    lengths = None if lengths is None else torch.from_numpy(lengths)

    def call(x: Any) -> Any:
        if lengths is None:
            return module(x)
        given = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(module(given)[0], batch_first=True, total_length=x.shape[1])

    return running.torch_runs(call, list(module.parameters()), x, mode)


def _directions(
    kind: str, size: tuple[int, ...], dropout: float, mode: str
) -> dict[str, Contender]:
    B, T, D, U = size
    x = running.random((B, T, D), "float32")
    inner = getattr(layers, kind)(U, return_sequences=True, dropout=dropout)
    layer = layers.Bidirectional(inner)
    layer.build((B, T, D))

    def one() -> Any:
        return running.runs(layer, x, mode)

    def two() -> Any:
        run = one()

        def apart() -> Any:
            before, cudnn._fit_in_one_call = cudnn._fit_in_one_call, lambda one, other: False
            try:
                return run()
            finally:
                cudnn._fit_in_one_call = before

        return apart

    return {"one call": ("cudnn", one), "two calls": ("cudnn", two)}


def _graph(context: Context) -> None:
    """A masked run captured: nothing in it waits for the GPU."""
    import torch

    if context.fake:
        return context.tell("CUDA graphs need a GPU")
    x, mask = running.random((32, 50, 64), "float32"), np.arange(50) < _lengths(32, 50)[:, None]
    layer = running.built(layers, "LSTM", x, 128, "float32", return_state=True)
    try:
        with context.forced("cudnn"), torch.no_grad():
            run = running.runs(layer, x, "infer", mask=mask)
            wanted, graph = run(), torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                captured = run()
            graph.replay()
            torch.cuda.synchronize()
        same = bool(torch.equal(captured, wanted))
    except Exception as error:  # noqa: BLE001 - it's a finding
        context.wrong += 1
        return context.tell(f"FAILED a CUDA graph of a masked LSTM: {reason(error)}")
    context.wrong += not same
    return context.tell(f"a CUDA graph of a masked LSTM gives the same: {same}", graph=same)


def _copies(context: Context) -> None:
    """Whether PyTorch copies the parameters, which it warns of."""
    import warnings

    import torch

    torch.set_warn_always(True)
    for kind in ("LSTM", "GRU", "SimpleRNN"):
        x = running.random((4, 5, 6), "float32")
        layer = running.built(layers, kind, x, 7, "float32")
        with warnings.catch_warnings(record=True) as caught, context.forced("cudnn"):
            warnings.simplefilter("always")
            running.runs(layer, x, "train")()
        said = [str(each.message)[:90] for each in caught]
        copied = any("contiguous chunk" in text for text in said)
        context.tell(f"{kind}: PyTorch copies its parameters: {copied}", copied=copied, said=said)
    torch.set_warn_always(False)
