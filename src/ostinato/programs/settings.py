"""What a cell is set to: the values among its attributes that a program may have in it.

A cell is traced once, but its attributes may change: `cell.decay = 0.8`. Tensors and variables are
read anew for every run; everything else is told apart here, in some microseconds.
"""

import weakref
from collections.abc import Hashable, Iterator
from functools import cache, partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import keras
import numpy as np

from ostinato.programs.around import read_by_class

_PLAIN = (int, float, complex, str, bytes, bool, type(None))
_BY_IDENTITY = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)
_DEPTH = 4  # of containers and layers in one another


@cache
def _of_every_layer() -> frozenset[str]:
    """The attributes that Keras keeps for itself."""
    return frozenset(vars(keras.layers.Layer(name="any")))


def settings(cell: Any) -> Any:
    """All that a cell is set to, as a value that's equal where that is the same."""
    return _attributes(cell, _DEPTH)


def _attributes(thing: Any, depth: int) -> tuple[Any, ...]:
    of_keras = _of_every_layer() if isinstance(thing, keras.layers.Layer) else ()
    cls: Any = type(thing)
    found: list[Any] = [cls]
    for name, value in getattr(thing, "__dict__", {}).items():
        if name in of_keras:
            continue
        told = value if type(value) in _PLAIN else _told(value, depth)
        if told is not _NOTHING:
            found.append((name, told))
    slots = _slots(cls)
    found += [(name, _told(getattr(thing, name, None), depth)) for name in slots]
    found += [_told(read(), depth) for read in read_by_class(cls)]
    return tuple(found)


def _is_hashed_by_value(value: Any) -> bool:
    return isinstance(value, Hashable) and type(value).__hash__ is not object.__hash__


@cache
def _slots(cls: Any) -> tuple[str, ...]:
    """The attributes that objects of a class have beside their dict."""
    return tuple(_slots_of(cls))


def _slots_of(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if not name.startswith("__"):
                yield name


_NOTHING = object()  # of what is read anew


def _told(value: Any, depth: int) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, keras.Variable) or depth == 0:
        return _NOTHING
    if isinstance(value, (np.ndarray, np.generic)):
        return value.shape, value.dtype.str, hash(value.tobytes())
    if isinstance(value, _BY_IDENTITY):
        return weakref.ref(value)  # an id may be another's by and by; a reference would keep it
    if isinstance(value, (tuple, list, set, frozenset)):
        return tuple(_told(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return tuple((str(key), _told(item, depth - 1)) for key, item in value.items())
    if isinstance(value, partial):
        return _told((value.func, value.args, value.keywords), depth)
    if hasattr(value, "shape"):
        return _NOTHING  # a tensor
    if not hasattr(value, "__dict__") and _is_hashed_by_value(value):
        return value  # a range, a device: what is compared by what it says
    return _attributes(value, depth - 1)
