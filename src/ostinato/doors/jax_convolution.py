"""Convolutions as products, for loops on a CPU.

XLA's own for the CPU are fast, but the derivatives of those inside a loop aren't: a training step
of ConvLSTM2D, B8 T10 of 16x16x3 with 8 filters, takes 100 ms with them and 12 ms with these; B4 T10
of 40x40 with 40 filters 3.9 s and 0.5 s (2 cores, minima of one run).
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import keras
from jax import lax

Tensor = Any


def conv(
    inputs: Tensor,
    kernel: Tensor,
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: int | Sequence[int] = 1,
) -> Tensor:
    """`keras.ops.conv`, of inputs with as many channels as the kernel."""
    if jax.default_backend() != "cpu":
        return keras.ops.conv(inputs, kernel, strides, padding, data_format, dilation_rate)
    kernel = keras.ops.convert_to_tensor(kernel)
    rank = kernel.ndim - 2
    steps, rates = (
        (given,) * rank if isinstance(given, int) else tuple(given)
        for given in (strides, dilation_rate)
    )
    first = data_format == "channels_first"
    x = jax.numpy.moveaxis(inputs, 1, -1) if first else inputs
    product = _product(x, kernel, steps, padding, rates)
    return jax.numpy.moveaxis(product, -1, 1) if first else product


# Recomputed for the derivative, the windows aren't kept: they're as many times the inputs as the
# kernel has places. It takes no longer.
@functools.partial(jax.checkpoint, static_argnums=(2, 3, 4))
def _product(
    x: Tensor, kernel: Tensor, steps: tuple[int, ...], padding: str, rates: tuple[int, ...]
) -> Tensor:
    """Each place's window of x (B, *S, D) side by side, times the kernel (*K, D, F)."""
    places = kernel.shape[:-2]
    spans = [(size - 1) * rate + 1 for size, rate in zip(places, rates, strict=True)]
    pads = [(0, 0)] * len(spans)
    if padding == "same":
        pads = lax.padtype_to_pads(x.shape[1:-1], spans, steps, "SAME")
    x = jax.numpy.pad(x, [(0, 0), *pads, (0, 0)])
    ends = [size - span + 1 for size, span in zip(x.shape[1:-1], spans, strict=True)]
    windows = []
    for place in itertools.product(*map(range, places)):
        starts = [index * rate for index, rate in zip(place, rates, strict=True)]
        axes = zip(starts, ends, steps, strict=True)
        cut = (slice(start, start + end, step) for start, end, step in axes)
        windows.append(x[(slice(None), *cut)])
    columns = jax.numpy.concatenate(windows, axis=-1)
    return columns @ kernel.reshape(-1, kernel.shape[-1])
