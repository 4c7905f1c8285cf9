"""What a cell is set to: the values among its attributes that a program may have in it.

A cell is traced once, but its attributes may change: `cell.decay = 0.8`. Tensors and variables are
read anew for every run; everything else is told apart here, in some microseconds.
"""

from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import keras
import numpy as np

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
    found = []
    for name, value in getattr(thing, "__dict__", {}).items():
        if name in of_keras:
            continue
        told = value if type(value) in _PLAIN else _told(value, depth)
        if told is not _NOTHING:
            found.append((name, told))
    return tuple(found)


_NOTHING = object()  # of what is read anew


def _told(value: Any, depth: int) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, keras.Variable) or depth == 0:
        return _NOTHING
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, hash(value.tobytes())
    if isinstance(value, _BY_IDENTITY):
        return id(value)
    if isinstance(value, (tuple, list, set, frozenset)):
        return tuple(_told(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return tuple((str(key), _told(item, depth - 1)) for key, item in value.items())
    if hasattr(value, "shape") or not hasattr(value, "__dict__"):
        return _NOTHING  # a tensor; or what has no attributes to set
    return _attributes(value, depth - 1)
