"""Whether two directions' outputs can be merged, and what shape that gives."""

from typing import Any

from keras import tree

from ostinato.structure import Shape, Structure, map_shapes


def can_broadcast(forward: Structure, backward: Structure) -> bool:
    """Whether two nests hold the same sizes or shapes, or such as broadcast."""
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


def broadcast_shape(forward: Any, backward: Any) -> tuple[int | None, ...]:
    """Of two tensors that are added or multiplied."""
    pairs = zip(forward.shape, backward.shape, strict=True)
    return tuple(b if a == 1 else a for a, b in pairs)


def joined_shape(forward: Any, backward: Any) -> tuple[int | None, ...]:
    """Of two tensors that are concatenated along their last axis."""
    return (*forward.shape[:-1], forward.shape[-1] + backward.shape[-1])
