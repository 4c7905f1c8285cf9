"""Where values lie while a routine runs, and what lies there seen in other shapes.

The spaces are those of native/core/routine/routine.h; strides are in elements of one row.
"""

import math
from typing import NamedTuple

from ostinato.programs.node import Node, Shape

OPERAND, RESULT, CARRY, NEXT, SCRATCH, SAVED, SAVED_NEXT, NUMBER = range(8)


class Place(NamedTuple):
    """Where a value of some shape lies.

    Attributes:
        space: One of the spaces above.
        number: Which one in it.
        offset: The place of the first element.
        strides: From one element to the next, along each axis.
    """

    space: int
    number: int
    offset: int
    strides: Shape


def dense_strides(shape: Shape) -> Shape:
    """The strides of elements that lie in order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def dense(space: int, number: int, shape: Shape) -> Place:
    """A place of its own."""
    return Place(space, number, 0, dense_strides(shape))


def aligned(place: Place, shape: Shape, wide: Shape) -> Place:
    """A value spread to a wider shape, by NumPy's rules."""
    missing = len(wide) - len(shape)
    strides = tuple(
        0 if size == 1 else stride for size, stride in zip(shape, place.strides, strict=True)
    )
    return place._replace(strides=(0,) * missing + strides)


def sliced(place: Place, starts: Shape, steps: Shape) -> Place:
    """What lies at some places of a value."""
    offset = place.offset + sum(
        start * stride for start, stride in zip(starts, place.strides, strict=True)
    )
    strides = tuple(step * stride for step, stride in zip(steps, place.strides, strict=True))
    return place._replace(offset=offset, strides=strides)


def windowed(place: Place, strides: Shape, dilations: Shape) -> Place:
    """Every window over the first axes."""
    count = len(strides)
    by_place = (a * b for a, b in zip(place.strides[:count], strides, strict=True))
    inside = (a * b for a, b in zip(place.strides[:count], dilations, strict=True))
    return place._replace(strides=(*by_place, *inside, *place.strides[count:]))


def reshaped(place: Place, shape: Shape, new: Shape) -> Place | None:
    """The same elements in the same order in another shape; None where no strides say that."""
    runs: list[tuple[int, int]] = []  # axes that go on where the next begins are one
    for size, step in zip(shape, place.strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * step:
            runs[-1] = (runs[-1][0] * size, step)
        else:
            runs.append((size, step))
    strides: list[int] = []
    for size in reversed(new):
        if size == 1:
            strides.append(0)
            continue
        span, step = runs.pop()
        if span % size:
            return None
        strides.append(step)
        if span > size:
            runs.append((span // size, step * size))
    return place._replace(strides=tuple(reversed(strides)))


def seen_as(place: Place, shape: Shape, view: Node) -> Place | None:
    """Where a view of a value of that shape lies; None where it has to be copied."""
    if view.operation == "reshape":
        return reshaped(place, shape, view.shape)
    if view.operation == "transpose":
        return place._replace(strides=tuple(place.strides[axis] for axis in view.attributes[0]))
    if view.operation == "broadcast":
        return aligned(place, shape, view.shape)
    if view.operation == "slice":
        return sliced(place, view.attributes[0], view.attributes[1])
    if view.operation == "windows":
        return windowed(place, view.attributes[1], view.attributes[2])
    return place  # the same for every row, or under another name


VIEWS = {"reshape", "transpose", "broadcast", "slice", "windows", "rows", "stop_gradient", "custom"}


def as_matrix(place: Place, shape: Shape) -> tuple[int, int] | None:
    """How many rows of the last axis there are and their stride, if they're evenly apart and dense.

    The middle axes are one dimension then, as a product has it.
    """
    *middle, last = shape
    *strides, step = place.strides
    if last != 1 and step != 1:
        return None
    one = reshaped(place._replace(strides=tuple(strides)), tuple(middle), (math.prod(middle),))
    return None if one is None else (math.prod(middle), one.strides[0])
