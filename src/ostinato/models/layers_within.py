"""The layers inside a layer or model, with their paths."""

from collections.abc import Iterator
from typing import Any

import keras

from ostinato.layers.within import children
from ostinato.models.directions import Direction


def layers_within(
    model: Any, direction: Direction, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Each layer inside a model with its path, the model included.

    Doesn't look into the recurrent layers that a conversion is about: these are one each.

    Raises:
        ValueError: if it isn't a Keras model or layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"{direction.operation}: expected a Keras model or layer, got {model!r}.")
    yield "/".join(path) or model.name, model
    if direction.concerns(model):
        return
    for child in children(model):
        yield from layers_within(child, direction, (*path, child.name))
