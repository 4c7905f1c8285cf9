"""A timestep, run by Keras, of the layers that look at earlier ones."""

from typing import Any

import numpy as np
from keras import layers, ops

from ostinato.nests import flatten
from ostinato.streaming.graph import LayerCall
from ostinato.streaming.program import COUNTED_BY, POOL_LARGEST, POOL_MEAN, pool_states
from ostinato.streaming.windows import GLOBAL_POOLS, WINDOWS, window_of

Tensor = Any


def initial_states(call: LayerCall) -> list[np.ndarray]:
    """What a layer of several timesteps begins with, if it's such a layer."""
    (ref,) = flatten(call.inputs) if isinstance(call.layer, (*WINDOWS, *GLOBAL_POOLS)) else (None,)
    if ref is None:
        return []
    if isinstance(call.layer, GLOBAL_POOLS):
        return pool_states(_pool_kind(call.layer), ref.shape)
    span = window_of(call.layer).span
    return [np.zeros((span, *ref.shape))] if span else []


def _pool_kind(layer: Any) -> int:
    return POOL_MEAN if isinstance(layer, layers.GlobalAveragePooling1D) else POOL_LARGEST


def look_back(call: LayerCall, x: Tensor, states: list[Tensor], kept: list[Tensor]) -> Tensor:
    """The last of what a layer makes of the timesteps that its window holds."""
    if not window_of(call.layer).span:
        return call.layer(x)
    held = ops.concatenate([ops.cast(states.pop(0), x.dtype), x], axis=1)
    kept.append(held[:, 1:])
    return call.layer(held)[:, -1:]


def pool(
    call: LayerCall, x: Tensor, mask: Tensor | None, states: list[Tensor], kept: list[Tensor]
) -> Tensor:
    """The mean, or the largest, of a value's timesteps so far: see `pool_states`."""
    x = ops.cast(x[:, 0], call.layer.compute_dtype)
    like = states[0].dtype
    if _pool_kind(call.layer) == POOL_LARGEST:
        kept.append(ops.maximum(states.pop(0), ops.cast(x, like)))
        return ops.cast(kept[-1], x.dtype)
    total, lost, count = (states.pop(0) for _ in range(3))
    valid = ops.ones_like(count[:, :1]) if mask is None else ops.cast(mask, like)
    ones = count[:, 1:] + valid
    is_full = ops.cast(ones >= COUNTED_BY, like)
    count = ops.concatenate([count[:, :1] + is_full, ones - COUNTED_BY * is_full], axis=1)
    added = ops.cast(x, like) - lost
    new = total + added
    off = (new - total) - added
    takes = ops.reshape(valid, (-1, *[1] * (len(x.shape) - 1))) > 0
    total = ops.where(takes, new, total)
    lost = ops.where(takes, ops.where(ops.isfinite(off), off, ops.zeros_like(off)), lost)
    kept += [total, lost, count]
    number = ops.reshape(count[:, 0] * COUNTED_BY + count[:, 1], ops.shape(takes))
    return ops.cast(total / number, x.dtype)
