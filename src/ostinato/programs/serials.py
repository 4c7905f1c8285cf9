"""A number for a thing that no other thing ever gets; an id may be reused once a thing is gone."""

import itertools
import weakref
from typing import Any

_COUNT = itertools.count()
# The number, and what keeps it: a weak reference that takes it back, or the thing itself.
_SERIALS: dict[int, tuple[int, Any]] = {}


def serial(thing: Any) -> int:
    """The number of a thing, the same as long as it lives."""
    found = _SERIALS.get(id(thing))
    if found is None:
        key = id(thing)
        try:
            kept: Any = weakref.ref(thing, lambda _: _SERIALS.pop(key, None))
        except TypeError:  # it can't be referred to weakly, and so is kept
            kept = thing
        found = _SERIALS[key] = next(_COUNT), kept
    return found[0]
