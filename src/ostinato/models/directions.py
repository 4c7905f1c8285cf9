"""The two directions of a conversion: which layers it is about, and what each becomes.

Keras's recurrent classes are told by their module and name: the package never names them in code,
so that it can't come to depend on them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from ostinato import layers
from ostinato.cells.builtin import is_int8
from ostinato.cells.contract import call_method, parameters_of, takes
from ostinato.layers.arguments import argument_names, attribute
from ostinato.layers.quantized import INT8
from ostinato.structure import is_count

WRAPPERS = ("TimeDistributed",)  # of any layer, and converted whatever that one becomes
NAMES = frozenset(layers.__all__) - {"Shape", *WRAPPERS}
KERAS, OURS = "keras", "ostinato"
# Those whose weights may be in int8, and those that hold such.
_HOLDERS = ("RNN", "StackedRNNCells", "Bidirectional")
IN_INT8 = ("SimpleRNN", "GRU", "LSTM", "SimpleRNNCell", "GRUCell", "LSTMCell")


@dataclass(frozen=True)
class Direction:
    """One direction.

    Attributes:
        operation: What users call it.
        source: The package of the classes that are converted.
        target: A recurrent class by its name, in the package that they're converted to.
    """

    operation: str
    source: str
    target: Callable[[str], Any]

    def kind(self, layer: Any) -> str | None:
        """The name of a recurrent class of the source, if a layer or cell is exactly of it."""
        return _recurrent_name(type(layer), self.source)

    def concerns(self, layer: Any) -> bool:
        """Whether a layer is recurrent, by a class of the source or one derived from it."""
        return any(_recurrent_name(cls, self.source) for cls in type(layer).__mro__)

    def wrapper(self, layer: Any) -> Any:
        """The class of what a layer becomes that wraps another: its counterpart's, or its own."""
        cls, name = type(layer), type(layer).__name__
        return self.target(name) if name in WRAPPERS and cls is OTHER[self].target(name) else cls

    def why_left(self, layer: Any) -> str | None:
        """Why a layer that it concerns isn't converted; None for all others."""
        if not self.concerns(layer):
            return None
        kind = self.kind(layer)
        if kind is None:
            return self._why_not_derived(layer)
        if self.source == OURS and not hasattr(keras.layers, kind):
            return f"Keras 3 has no {kind} of its own"
        if is_int8(layer) or is_int8(getattr(layer, "cell", None)):
            return "its weights are in int8, and Keras's layer has none so"
        if kind == "Bidirectional":
            return self._why_not_bidirectional(layer)
        if truncate := getattr(layer, attribute("truncate"), None):
            return f"Keras 3 truncates no gradients, and its truncate is {truncate}"
        if kind in ("RNN", "StackedRNNCells") and self.source == OURS:
            cell = layer.cell if kind == "RNN" else layer
            return _why_not_in_keras(cell) or _why_not_nested_inputs(layer)
        if kind.endswith("Cell") and (layer.dropout or layer.recurrent_dropout):
            return (
                "a cell with dropout that is no RNN layer's: Keras's keeps its masks from call to "
                "call until they're reset, Ostinato's draws them anew"
            )
        return None

    def _why_not_derived(self, layer: Any) -> str:
        cls = type(layer)
        if package_of(cls) == self.source == KERAS:
            return f"Ostinato has no {cls.__name__}"
        base = next(c for c in cls.__mro__ if _recurrent_name(c, self.source))
        mine, other = (
            ("Keras's", "ostinato.layers.") if self.source == KERAS else ("our", "Keras's ")
        )
        return (
            f"{cls.__name__} is derived from {mine} {base.__name__}, and may change what it does; "
            f"derive it from {other}{base.__name__}"
        )

    def _why_not_bidirectional(self, layer: Any) -> str | None:
        for name in ("forward_layer", "backward_layer"):
            direction = getattr(layer, name)
            if OTHER[self].kind(direction) is not None:
                continue  # what it'd become already, as where only the layer's import was changed
            if self.kind(direction) is None:
                return f"its {name} is no recurrent layer that could be converted"
            if (reason := self.why_left(direction)) is not None:
                return f"its {name}: {reason}"
        return None

    def dtype_of(self, layer: Any) -> Any:
        """The dtype policy of a layer's or cell's counterpart."""
        return layer.dtype_policy

    def counterpart(self, layer: Any, copy: Callable[[Any], Any]) -> Any:
        """A fresh layer or cell of the target, with the arguments of one of the source.

        Args:
            layer: One of exactly a recurrent class of the source.
            copy: Copies or converts what it holds: cells and layers.
        """
        name = self.kind(layer)
        if name is None:
            raise ValueError(f"{self.operation}: expected a recurrent layer, got {layer!r}.")
        target = self.target(name)
        base = {
            "name": layer.name,
            "trainable": layer.trainable,
            "dtype": self.dtype_of(layer),
            "activity_regularizer": layer.activity_regularizer,
        }
        if name == "StackedRNNCells":
            return target([copy(cell) for cell in layer.cells], **base)
        if name == "Bidirectional":
            return target(
                copy(layer.forward_layer),
                merge_mode=layer.merge_mode,
                backward_layer=copy(layer.backward_layer),
                **base,
            )
        values = {**base, **_values(layer, argument_names(getattr(layers, name)))}
        if package_of(target) == KERAS:
            values.pop("truncate", None)
        if name == "RNN":
            return target(copy(values.pop("cell")), **values)
        return target(**values)


def package_of(cls: type) -> str:
    """The package that a class is from: "keras", "ostinato", or the user's."""
    return cls.__module__.partition(".")[0]


def _recurrent_name(cls: type, package: str) -> str | None:
    return cls.__name__ if package_of(cls) == package and cls.__name__ in NAMES else None


def _values(layer: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """A layer's arguments, from its attributes or its cell's.

    The values themselves, not their configs: a function needn't be registered to be kept.
    """
    places = [layer, *([layer.cell] if hasattr(layer, "cell") else [])]
    return {
        name: next(getattr(p, attribute(name)) for p in places if hasattr(p, attribute(name)))
        for name in names
        if any(hasattr(place, attribute(name)) for place in places)
    }


def _why_not_in_keras(cell: Any) -> str | None:
    """What a cell needs that Keras 3's RNN doesn't offer."""
    if _recurrent_name(type(cell), OURS) == "StackedRNNCells":
        reasons = (_why_not_in_keras(inner) for inner in cell.cells)
        return next((reason for reason in reasons if reason), None)
    name = type(cell).__name__
    if _recurrent_name(type(cell), OURS) and not hasattr(keras.layers, name):
        return f"Keras 3 has no {name} of its own"
    if not hasattr(cell, "call"):
        return f"Keras 3 runs no cell without a method `call`, as {name} is"
    if takes(cell, "constants") and "constants" in parameters_of(call_method(cell)):
        return f"Keras 3 gives no `constants` to a cell, which {name} takes"
    state_size = cell.state_size
    flat = state_size if isinstance(state_size, (list, tuple)) else [state_size]
    if not flat or not all(is_count(size) for size in flat):
        return f"Keras 3 has no nested states or states of shapes, as {name} has: {state_size!r}"
    output_size = getattr(cell, "output_size", None)
    if output_size is not None and not is_count(output_size):
        return f"Keras 3 has no nested outputs or outputs of shapes, as {name} has: {output_size!r}"
    return None


def _why_not_nested_inputs(layer: Any) -> str | None:
    shapes = layer.get_build_config() or {}
    shape = shapes.get("input_shape") or shapes.get("shapes_dict", {}).get("sequences_shape")
    if shape is None or all(size is None or is_count(size) for size in shape):
        return None
    return f"Keras 3 takes no nested inputs: it was built for {shape!r}"


@functools.cache
def _class_of_keras(name: str) -> Any:
    """One of Keras's recurrent classes: what Keras builds of a config with its name."""

    def config(class_name: str, **arguments: Any) -> dict[str, Any]:
        return {"module": "keras.layers", "class_name": class_name, "config": arguments}

    cell = config("SimpleRNNCell", name="cell", units=1)
    layer = config("SimpleRNN", name="layer", units=1)
    arguments: dict[str, dict[str, Any]] = {
        "RNN": {"cell": cell},
        "StackedRNNCells": {"cells": [cell]},
        "Bidirectional": {"layer": layer},
        "TimeDistributed": {"layer": layer},
    }
    own = {"filters": 1, "kernel_size": 1} if name.startswith("ConvLSTM") else {"units": 1}
    described = config(name, **{"name": "layer", **arguments.get(name, own)})
    return type(keras.saving.deserialize_keras_object(described))


def _class_of_ours(name: str) -> Any:
    return getattr(layers, name)


@dataclass(frozen=True)
class Quantize(Direction):
    """From our layers to the same with weights in int8; what can't be so stays as it is."""

    def is_quantized(self, layer: Any) -> bool:
        """Whether a layer's or cell's counterpart has weights in int8."""
        kind = self.kind(layer)
        return kind in IN_INT8 and layer.dtype_policy.name in ("float32", INT8)

    def dtype_of(self, layer: Any) -> Any:
        """That of int8 where it can be."""
        return INT8 if self.is_quantized(layer) else layer.dtype_policy

    def why_left(self, layer: Any) -> str | None:
        """Why a recurrent layer, or a cell by itself, isn't quantized."""
        if not self.concerns(layer):
            return None
        kind, cls = self.kind(layer), type(layer).__name__
        if kind is None:
            return f"{cls} is derived from a class of ours, and may have a constructor of its own"
        if kind in IN_INT8 and not self.is_quantized(layer):
            return f"it computes in {layer.dtype_policy.name}, and weights in int8 go with float32"
        if kind not in (*IN_INT8, *_HOLDERS):
            return f"there is no {cls} with weights in int8"
        if not self.holds_quantized(layer):
            return "no cell in it could have weights in int8"
        return None

    def holds_quantized(self, layer: Any) -> bool:
        """Whether a recurrent layer's counterpart has, or holds what has, weights in int8."""
        held = [getattr(layer, name, None) for name in ("cell", "forward_layer", "backward_layer")]
        inner = [*held, *getattr(layer, "cells", ())] if self.kind(layer) in _HOLDERS else []
        return self.is_quantized(layer) or any(map(self.holds_quantized, inner))


ACCELERATE = Direction("accelerate", KERAS, _class_of_ours)
RESTORE = Direction("restore", OURS, _class_of_keras)
QUANTIZE = Quantize("quantize", OURS, _class_of_ours)
OTHER: dict[Direction, Direction] = {
    ACCELERATE: RESTORE,
    RESTORE: ACCELERATE,
    QUANTIZE: QUANTIZE,
}
