"""Graphs of Keras models, read through Keras's public API: who calls whom, with what."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from ostinato.cells.checks import name_of
from ostinato.models.attributes import functional_class
from ostinato.models.lookups import by_config


class Called(NamedTuple):
    """One call in a graph.

    Attributes:
        what: The layer, or the operation of keras.ops.
        args: What it's called with; tensors are those of the copy.
        kwargs: Likewise.
        output: What it gives, tensors of the copy.
    """

    what: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


class Replayed(NamedTuple):
    """A functional model's calls, in order, and the inputs and outputs of the copy made of it."""

    inputs: Any
    calls: tuple[Called, ...]
    outputs: Any


def is_graph(model: Any) -> bool:
    """Whether a model is a Sequential or functional one, whose `call` is Keras's own."""
    for kind in (keras.Sequential, functional_class()):
        if isinstance(model, kind):
            return type(model).call is kind.call and "call" not in vars(model)
    return False


def replay(model: Any) -> Replayed:
    """Has Keras replay a functional model, on stand-ins for its layers that do no work."""
    calls: list[Called] = []

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        output = operation(*args, **kwargs)
        what = operation.layer() if isinstance(operation, _StandIn) else operation
        calls.append(Called(what, args, kwargs, output))
        return output

    # A model that isn't compiled: clone_model would copy that, too.
    plain = keras.Model(model.input, model.output)
    copy = keras.models.clone_model(plain, clone_function=_stand_in, call_function=call)
    return Replayed(copy.input, tuple(calls), copy.output)


def _stand_in(operation: Any) -> Any:
    is_layer = isinstance(operation, keras.layers.Layer)
    return _StandIn(operation) if is_layer else by_config(operation)


class _StandIn(keras.layers.Layer):
    """Stands for a layer in a copy of its graph: the same shapes, and no work."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer: Callable[[], Any] = lambda: layer  # not an attribute that Keras tracks
        self.built = self.supports_masking = True

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """That of the layer."""
        return self.layer().compute_output_spec(*args, **kwargs)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Never runs: only symbolic tensors come."""
        raise TypeError(f"{name_of(self.layer())} was called on values.")
