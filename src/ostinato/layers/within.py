"""The layers inside a layer, by Keras's own bookkeeping."""

from collections.abc import Iterator
from typing import Any

import keras


def children(layer: Any) -> list[Any]:
    """The layers that a layer or model holds itself, in the order in which Keras tracks them.

    In attributes and in lists and dicts there, and in a graph; a Sequential's input layer too.
    """
    # Every layer keeps the list; the property that shows it is a model's.
    held: list[Any] = keras.Model.layers.fget(layer)
    return held


def with_all_within(layer: Any) -> Iterator[Any]:
    """A layer, and each of those inside it, however deep."""
    yield layer
    for child in children(layer):
        yield from with_all_within(child)


def updates_itself(layer: Any) -> bool:
    """Whether a layer has variables of its own that training doesn't change by gradients.

    A moving average, or a count: its call may change it. Not so the seeds of random numbers, nor
    the weights of a layer that is frozen, as batch normalization is then, too.
    """
    if not layer.trainable:
        return False
    others = [v for child in children(layer) for v in child.variables]
    held = vars(layer).values()
    others += [v.state for v in held if isinstance(v, keras.random.SeedGenerator)]
    known = {id(variable) for variable in others}
    return any(id(variable) not in known for variable in layer.non_trainable_variables)
