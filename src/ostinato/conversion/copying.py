"""Copies of models and layers, with other recurrent layers in them."""

import copy
from typing import Any

import keras
from keras import tree

from ostinato.cells.checks import name_of
from ostinato.cells.contract import takes
from ostinato.conversion.values import (
    Variables,
    build_as,
    copied,
    parts,
    path_above,
    scopes,
    seeds_of,
    states_of,
)
from ostinato.layers.within import children
from ostinato.models.attributes import (
    arguments_of,
    carry_attributes,
    functional_class,
)
from ostinato.models.directions import KERAS, OTHER, OURS, Direction, package_of
from ostinato.models.layers_within import layers_within
from ostinato.models.lookups import by_config, names_used_by

# How a class says that its config doesn't make it again: there is none, or it doesn't fit.
_NO_CONFIG = (NotImplementedError, TypeError, ValueError)


class Copier:
    """Copies layers, converting those that a direction is about.

    What is shared in a model is shared in its copy. Weights get their values in the end, by
    `settle`, since many layers are built only when the model around them is.

    Attributes:
        variables: Which variable of the copy stands for which of the original.
        given_states: By its id, each converted layer that a graph calls with initial states.
    """

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._copies: dict[int, Any] = {}
        self._pairs: list[tuple[Any, Any]] = []  # outer layers before the inner ones
        self.variables = Variables()
        self.given_states: dict[int, Any] = {}
        self._optimizers: dict[int, tuple[Any, Any]] = {}

    def optimizers(self) -> list[tuple[Any, Any]]:
        """Each optimizer that was found in an attribute, with its copy; not those of `compile`."""
        return list(self._optimizers.values())

    def models(self) -> list[tuple[Any, Any]]:
        """Each model that was copied, with its copy."""
        return [pair for pair in self._pairs if isinstance(pair[0], keras.Model)]

    def copy(self, layer: Any) -> Any:
        """The copy of a layer, model or operation of a graph; the same one every time."""
        if id(layer) not in self._copies:
            place = len(self._pairs)
            new = self._copies[id(layer)] = self._copy(layer)
            if isinstance(layer, keras.layers.Layer) and new is not layer:
                self._pairs.insert(place, (layer, new))
        return self._copies[id(layer)]

    def _copy(self, layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return by_config(layer)  # an operation of keras.ops in a graph
        if self._direction.kind(layer) and self._direction.why_left(layer) is None:
            return self._converted(layer)
        if isinstance(layer, keras.Sequential):
            return self._sequential(layer)
        if isinstance(layer, functional_class()):
            return self._functional(layer)
        if hasattr(layer, "get_vocabulary"):
            return layer  # a table, which isn't in the config, and which training doesn't change
        if isinstance(layer, keras.layers.Wrapper) and package_of(type(layer)) in (KERAS, OURS):
            return self._wrapper(layer)
        if self._is_plain(layer):
            return self._plain(layer)
        return self._by_attributes(layer)

    def _is_plain(self, layer: Any) -> bool:
        """Whether a layer's config says all: it holds no layers, or it and they are Keras's.

        Recurrent layers that are the target's already are plain, too.
        """
        if self._is_converted(layer):
            return True
        inside = [found for _, found in layers_within(layer, self._direction)]
        return len(inside) == 1 or all(
            package_of(type(one)) == KERAS and self._direction.kind(one) is None for one in inside
        )

    def _is_converted(self, layer: Any) -> bool:
        """Whether a layer or cell is recurrent, by a class of those that are converted to."""
        return (
            isinstance(layer, keras.layers.Layer) and OTHER[self._direction].kind(layer) is not None
        )

    # --- recurrent layers -------------------------------------------------------------------

    def _converted(self, layer: Any) -> Any:
        with keras.saving.custom_object_scope(names_used_by(layer)):
            new = self._direction.counterpart(layer, self._inside_recurrent)
        self._pair_parts(layer, new)
        return new

    def _inside_recurrent(self, part: Any) -> Any:
        """The copy of a cell, or of a direction of a Bidirectional."""
        if not isinstance(part, keras.layers.Layer):
            return copy.deepcopy(part)
        if self._direction.kind(part) is None:
            return self.copy(part)
        if id(part) not in self._copies:
            self._copies[id(part)] = self._converted(part)
        return self._copies[id(part)]

    def _pair_parts(self, layer: Any, new: Any) -> None:
        # Not by what was copied: a Bidirectional makes another copy of its layer.
        for old_part, new_part in parts(layer, new):
            if isinstance(old_part, keras.layers.Layer):
                self._copies[id(old_part)] = new_part
                self._pairs.append((old_part, new_part))
                self._pair_parts(old_part, new_part)

    # --- models -----------------------------------------------------------------------------

    def _sequential(self, model: Any) -> Any:
        new = _bare(model)
        layers = [self.copy(layer) for layer in children(model)]
        with scopes(path_above(model)):
            keras.Sequential.__init__(new, layers, name=model.name)
        return self._finished(model, new)

    def _functional(self, model: Any) -> Any:
        # The same graph, as a model that isn't compiled: clone_model would copy that by config.
        graph = keras.Model(model.input, model.output, name=model.name)
        inputs = {
            id(layer.output): self.copy(layer).output
            for layer in graph.layers
            if isinstance(layer, keras.layers.InputLayer)
        }
        with scopes(path_above(model)):
            new = keras.models.clone_model(
                graph,
                input_tensors=tree.map_structure(lambda x: inputs[id(x)], graph.input),
                clone_function=self.copy,
                call_function=self._call,
            )
        if type(model) is not type(new):
            # A class of the user's, whose constructor would make its own layers.
            tensors = new.input, new.output
            new = _bare(model)
            functional_class().__init__(new, *tensors, name=model.name)
        return self._finished(model, new)

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """A call in a graph; notes recurrent layers that are given their states."""
        for name in ("resets", "fresh_state"):
            if kwargs.get(name) is not None and not takes(layer, name):
                raise ValueError(
                    f"{name_of(layer)}: the model calls it with `{name}`, which Keras's layers "
                    "don't take: it can't be restored."
                )
        if self._is_converted(layer) and (len(args) > 1 or kwargs.get("initial_state") is not None):
            self.given_states.setdefault(id(layer), layer)
        return layer(*args, **kwargs)

    def _finished(self, model: Any, new: Any) -> Any:
        new.dtype_policy = model.dtype_policy
        self._carry(model, new)
        return new

    # --- other layers -----------------------------------------------------------------------

    def _plain(self, layer: Any) -> Any:
        try:
            new = by_config(layer)
        except _NO_CONFIG:
            return self._by_attributes(layer)
        if isinstance(layer, keras.layers.Lambda):
            new.function = layer.function  # out of a config it has lost its globals
        if isinstance(layer, keras.layers.InputLayer):
            new.optional = layer.optional  # Keras 3.10 leaves it out of the config
        return new

    def _wrapper(self, layer: Any) -> Any:
        with keras.saving.custom_object_scope(names_used_by(layer)):
            config = layer.get_config()
        del config["layer"]
        return self._direction.wrapper(layer)(self.copy(layer.layer), **config)

    def _by_attributes(self, layer: Any) -> Any:
        """A copy without its class's constructor, which would make its own layers."""
        new = _bare(layer, **arguments_of(layer))
        base = keras.Model if isinstance(layer, keras.Model) else keras.layers.Layer
        base.__init__(
            new,
            name=layer.name,
            dtype=layer.dtype_policy,
            activity_regularizer=layer.activity_regularizer,
        )
        self._copies[id(layer)] = new  # for layers that refer to it
        self._carry(layer, new)
        return new

    def _carry(self, layer: Any, new: Any) -> None:
        order = {id(child): place for place, child in enumerate(children(layer))}
        carry_attributes(layer, new, self._attribute, order)

    def _attribute(self, value: Any) -> Any:
        """The copy of what an attribute holds, or of one item of it."""
        if isinstance(value, keras.layers.Layer):
            new = self.copy(value)
            build_as(value, new)
            self._pair_variables(value, new)
            return new
        if isinstance(value, keras.Variable):
            return self.variables.of(value)
        if isinstance(value, keras.optimizers.Optimizer):
            if id(value) not in self._optimizers:
                self._optimizers[id(value)] = (value, by_config(value))
            return self._optimizers[id(value)][1]
        return copied(value)

    # --- the end ----------------------------------------------------------------------------

    def settle(self) -> None:
        """Builds what is built in the original, and gives all values and flags to the copies.

        Raises:
            ValueError: if a copy has other variables than its original.
        """
        for old, new in self._pairs:
            build_as(old, new)
        for old, new in self._pairs:
            self._pair_variables(old, new)
            if new.trainable != old.trainable:
                new.trainable = old.trainable  # and so for the layers in it, which come later
        self.variables.settle()
        for _, new in self._pairs:
            if hasattr(new, "finalize_state"):
                new.finalize_state()  # Normalization's, computed from its weights

    def _pair_variables(self, old: Any, new: Any) -> None:
        if self._direction.kind(old) or self._is_converted(old):
            for of in (lambda layer: layer.weights, seeds_of, states_of):
                self.variables.pair(name_of(old), of(old), of(new))
        elif self._is_plain(old):
            self.variables.pair(name_of(old), old.variables, new.variables)
        elif len(old.weights) != len(new.weights):
            raise ValueError(
                f"{self._direction.operation}: expected the copy of {name_of(old)} to have "
                f"{len(old.weights)} weights, got {len(new.weights)}."
            )


def _bare(layer: Any, /, **arguments: Any) -> Any:
    """An instance of a layer's class before any constructor; Keras notes the arguments."""
    cls: Any = type(layer)
    return cls.__new__(cls, **arguments)
