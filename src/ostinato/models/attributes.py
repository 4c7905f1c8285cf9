"""A layer's attributes, carried over to another layer of its class."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

import keras

from ostinato.nests import is_namedtuple

# What Keras sets on a model that isn't there before the model is trained or asked, and the
# parameters that PyTorch sees in a layer: all made anew where they're needed.
_SET_IN_USE = ("history", "stop_evaluating", "stop_predicting", "_jax_state", "_torch_params")


class _Plain(keras.Model):
    def call(self, inputs: Any) -> Any:
        return inputs


def _graph() -> Any:
    inputs = keras.Input((1,), name="input")
    return keras.Model(inputs, keras.layers.Identity(name="identity")(inputs), name="plain")


@functools.cache
def functional_class() -> Any:
    """The class of models of a graph; Keras has no public name for it."""
    return type(_graph())


@functools.cache
def _of_keras() -> tuple[frozenset[str], dict[str, Any]]:
    """The names of Keras's own attributes, and those of a new layer that are plain settings."""
    models = [
        _Plain(name="plain"),
        _graph(),
        keras.Sequential([keras.Input((1,), name="input"), keras.layers.Identity(name="plain")]),
    ]
    new = vars(keras.layers.Layer(name="plain"))
    names = {*_SET_IN_USE, *new}
    for model in models:
        model.compile("sgd", "mse")
        model.build((None, 1))
        names.update(attributes(model))
    settings = {k: v for k, v in new.items() if v is None or isinstance(v, (bool, str, int))}
    return frozenset(names), settings


def attributes(layer: Any) -> dict[str, Any]:
    """What is set on a layer itself, by name; on PyTorch layers among it, which it keeps apart."""
    names = list(vars(layer))
    if hasattr(layer, "named_modules"):
        inner = layer.named_modules(remove_duplicate=False)
        names += [name for name, _ in inner if name and "." not in name]
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def of_the_user(layer: Any) -> dict[str, Any]:
    """The attributes of a layer that aren't Keras's own."""
    own, _ = _of_keras()
    return {name: value for name, value in attributes(layer).items() if name not in own}


def carry_attributes(
    layer: Any, new: Any, copied: Callable[[Any], Any], order: Mapping[int, int]
) -> None:
    """Sets a layer's attributes on a fresh layer of the same class.

    Keras's bookkeeping is made anew by setting them; of its own attributes only settings go over,
    such as the shapes that the layer was built for.

    Args:
        layer: The layer.
        new: The fresh one, with a constructor of Keras's run.
        copied: Gives the copy of what isn't a container.
        order: Where each layer (by its id) comes among the layer's own; the weights' order.
    """
    _, settings = _of_keras()
    found, users = attributes(layer), of_the_user(layer)
    last = len(order)

    def place(name: str) -> int:
        return min((order.get(id(leaf), last) for leaf in _leaves(found[name])), default=last)

    for name in sorted(users, key=place):
        setattr(new, name, _mapped(found[name], layer, new, copied))
    for name in settings.keys() & found.keys():
        value = found[name]
        if name != "name" and value is not getattr(new, name):
            setattr(new, name, value)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, (list, tuple, set)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _mapped(value: Any, old: Any, new: Any, copied: Callable[[Any], Any]) -> Any:
    """A value with all that belongs to the old layer replaced by what belongs to the new one."""
    again = functools.partial(_mapped, old=old, new=new, copied=copied)
    if value is old:
        return new
    if isinstance(value, types.MethodType) and value.__self__ is old:
        return types.MethodType(value.__func__, new)
    if is_namedtuple(value):
        return type(value)(*map(again, value))
    if isinstance(value, tuple):
        return tuple(map(again, value))
    # Keras's own list and dict classes, which track what is in them, are made by setting these.
    if isinstance(value, list):
        return list(map(again, value))
    if isinstance(value, set):
        return set(map(again, value))
    if isinstance(value, Mapping):
        return {key: again(item) for key, item in value.items()}
    return copied(value)


def arguments_of(layer: Any) -> dict[str, Any]:
    """The constructor arguments that Keras has noted of a layer without a `get_config`."""
    try:
        config = layer.get_config()
    except NotImplementedError:  # what Keras raises where it couldn't note them
        return {}
    parameters = inspect.signature(type(layer).__init__).parameters
    return {name: value for name, value in config.items() if name in parameters}
