"""The CUDA kernel on a few timesteps, each way that blocks meet: for compute-sanitizer."""

import numpy as np

from benchmarks.gpu import running
from benchmarks.gpu.context import Context
from ostinato import layers


def run(context: Context) -> None:
    running.set_precision("float32")
    for kind, units in (("LSTM", 64), ("GRU", 128), ("LSTM", 512)):
        x = running.random((3, 3, 4), "float32")
        layer = running.built(layers, kind, x, 5 if context.fake else units, "float32")
        mask = np.random.default_rng(0).random((3, 3)) < 0.7
        with context.forced("cuda"):
            gradients = running.runs(layer, x, "train", mask=mask)()
        finite = all(bool(each.isfinite().all()) for each in gradients)
        context.wrong += not finite
        context.tell(f"{kind} {units}: gradients are finite: {finite}")
