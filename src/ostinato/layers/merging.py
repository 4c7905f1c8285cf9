"""How the outputs of two directions are merged: values, and whether their shapes allow it."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from ostinato.structure import Shape, Structure, describe, map_shapes
from ostinato.tensors import shape_of

Tensor = Any

MERGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda forward, backward: ops.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "ave": lambda forward, backward: (forward + backward) / 2,
    "mul": lambda forward, backward: forward * backward,
}


def check_merge(owner: str, mode: str | None, forward: Structure, backward: Structure) -> None:
    """Refuses sizes or shapes that can't be added or multiplied, where the mode does that."""
    if mode not in ("concat", None) and not _can_broadcast(forward, backward):
        raise ValueError(
            f"{owner}: merge_mode {mode!r} takes outputs of one size, got {describe(forward)} from "
            f"the forward layer and {describe(backward)} from the backward layer; 'concat' and "
            "None take any."
        )


def merged_specs(owner: str, mode: str | None, forward: Structure, backward: Structure) -> Any:
    """The merged outputs as symbolic tensors, given those of both directions; a pair for None."""
    if mode is None:
        return forward, backward
    if mode != "concat":
        shapes = (tree.map_structure(shape_of, outputs) for outputs in (forward, backward))
        check_merge(owner, mode, *shapes)
    shape = _joined_shape if mode == "concat" else _broadcast_shape
    return tree.map_structure(
        lambda one, other: keras.KerasTensor(shape(one, other), dtype=one.dtype), forward, backward
    )


def _can_broadcast(forward: Structure, backward: Structure) -> bool:
    """Whether the sizes or shapes in two nests are the same, or can be broadcast."""
    pairs = _flat(forward), _flat(backward)
    return len(pairs[0]) == len(pairs[1]) and all(
        len(one) == len(other)
        and all(a == b or 1 in (a, b) or None in (a, b) for a, b in zip(one, other, strict=True))
        for one, other in zip(*pairs, strict=True)
    )


def _flat(nest: Structure) -> list[tuple[int | None, ...]]:
    """The sizes of a cell's outputs, or the shapes of a layer's, one after the other."""
    found: list[tuple[int | None, ...]] = []
    if all(isinstance(leaf, Shape) for leaf in tree.flatten(nest)):
        found += map(tuple, tree.flatten(nest))
    else:
        map_shapes(found.append, nest)
    return found


def _broadcast_shape(forward: Any, backward: Any) -> tuple[int | None, ...]:
    """Of two tensors that are added or multiplied."""
    pairs = zip(forward.shape, backward.shape, strict=True)
    return tuple(b if a == 1 else a for a, b in pairs)


def _joined_shape(forward: Any, backward: Any) -> tuple[int | None, ...]:
    """Of two tensors that are concatenated along their last axis."""
    widths = forward.shape[-1], backward.shape[-1]
    return (*forward.shape[:-1], None if None in widths else sum(widths))
