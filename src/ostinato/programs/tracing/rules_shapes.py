"""Keras's operations on the places of elements in programs' ones; rules as in rules_elementwise."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.rules_elementwise import Rule
from ostinato.programs.tracing.rules_places import gathered
from ostinato.programs.tracing.terms import Term
from ostinato.programs.tracing.translation import Translation


def _reshape(t: Translation, op: Any, x: Term) -> Term:
    shape = op.newshape
    return t.reshape(x, (shape,) if isinstance(shape, int) else shape)


def _transpose(t: Translation, op: Any, x: Term) -> Term:
    return t.transpose(x, range(x.rank)[::-1] if op.axes is None else op.axes)


def _swapaxes(t: Translation, op: Any, x: Term) -> Term:
    axes = list(range(x.rank))
    first, second = op.axis1 % x.rank, op.axis2 % x.rank
    axes[first], axes[second] = second, first
    return t.transpose(x, axes)


def _moveaxis(t: Translation, op: Any, x: Term) -> Term:
    source, destination = (
        [axes] if isinstance(axes, int) else list(axes) for axes in (op.source, op.destination)
    )
    source, destination = ([axis % x.rank for axis in axes] for axes in (source, destination))
    order = [axis for axis in range(x.rank) if axis not in source]
    for place, axis in sorted(zip(destination, source, strict=True)):
        order.insert(place, axis)
    return t.transpose(x, order)


def _expand_dims(t: Translation, op: Any, x: Term) -> Term:
    axes = [op.axis] if isinstance(op.axis, int) else list(op.axis)
    rank = x.rank + len(axes)
    places = {axis % rank for axis in axes}
    sizes = iter(x.shape)
    return t.reshape(x, [1 if axis in places else next(sizes) for axis in range(rank)])


def _squeeze(t: Translation, op: Any, x: Term) -> Term:
    axes = op.axis
    if axes is None:
        axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    axes = [axes] if isinstance(axes, int) else list(axes)
    gone = {axis % x.rank for axis in axes}
    return t.reshape(x, [size for axis, size in enumerate(x.shape) if axis not in gone])


def _broadcast_to(t: Translation, op: Any, x: Term) -> Term:
    return t.broadcast(x, op.shape)


# Parts.


def _keys(key: Any, rank: int) -> list[Any]:
    """An index as one entry an axis, new axes among them."""
    keys = list(key) if isinstance(key, (tuple, list)) else [key]
    missing = rank - sum(item is not None and item is not Ellipsis for item in keys)
    if Ellipsis in [item for item in keys if isinstance(item, type(Ellipsis))]:
        at = next(place for place, item in enumerate(keys) if item is Ellipsis)
        return [*keys[:at], *[slice(None)] * missing, *keys[at + 1 :]]
    return [*keys, *[slice(None)] * missing]


def _getitem(t: Translation, op: Any, x: Term, key: Any) -> Term:
    shape: list[int] = []
    axis = 0
    for item in _keys(key, x.rank):
        if item is None:
            shape.append(1)
            continue
        size = x.shape[axis]
        if isinstance(item, Term) or not isinstance(item, (slice, int, np.integer)):
            raise Untraceable("an index is a tensor or an array")
        if not isinstance(item, slice) and not -size <= item < size:
            raise Untraceable(f"there's no place {item} in an axis of {size}")
        if isinstance(item, slice):
            start, stop, step = item.indices(size)
            count = len(range(start, stop, step))
            if (start, count, step) != (0, size, 1):
                x = t.part(x, axis, start, count, step)
            shape.append(count)
        else:
            x = t.part(x, axis, int(item) % size, 1)
        axis += 1
    return t.reshape(x, shape)


def _split(t: Translation, op: Any, x: Term) -> list[Term]:
    size = x.shape[op.axis]
    parts = op.indices_or_sections
    if isinstance(parts, int):
        bounds = [size // parts * part for part in range(parts + 1)]
    else:
        bounds = [0, *(int(bound) for bound in parts), size]
    return [t.part(x, op.axis, start, stop - start) for start, stop in pairwise(bounds)]


def _unstack(t: Translation, op: Any, x: Term) -> list[Term]:
    shape = list(x.shape)
    del shape[op.axis]
    return [t.reshape(t.part(x, op.axis, at, 1), shape) for at in range(x.shape[op.axis])]


def _slice(t: Translation, op: Any, x: Term, start_indices: Any, shape: Any = None) -> Term:
    shape = op.shape if shape is None else shape  # an argument of the call until Keras 3.11
    if isinstance(start_indices, Term) or any(isinstance(at, Term) for at in start_indices):
        raise Untraceable("where the slice starts is a tensor")
    for axis, (start, size) in enumerate(zip(start_indices, shape, strict=True)):
        size = x.shape[axis] - int(start) if size == -1 else int(size)
        if not 0 <= int(start) <= int(start) + size <= x.shape[axis]:
            raise Untraceable(
                f"it takes {size} places from {start} on of an axis of {x.shape[axis]}"
            )
        if (start, size) != (0, x.shape[axis]):
            x = t.part(x, axis, int(start), size)
    return x


def _take(t: Translation, op: Any, x: Any, indices: Any) -> Term:
    x = t.term(x)
    places = _constant(t, indices)
    if op.axis is None:
        raise Untraceable("it takes from all axes as one")
    if places is None:
        return gathered(t, x, op.axis, t.term(indices))
    return taken(t, x, op.axis, places)


def _constant(t: Translation, indices: Any) -> np.ndarray | None:
    """Indices that are the same at all times, or None."""
    if not isinstance(indices, Term):
        return np.asarray(indices, int)
    number = t.number(indices)
    if number is not None:
        return np.asarray(int(number))
    array = t.array_of(indices)
    return None if array is None else np.asarray(array, int)


def taken(t: Translation, x: Term, axis: int, places: np.ndarray) -> Term:
    """Places of an axis in any order, as slices of equal steps joined."""
    axis %= x.rank
    t.axis(x, axis)
    if places.size and not -x.shape[axis] <= places.min() <= places.max() < x.shape[axis]:
        raise Untraceable(f"it takes places that an axis of {x.shape[axis]} hasn't")
    flat = [int(place) % x.shape[axis] for place in places.reshape(-1)]
    parts = [t.part(x, axis, *run) for run in _runs(flat)]
    joined = t.joined(parts, axis)
    return t.reshape(joined, (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _runs(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """Places as runs of (start, count, step)."""
    runs: list[tuple[int, int, int]] = []
    at = 0
    while at < len(places):
        step = places[at + 1] - places[at] if at + 1 < len(places) else 1
        count = 1
        while (
            step
            and at + count < len(places)
            and (places[at + count] - places[at + count - 1] == step)
        ):
            count += 1
        runs.append((places[at], count, step if count > 1 else 1))
        at += count
    return runs


def _flip(t: Translation, op: Any, x: Term) -> Term:
    axes = range(x.rank) if op.axis is None else op.axis
    for axis in [axes] if isinstance(axes, int) else axes:
        x = t.part(x, axis, x.shape[axis] - 1, x.shape[axis], -1)
    return x


def _roll(t: Translation, op: Any, x: Term) -> Term:
    if op.axis is None:
        raise Untraceable("it rolls all axes as one")
    shifts = [op.shift] if isinstance(op.shift, int) else list(op.shift)
    axes = [op.axis] if isinstance(op.axis, int) else list(op.axis)
    for shift, axis in zip(shifts, axes, strict=True):
        x = taken(t, x, axis, np.roll(np.arange(x.shape[axis]), shift))
    return x


# Several in one.


def _concatenate(t: Translation, op: Any, xs: Any) -> Term:
    return t.joined(t.side_by_side(xs), op.axis)


def _stack(t: Translation, op: Any, xs: Any) -> Term:
    terms = t.side_by_side(xs)
    rank = terms[0].rank + 1
    axis = op.axis % rank
    shape = (*terms[0].shape[:axis], 1, *terms[0].shape[axis:])
    return t.joined([t.reshape(term, shape) for term in terms], axis)


def _pad(t: Translation, op: Any, x: Term, constant_values: Any = None) -> Term:
    if op.mode != "constant":
        raise Untraceable(f"mode {op.mode!r} isn't among programs' operations")
    widths = [(int(low), int(high)) for low, high in op.pad_width]
    if x.fold and widths[0] != (0, 0):
        raise Untraceable("it adds rows to the batch")
    own = widths[1:] if x.fold == 1 else widths
    padded = padded_by(t, x, own)
    number = 0.0 if constant_values is None else t.number(t.term(constant_values))
    if not number:
        return padded
    ones = padded_by(t, t.broadcast(t.literal(1.0), x.shape), own)
    return t.apply("select", ones, padded, t.literal(number))


def padded_by(t: Translation, x: Term, widths: Sequence[tuple[int, int]]) -> Term:
    """A term with zeros around it, by the graph's axes."""
    if not any(any(pair) for pair in widths):
        return x
    dims = t.graph[x.value].shape
    whole = [size + sum(pair) for size, pair in zip(dims, widths, strict=True)]
    place = (tuple(low for low, _ in widths), (1,) * len(dims))
    return t.assembled([x], whole, [place])


def _repeat(t: Translation, op: Any, x: Term) -> Term:
    if not isinstance(op.repeats, (int, np.integer)) or op.axis is None:
        raise Untraceable("it repeats elements by different counts, or all axes as one")
    axis = op.axis % x.rank
    t.axis(x, axis)
    shape = x.shape
    wide = t.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    count = int(op.repeats)
    wide = t.broadcast(wide, (*shape[: axis + 1], count, *shape[axis + 1 :]))
    return t.reshape(wide, (*shape[:axis], shape[axis] * count, *shape[axis + 1 :]))


def _tile(t: Translation, op: Any, x: Term) -> Term:
    repeats = [op.repeats] if isinstance(op.repeats, int) else [int(n) for n in op.repeats]
    rank = max(len(repeats), x.rank)
    repeats = [1] * (rank - len(repeats)) + repeats
    if rank > x.rank:
        x = t.reshape(x, (1,) * (rank - x.rank) + x.shape)
    if not x.fold and repeats[0] % t.batch == 0 and x.shape[0] == 1:
        x = t.broadcast(x, (repeats[0], *x.shape[1:]))
        repeats[0] = 1
    if x.fold and repeats[0] != 1:
        raise Untraceable("it repeats the rows of the batch")
    for axis in range(rank):
        if repeats[axis] != 1:
            places = np.tile(np.arange(x.shape[axis]), repeats[axis])
            x = taken(t, x, axis, places)
    return x


def _diagonal(t: Translation, op: Any, x: Term) -> Term:
    if op.axis1 % x.rank != x.rank - 2 or op.axis2 % x.rank != x.rank - 1:
        raise Untraceable("it takes the diagonal of other axes than the last two")
    rows, columns = x.shape[-2:]
    first = max(op.offset, 0) - min(op.offset, 0) * columns
    count = min(columns - max(op.offset, 0), rows + min(op.offset, 0))
    flat = t.reshape(x, (*x.shape[:-2], rows * columns))
    return t.part(flat, -1, first, count, columns + 1)


def _triangle(keep: Any) -> Rule:
    def rule(t: Translation, op: Any, x: Term) -> Term:
        mask = keep(np.ones(x.shape[-2:], "float32"), op.k)
        return t.apply("select", t.term(mask), x, t.literal(0.0))

    return rule


def _ravel(t: Translation, op: Any, x: Term) -> Term:
    return t.reshape(x, (math.prod(x.shape),))


SHAPES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Ravel": _ravel,
    "Transpose": _transpose,
    "Swapaxes": _swapaxes,
    "Moveaxis": _moveaxis,
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
    "BroadcastTo": _broadcast_to,
    "GetItem": _getitem,
    "Split": _split,
    "Unstack": _unstack,
    "Slice": _slice,
    "Take": _take,
    "Flip": _flip,
    "Roll": _roll,
    "Concatenate": _concatenate,
    "Stack": _stack,
    "Pad": _pad,
    "Repeat": _repeat,
    "Tile": _tile,
    "Diagonal": _diagonal,
    "Tril": _triangle(np.tril),
    "Triu": _triangle(np.triu),
    "Hstack": lambda t, op, xs: t.joined(t.side_by_side(xs), 1),
    "Vstack": lambda t, op, xs: t.joined(t.side_by_side(xs), 0),
}
