"""Objects made again from their configs, whether or not their classes are registered."""

import types
from typing import Any

import keras
from keras import tree

from ostinato.models.directions import KERAS, OURS, package_of

_DEPTH = 4  # a wrapped cell's layer's regularizer


def by_config(thing: Any) -> Any:
    """A fresh object with a thing's config.

    Args:
        thing: Anything with `get_config` and `from_config`.

    Raises:
        NotImplementedError, TypeError, ValueError: if its class can't give a config or read it.
    """
    with keras.saving.custom_object_scope(names_used_by(thing)):
        return type(thing).from_config(thing.get_config())


def names_used_by(thing: Any, depth: int = _DEPTH) -> dict[str, Any]:
    """The classes and functions that a thing holds which Keras doesn't know, by their names.

    In a config there are only names, which Keras looks up; they needn't be registered for that.
    """
    found: dict[str, Any] = {}
    for leaf in tree.flatten(thing):
        if isinstance(leaf, types.FunctionType):
            found.setdefault(leaf.__name__, leaf)
        elif hasattr(leaf, "get_config") and not isinstance(leaf, type):
            if package_of(type(leaf)) not in (KERAS, OURS):
                found.setdefault(type(leaf).__name__, type(leaf))
            if depth and hasattr(leaf, "__dict__"):
                inner = [v for k, v in vars(leaf).items() if k not in ("build", "quantize")]
                found = {**names_used_by(inner, depth - 1), **found}
    return found
