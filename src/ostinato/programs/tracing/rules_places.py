"""Keras's operations on places that are known in the timestep only; rules as in rules_elementwise.

A place that's computed is found by comparing it with each place that there is. What isn't there is
chosen away, not multiplied by zero: an infinity elsewhere in a table mustn't matter.
"""

import math
from typing import Any

import numpy as np

from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.rules_elementwise import Rule
from ostinato.programs.tracing.terms import Term
from ostinato.programs.tracing.translation import Translation

MOST_PLACES = 256  # of an axis that's looked through, for each element that is taken
MOST_SORTED = 64  # elements, each of which is compared with each


def _counted(t: Translation, size: int, most: int, after: int = 0) -> Term:
    """The places of an axis that has some axes after it."""
    if size > most:
        raise Untraceable(f"it looks through {size} places, more than {most}")
    return t.term(np.arange(size, dtype="float32").reshape((size,) + (1,) * after))


def _chosen(t: Translation, x: Term, ids: Term, size: int, after: int, axis: int) -> Term:
    """The sum over an axis of x where its places are the ids; NaN for what isn't there."""
    ids = t.apply("select", t.apply("lt", ids, t.literal(0.0)), _plus(t, ids, size), ids)
    places = _counted(t, size, MOST_PLACES, after)
    found = t.apply("select", t.apply("eq", ids, places), x, t.literal(0.0))
    result = t.reduce("sum", found, axis, True)
    below, above = (
        t.apply(name, ids, t.literal(bound)) for name, bound in (("ge", 0.0), ("lt", float(size)))
    )
    is_there = t.apply("logical_and", below, above)
    return t.apply("select", is_there, result, t.literal(math.nan))


def _plus(t: Translation, ids: Term, size: int) -> Term:
    return t.apply("add", ids, t.literal(float(size)))


def gathered(t: Translation, table: Term, axis: int, ids: Term) -> Term:
    """Rows of a table by computed ids."""
    if table.fold or axis % table.rank:
        raise Untraceable("the indices are known in the timestep only, and it takes from no table")
    rest = table.rank - 1
    wide = t.reshape(ids, (*ids.shape, 1, *(1,) * rest))
    result = _chosen(t, table, wide, table.shape[0], rest, ids.rank)
    return t.reshape(result, (*ids.shape, *table.shape[1:]))


def _take_along_axis(t: Translation, op: Any, x: Any, indices: Any) -> Term:
    x, ids = t.term(x), t.term(indices)
    if op.axis is None or x.rank != ids.rank:
        raise Untraceable("it takes from all axes as one")
    axis = op.axis % x.rank
    t.axis(x, axis)
    size, after = x.shape[axis], x.rank - axis - 1
    wide = t.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    ids = t.reshape(ids, (*ids.shape[: axis + 1], 1, *ids.shape[axis + 1 :]))
    result = _chosen(t, wide, ids, size, after, axis + 1)
    return t.reshape(result, (*result.shape[: axis + 1], *result.shape[axis + 2 :]))


# Sorting: the place of an element is how many come before it.


def _ranks(t: Translation, x: Term, descending: bool) -> Term:
    """The places that the elements of the last axis have in order; NaN are the largest."""
    size = x.shape[-1]
    places = _counted(t, size, MOST_SORTED)
    first = t.reshape(x, (*x.shape, 1))
    second = t.reshape(x, (*x.shape[:-1], 1, size))
    if descending:
        first, second = second, first
    nan, other_nan = t.apply("isnan", first), t.apply("isnan", second)
    # Is the other, of the last axis, smaller (or in descending order larger)?
    smaller = t.apply("gt", first, second)
    larger_nan = t.apply("logical_and", nan, t.apply("logical_not", other_nan))
    tie = t.apply(
        "logical_or", t.apply("eq", first, second), t.apply("logical_and", nan, other_nan)
    )
    earlier = t.apply("gt", t.reshape(places, (size, 1)), places)
    before = t.apply("logical_or", smaller, larger_nan)
    before = t.apply("logical_or", before, t.apply("logical_and", tie, earlier))
    return t.reduce("sum", before, -1)


def _in_order(t: Translation, x: Term, count: int, descending: bool) -> tuple[Term, Term]:
    """The first elements of the last axis in order, and their places."""
    size = x.shape[-1]
    places = _counted(t, size, MOST_SORTED)
    ranks = t.reshape(_ranks(t, x, descending), (*x.shape[:-1], 1, size))
    wanted = t.reshape(t.part(places, 0, 0, count), (count, 1))
    is_it = t.apply("eq", ranks, wanted)
    wide = t.reshape(x, (*x.shape[:-1], 1, size))
    values = t.apply("select", is_it, wide, t.literal(0.0))
    where = t.apply("select", is_it, places, t.literal(0.0))
    return t.reduce("sum", values, -1), t.whole(t.reduce("sum", where, -1))


def _top_k(t: Translation, op: Any, x: Term) -> list[Term]:
    t.axis(x, -1)
    return list(_in_order(t, x, op.k, True))


def _sorted(which: int) -> Rule:
    def rule(t: Translation, op: Any, x: Term) -> Term:
        if op.axis is None:
            raise Untraceable("it sorts all axes as one")
        axis = op.axis % x.rank
        t.axis(x, axis)
        order = [place for place in range(x.rank) if place != axis]
        moved = t.transpose(x, [*order, axis])
        result = _in_order(t, moved, x.shape[axis], False)[which]
        back = [*order, axis]
        return t.transpose(result, [back.index(place) for place in range(x.rank)])

    return rule


PLACES: dict[str, Rule] = {
    "TakeAlongAxis": _take_along_axis,
    "TopK": _top_k,
    "Sort": _sorted(0),
    "Argsort": _sorted(1),
}
