"""Layers that are called on symbols: what they do within is seen, not a layer as one operation."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from ostinato import nests
from ostinato.programs.tracing.drawing import Draws
from ostinato.programs.tracing.members import Members
from ostinato.programs.tracing.refusal import Untraceable, named
from ostinato.programs.tracing.taught import Taught


@contextmanager
def opened(members: Members, histories: dict[int, Any], draws: Draws) -> Iterator[None]:
    """While inside, in this thread, a layer that is called on symbols runs its `call`.

    Args:
        members: What the cell holds.
        histories: Gets where the symbols that layers return came from, by their ids.
        draws: Gets what layers of noise draw.
    """

    def running(own: Callable[..., Any]) -> Callable[..., Any]:
        def symbolic_call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
            _refuse(layer, members, bool(kwargs.get("training")))
            result = draws.through(layer, args, kwargs)
            if result is None:
                result = layer.call(*args, **kwargs)
            result = nests.map_leaves(_as_symbol, result)
            # Keras notes the layer as a symbol's origin next: what's there before counts.
            for symbol in nests.flatten(result):
                if isinstance(symbol, keras.KerasTensor):
                    histories.setdefault(id(symbol), getattr(symbol, "_keras_history", None))
            return result

        return symbolic_call

    with (
        Taught(keras.layers.Layer, "symbolic_call", running).used(),
        _guarded([*_of_noise(members, draws), *_unbuilt(members)]),
    ):
        yield


class ConvertToTensor(keras.Operation):
    """Stands for a tensor of fixed numbers."""

    def compute_output_spec(self, x: Any) -> Any:
        """A symbol like it."""
        return keras.KerasTensor(x.shape, dtype=keras.backend.standardize_dtype(x.dtype))


def _as_symbol(result: Any) -> Any:
    """What a layer returns, a symbol also where it's made of nothing that the layer was given."""
    is_fixed = not isinstance(result, keras.KerasTensor) and ops.is_tensor(result)
    return ConvertToTensor().symbolic_call(result) if is_fixed else result


def _refuse(layer: keras.layers.Layer, members: Members, training: bool) -> None:
    if training and _keeps_masks(layer) and not members.holds_masks(layer):
        raise Untraceable(
            f"{named(layer)} in it draws dropout masks in its first timestep, and keeps them"
        )
    if getattr(layer, "quantization_mode", None) is not None:
        raise Untraceable(f"{named(layer)} in it is quantized, and runs another call")
    if layer.activity_regularizer is not None:
        raise Untraceable(f"{named(layer)} has an activity_regularizer")
    if id(layer) not in members.ways and layer.weights:
        raise Untraceable(f"the layer {named(layer)} is made in its call, with weights of its own")


def _keeps_masks(layer: keras.layers.Layer) -> bool:
    """Whether a cell draws masks when it's called first, and keeps them: Keras's cells do."""
    rates = (getattr(layer, name, 0) for name in ("dropout", "recurrent_dropout"))
    is_number = [rate for rate in rates if isinstance(rate, (int, float)) and rate]
    draw = getattr(layer, "get_dropout_mask", None)
    return bool(is_number) and getattr(draw, "__module__", "").startswith("keras.")


Guard = tuple[keras.layers.Layer, str, Callable[..., Any]]


@contextmanager
def _guarded(guards: list[Guard]) -> Iterator[None]:
    """While inside, some layers have other methods."""
    before = [(vars(layer), name, vars(layer).get(name)) for layer, name, _ in guards]
    try:
        for layer, name, method in guards:
            vars(layer)[name] = method
        yield
    finally:
        for attributes, name, own in before:
            if own is None:
                del attributes[name]
            else:
                attributes[name] = own


def _of_noise(members: Members, draws: Draws) -> list[Guard]:
    """Layers of noise draw nothing for what's no symbol: it'd be the same in every timestep."""
    found = ((layer, draws.on_tensors(layer)) for layer in members.layers)
    return [(layer, "call", call) for layer, call in found if call is not None]


def _unbuilt(members: Members) -> list[Guard]:
    """Layers that aren't built yet make no weights: Keras won't have them made twice."""

    def guard(layer: keras.layers.Layer) -> Callable[..., Any]:
        own = layer.build

        @functools.wraps(own)  # Keras reads its arguments' names
        def build(*args: Any, **kwargs: Any) -> None:
            copy = type(layer).from_config(layer.get_config())
            copy.build(*args, **kwargs)
            if copy.weights:
                raise Untraceable(f"{named(layer)} in it makes its weights when it's called first")
            own(*args, **kwargs)

        return build

    return [
        (layer, "build", guard(layer))
        for layer in members.layers
        if not layer.built and type(layer).build is not keras.layers.Layer.build
    ]
