"""The values of a copy: its variables, seeds and states."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import ops, tree

from ostinato.models.lookups import by_config


class Variables:
    """Which variable of a copy stands for which of the original."""

    def __init__(self) -> None:
        self._pairs: dict[int, tuple[Any, Any]] = {}

    def pair(self, owner: str, old: Iterable[Any], new: Iterable[Any]) -> None:
        """Pairs variables, in order.

        Raises:
            ValueError: if there are more on one side, or two have other shapes.
        """
        old, new = list(old), list(new)
        shapes = [[tuple(v.shape) for v in variables] for variables in (old, new)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{owner}: expected its copy to have variables of the shapes {shapes[0]}, got "
                f"{shapes[1]}. Give its class a `get_config` and a `build` that make the same "
                "layer again."
            )
        self._pairs.update({id(a): (a, b) for a, b in zip(old, new, strict=True)})

    def of(self, variable: Any) -> Any:
        """The variable that stands for one of the original: a copy, if there's none yet."""
        if id(variable) not in self._pairs:
            self._pairs[id(variable)] = (variable, copy.deepcopy(variable))
        return self._pairs[id(variable)][1]

    def known(self, variable: Any) -> Any:
        """The variable that stands for one of the original, or None."""
        return self._pairs.get(id(variable), (None, None))[1]

    def pairs(self) -> list[tuple[Any, Any]]:
        """Each variable of the original, and the one that stands for it."""
        return list(self._pairs.values())

    def settle(self) -> None:
        """Gives the copies their values, and what users and optimizers set on a variable itself."""
        for old, new in self._pairs.values():
            # Copied: JAX's trainer gives its arrays away at every step.
            new.assign(ops.copy(old.value))
            for flag in ("trainable", "overwrite_with_gradient"):
                if getattr(new, flag, None) != getattr(old, flag, None):
                    setattr(new, flag, getattr(old, flag))
            for rule in ("constraint", "regularizer"):
                if type(getattr(new, rule, None)) is not type(getattr(old, rule, None)):
                    setattr(new, rule, getattr(old, rule))


def states_of(layer: Any) -> list[Any]:
    """The variables in which a recurrent layer keeps its states from batch to batch."""
    states = tree.flatten(getattr(layer, "states", None))
    return [state for state in states if isinstance(state, keras.Variable)]


def seeds_of(layer: Any) -> list[Any]:
    """The state of a cell's dropout."""
    generator = getattr(layer, "seed_generator", None)
    return [] if generator is None else [generator.state]


def parts(old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """What two recurrent layers or cells consist of, pairwise: cells, directions."""
    for name in ("cell", "forward_layer", "backward_layer"):
        if hasattr(old, name):
            yield getattr(old, name), getattr(new, name)
    yield from zip(getattr(old, "cells", ()), getattr(new, "cells", ()), strict=True)


def build_as(old: Any, new: Any) -> None:
    """Builds a copy, if the original is built and it isn't, for the same shapes and paths."""
    if not isinstance(old, keras.layers.Layer) or not old.built or new.built:
        return
    config = old.get_build_config()
    if config:
        with scopes(path_above(old)):
            new.build_from_config(config)
    else:
        new.built = True  # built by a layer that has its cell's weights, or without any


def path_above(layer: Any) -> list[str]:
    """The names of the layers that a layer was built in, read off the path of a weight."""
    path = layer.weights[0].path.split("/") if layer.weights else []
    return path[: path.index(layer.name)] if layer.name in path else []


@contextlib.contextmanager
def scopes(names: Iterable[str]) -> Iterator[None]:
    """Variables made in here have these names before their own."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(keras.name_scope(name))
        yield


def copied(value: Any) -> Any:
    """A copy of what has a state and isn't a layer or variable; anything else itself."""
    if isinstance(value, keras.random.SeedGenerator):
        new = by_config(value)
        new.state.assign(ops.copy(value.state.value))
        return new
    if isinstance(value, keras.metrics.Metric):
        new = by_config(value)
        for a, b in zip(value.variables, new.variables, strict=False):
            b.assign(ops.copy(a.value))
        return new
    return value
