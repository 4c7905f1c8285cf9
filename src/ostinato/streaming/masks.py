"""Masks in a graph: where each comes from, told from the operations that make it.

In a functional model Keras hands every layer its mask as one more tensor, computed by operations
in the graph. A stream has masks of its own making, from Embedding and Masking; so those in the
graph are read only to see that they're the same, and not of the user's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, tree

from ostinato.layers import RNN
from ostinato.streaming.causal import MERGES
from ostinato.streaming.windows import GLOBAL_POOLS

# A mask that holds where any of some pairs (tensor, number) differ, on some axis; `EVERY` holds
# everywhere, which is as good as none.
Origin = frozenset[tuple[int, float]]
EVERY: Origin = frozenset([(-1, 0.0)])

_JOINING = ("Any", "Squeeze", "ExpandDims", "LogicalOr", "Concatenate", "BroadcastTo", "Cast")


def origin_of(operation: Any, args: Sequence[Any], find: Callable[[Any], Any]) -> Origin | None:
    """What mask an operation of a graph makes; None where it makes something else.

    Args:
        operation: The operation.
        args: What it's called with.
        find: Gives the id of a tensor that a layer makes, the origin of a mask, or None.
    """
    kind = type(operation).__name__
    if kind == "NotEqual" and len(args) == 2 and isinstance(args[1], (int, float)):
        made_by_layer = find(args[0])
        if isinstance(made_by_layer, int):
            return frozenset([(made_by_layer, float(args[1]))])
    if kind == "ZerosLike":
        return frozenset()
    if kind == "OnesLike":
        return EVERY
    if kind not in _JOINING or not _keeps_timesteps(operation, args):
        return None
    found = [find(arg) for arg in tree.flatten(args) if isinstance(arg, keras.KerasTensor)]
    if not all(isinstance(origin, frozenset) for origin in found):
        return None
    return EVERY if EVERY in found else frozenset().union(*found)


def _keeps_timesteps(operation: Any, args: Sequence[Any]) -> bool:
    """Whether an operation's axes, if it has some, come after those of batch and time."""
    axis = getattr(operation, "axis", ())  # a number, or some
    rank = max(len(t.shape) for t in tree.flatten(args) if isinstance(t, keras.KerasTensor))
    rank += type(operation).__name__ == "ExpandDims"
    return all(a % rank >= 2 for a in (axis if isinstance(axis, (list, tuple)) else [axis]))


def output_mask(layer: Any, ids: Sequence[int], masks: Sequence[Origin | None]) -> Origin | None:
    """The mask of a layer's output, by Keras's rules, given its inputs' ids and masks."""
    if isinstance(layer, layers.Embedding):
        return frozenset([(ids[0], 0.0)]) if layer.mask_zero else None
    if isinstance(layer, layers.Masking):
        return frozenset([(ids[0], float(layer.mask_value))])
    if isinstance(layer, MERGES):
        return None if None in masks else frozenset().union(*(mask for mask in masks if mask))
    if isinstance(layer, GLOBAL_POOLS) or (isinstance(layer, RNN) and not layer.return_sequences):
        return None
    return next((m for m in masks if m is not None), None) if layer.supports_masking else None
