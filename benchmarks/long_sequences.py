"""Memory and time of training on long sequences: `python -m benchmarks.long_sequences`.

A line for each way and size: megabytes that two training steps need beyond inputs and what was
there before, in a fresh process each, and seconds of the faster step. Linux only, as
benchmarks.memory.
"""

import argparse
import contextlib
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.memory import _CLEAR, _kilobytes, answer

# Ways, and what makes them: use_checkpoints's argument, the layer's truncate, by Keras's remat.
WAYS: dict[str, tuple[Any, int | None]] = {
    "plain": (0, None),
    "every 32": (32, None),
    "every 256": (256, None),
    "50MB": ("50MB", None),
    "truncate 1000": (None, 1000),
    "torch.nn": (None, None),
}
SIZES = {"B4 T1e5": (4, 100_000), "B1 T1e6": (1, 1_000_000)}
D, U = 8, 64
STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--kind", default="LSTM", help="LSTM, GRU, SimpleRNN or own")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        way, size = asked.ways[0], asked.sizes[0]
        answer(lambda: _measure(way, *SIZES[size], asked.kind))
        return
    for size in asked.sizes:
        for way in asked.ways:
            command = [sys.executable, "-m", "benchmarks.long_sequences", "--one"]
            command += ["--kind", asked.kind, "--ways", way, "--sizes", size]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            print(f"{asked.kind:10} {size:10} {way:14} {done.stdout.strip()}", flush=True)


def _measure(way: str, batch: int, timesteps: int, kind: str) -> str:
    """Megabytes and seconds of training steps, of the sum of the last outputs' squares."""
    import numpy as np

    step, needs = _step(way, kind), np.random.default_rng(0)
    step(_given(needs, 2, 300))
    x = _given(needs, batch, timesteps)
    gc.collect()
    _CLEAR.write_text("5")
    before, fastest = _kilobytes("VmRSS"), float("inf")
    for _ in range(STEPS):
        start = time.perf_counter()
        step(x)
        fastest = min(fastest, time.perf_counter() - start)
    return f"{(_kilobytes('VmHWM') - before) / 1000:7.1f} MB {fastest:7.3f} s"


def _given(rng: Any, batch: int, timesteps: int) -> Any:
    import keras

    return keras.ops.convert_to_tensor(rng.normal(size=(batch, timesteps, D)).astype("float32"))


def _step(way: str, kind: str) -> Callable[[Any], None]:
    """A training step's gradients of the weights, on the backend that Keras has."""
    if way == "torch.nn":
        import torch

        module = getattr(torch.nn, {"SimpleRNN": "RNN"}.get(kind, kind))(D, U, batch_first=True)

        def run(x: Any) -> None:
            torch.autograd.grad((module(x)[0][:, -1] ** 2).sum(), list(module.parameters()))

        return run
    from ostinato import use_checkpoints

    every, truncate = WAYS[way]
    layer = _layer(kind, truncate)
    pull = _pull(layer)

    @contextlib.contextmanager
    def asked() -> Iterator[None]:
        with contextlib.nullcontext() if every is None else use_checkpoints(every):
            yield

    def run_ours(x: Any) -> None:
        with asked():
            pull(x)

    return run_ours


def _layer(kind: str, truncate: int | None) -> Any:
    from ostinato import layers

    if kind == "own":
        from benchmarks.own_cells import CELLS

        cell = CELLS["PlainLSTM"](U)
        layer: Any = layers.RNN(cell, truncate=truncate)
    else:
        layer = getattr(layers, kind)(U, truncate=truncate)
    layer.build((None, None, D))
    return layer


def _pull(layer: Any) -> Callable[[Any], None]:
    import keras

    weights = [variable.value for variable in layer.trainable_variables]
    if keras.config.backend() == "torch":
        import torch

        return lambda x: torch.autograd.grad((layer(x, training=True) ** 2).sum(), weights) and None
    if keras.config.backend() == "jax":
        import jax

        def loss(weights: Any, x: Any) -> Any:
            return (layer.stateless_call(weights, [], x, training=True)[0] ** 2).sum()

        pull = jax.jit(jax.grad(loss))
        return lambda x: jax.block_until_ready(pull(weights, x)) and None
    import tensorflow as tf

    @tf.function
    def gradients(x: Any) -> Any:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(total, layer.trainable_variables)

    return lambda x: [tensor.numpy() for tensor in gradients(x)] and None


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "torch")
    main()
