"""Bidirectional: one layer over the sequence as it is, one over it backwards."""

import copy
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from ostinato.cells.checks import name_of
from ostinato.cells.contract import output_sizes
from ostinato.layers.arguments import start_layer
from ostinato.layers.checks import check_entry, check_given, check_keywords
from ostinato.layers.direction import (
    count_states,
    keywords_for,
    output_masks,
    reset_states,
    result_shapes,
)
from ostinato.layers.dispatch import can_join, run, run_together
from ostinato.layers.masks import each_of_timesteps, turned
from ostinato.layers.merging import MERGES, check_merge, merged_specs
from ostinato.layers.rnn import RNN
from ostinato.layers.serialization import copy_layer, of_ours
from ostinato.structure import Structure, describe, map_shapes, spread
from ostinato.tensors import cast_floats, shape_of

Tensor = Any

_SHARED = ("stateful", "return_sequences", "return_state")


@keras.saving.register_keras_serializable(package="ostinato")
class Bidirectional(keras.layers.Layer):
    """Runs a recurrent layer in both directions and merges the outputs (Schuster & Paliwal, 1997).

    The call takes what the wrapped layer takes; `initial_state` is the forward layer's states and
    then the backward layer's. With `return_state` the states follow the output in that order. The
    backward outputs are merged in the order of time, and at masked timesteps they're zero where
    `return_sequences` is set.

    Args:
        layer: A recurrent layer. It is copied by its config, with fresh weights.
        merge_mode: "concat", "sum", "mul", "ave", or None to return both outputs.
        weights: Initial weights, the forward layer's and then the backward layer's.
        backward_layer: The layer for the backward direction, used as it is; by default a copy of
            `layer` with the opposite `go_backwards`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: if the two layers don't fit together, or the merge mode is unknown.
    """

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        weights: Any = None,
        backward_layer: Any = None,
        **kwargs: Any,
    ) -> None:
        _check_layers(layer, backward_layer)
        if merge_mode not in (*MERGES, None):
            raise ValueError(
                f"Bidirectional: Invalid merge mode. Received: {merge_mode}. Merge mode should be "
                f"one of {[*MERGES, None]}"
            )
        start_layer(self, kwargs)
        self.forward_layer = copy_layer(layer, name=_prefixed("forward", layer.name))
        if backward_layer is None:
            backward_layer = copy_layer(
                layer,
                name=_prefixed("backward", layer.name),
                go_backwards=not layer.go_backwards,
            )
        self.backward_layer = backward_layer
        self._verify_layer_config()
        self.merge_mode = merge_mode
        self._bi_verify_sizes()
        for direction in self._bi_both():
            # A held output would be merged with another timestep's of the other direction.
            if hasattr(direction, "zero_output_for_mask"):
                direction.zero_output_for_mask = direction.return_sequences
        self._bi_initial_weights = weights
        self.stateful = layer.stateful
        self.return_sequences = layer.return_sequences
        self.return_state = layer.return_state
        self.supports_masking = True
        self.input_spec = layer.input_spec

    def _verify_layer_config(self) -> None:
        forward, backward = self.forward_layer, self.backward_layer
        if forward.go_backwards == backward.go_backwards:
            raise ValueError(
                f"{name_of(self)}: Forward layer and backward layer should have different "
                f"`go_backwards` value. Received: forward_layer.go_backwards "
                f"{forward.go_backwards}, backward_layer.go_backwards={backward.go_backwards}"
            )
        for name in _SHARED:
            if getattr(forward, name) != getattr(backward, name):
                raise ValueError(
                    f"{name_of(self)}: Forward layer and backward layer are expected to have the "
                    f'same value for attribute "{name}", got "{getattr(forward, name)}" for '
                    f'forward layer and "{getattr(backward, name)}" for backward layer'
                )

    def _bi_verify_sizes(self) -> None:
        sizes = [
            output_sizes(layer.cell) if isinstance(layer, RNN) else None
            for layer in self._bi_both()
        ]
        if None not in sizes:  # else `compute_output_shape` sees what they don't declare
            check_merge(name_of(self), self.merge_mode, *sizes)

    def build(
        self,
        sequences_shape: Structure,
        initial_state_shape: Structure = None,
    ) -> None:
        """Builds both layers."""
        for direction in self._bi_both():
            if not direction.built:
                direction.build(sequences_shape)
        if self._bi_initial_weights:
            self.set_weights(self._bi_initial_weights)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer, as in RNN."""
        if args:
            check_given(self, args[0])
        if kwargs:
            check_keywords(self, kwargs)
        return super().__call__(*args, **kwargs)

    def call(
        self,
        sequences: Structure,
        initial_state: Structure = None,
        mask: Tensor | None = None,
        training: bool | None = None,
        constants: Structure = None,
        sequences_mask: Structure = None,  # filled in by Keras, as in RNN
        resets: Tensor | None = None,
        fresh_state: Structure = None,
    ) -> Any:
        """Runs both layers and merges their outputs; see the class.

        `resets` are as in RNN: the backward layer runs each of the pieces from its end.
        `fresh_state` is the forward layer's and then the backward layer's.
        """
        mask = each_of_timesteps(sequences_mask if mask is None else mask)
        given = {"training": training, "mask": mask, "constants": constants, "resets": resets}
        states = self._bi_states(initial_state, fresh_state)
        joined = False
        if self._bi_can_run_together(sequences, bool(training)):
            joined = self._bi_can_join()
            forward, backward = self._bi_run_together(sequences, states, given, joined)
        else:
            forward, backward = self._bi_run_apart(sequences, states, given)
        if not self.return_state:
            return forward if joined else self._bi_merged(forward, backward)
        merged = forward[0] if joined else self._bi_merged(forward[0], backward[0])
        outputs = merged if self.merge_mode is None else (merged,)
        return (*outputs, *forward[1:], *backward[1:])

    def _bi_states(
        self, initial_state: Structure, fresh_state: Structure
    ) -> list[dict[str, Structure]]:
        """The states that each direction is given, by the names of the arguments."""
        names = ("initial_state", "fresh_state")
        by_name = [
            self._bi_split(states, name)
            for states, name in zip((initial_state, fresh_state), names, strict=True)
        ]
        return [dict(zip(names, own, strict=True)) for own in zip(*by_name, strict=True)]

    def _bi_split(
        self, states: Structure, name: str = "initial_state"
    ) -> tuple[Structure, Structure]:
        """The states of each direction, which come one after the other; nests in equal halves."""
        if states is None:
            return None, None
        given = len(states) if isinstance(states, (list, tuple)) else 0
        one, other = self._bi_state_counts(given)
        if one + other == given and given:
            return states[:one], states[one:]
        if given == 0 or given % 2 or not any(map(tree.is_nested, states)):
            raise ValueError(
                f"{name_of(self)}: expected {name} to be a list of the forward layer's "
                f"states, {one}, and then of the backward layer's, {other}; got {describe(states)}."
            )
        return states[: given // 2], states[given // 2 :]

    def _bi_state_counts(self, given: int) -> tuple[int, int]:
        """How many tensors each direction's states are, of so many that are given for both."""
        one, other = map(count_states, self._bi_both())
        if one is None:
            one = given // 2 if other is None else max(given - other, 0)
        return one, (max(given - one, 0) if other is None else other)

    # No property: Keras looks into those for layers to load, and would take what a layer refuses in
    # one place for loaded in the other.
    def _bi_both(self) -> tuple[Any, Any]:
        return self.forward_layer, self.backward_layer

    def _bi_can_run_together(self, sequences: Structure, training: bool) -> bool:
        """Whether one engine runs both directions at once, and the layers do nothing more."""
        return (
            all(_is_plain(layer) for layer in self._bi_both())
            and self.forward_layer.compute_dtype == self.backward_layer.compute_dtype
            and run_together([layer.cell for layer in self._bi_both()], sequences, training)
        )

    def _bi_can_join(self) -> bool:
        """Whether both directions, run together, can write into one tensor."""
        joins = self.merge_mode == "concat" and self.return_sequences
        return (
            joins
            and self.compute_dtype == self.forward_layer.compute_dtype
            and can_join(*(layer.cell for layer in self._bi_both()))
        )

    def _bi_run_together(
        self,
        sequences: Structure,
        states: Sequence[dict[str, Structure]],
        given: dict[str, Any],
        joined: bool,
    ) -> list[Any]:
        """Runs both directions at the same time; the backward outputs come in the order of time."""
        given = {**given, "training": bool(given["training"])}
        forward, backward = (
            layer._rnn_task(sequences, **own, **given, flip_outputs=layer is self.backward_layer)
            for layer, own in zip(self._bi_both(), states, strict=True)
        )
        # One of each for both, so that engines see it; checks in graphs make each task its own.
        backward = backward._replace(xs=forward.xs, mask=forward.mask)
        found = run(forward, backward, joined=joined)
        ran = zip(self._bi_both(), found, (forward, backward), strict=True)
        return [layer._rnn_results(answer, task.resets) for layer, answer, task in ran]

    def _bi_run_apart(
        self, sequences: Structure, states: Sequence[dict[str, Structure]], given: dict[str, Any]
    ) -> list[Any]:
        """Calls the layers one after the other, with the same result."""
        forward, backward = (
            layer(sequences, **keywords_for(layer, sequences, {**given, **own}))
            for layer, own in zip(self._bi_both(), states, strict=True)
        )
        if not self.return_sequences:
            return [forward, backward]
        output, *rest = backward if self.return_state else (backward,)
        output = tree.map_structure(lambda ys: ops.flip(ys, axis=1), output)
        return [forward, (output, *rest) if self.return_state else output]

    def _bi_merged(self, forward: Structure, backward: Structure) -> Any:
        forward = cast_floats(forward, self.compute_dtype)
        backward = cast_floats(backward, self.compute_dtype)
        if self.merge_mode is None:
            return forward, backward
        return tree.map_structure(MERGES[self.merge_mode], forward, backward)

    def compute_output_shape(
        self,
        sequences_shape: Structure,
        initial_state_shape: Structure = None,
    ) -> Any:
        """The shapes of the results, in their containers."""
        shapes = [result_shapes(layer, sequences_shape) for layer in self._bi_both()]
        return tree.map_structure(shape_of, self._bi_merged_specs(*shapes))

    def _bi_merged_specs(self, forward: Any, backward: Any) -> Any:
        """The results as symbolic tensors, from the shapes of both layers' results."""
        forward, backward = (self._bi_as_specs(shapes) for shapes in (forward, backward))
        if not self.return_state:
            return merged_specs(name_of(self), self.merge_mode, forward, backward)
        merged = merged_specs(name_of(self), self.merge_mode, forward[0], backward[0])
        outputs = merged if self.merge_mode is None else (merged,)
        return (*outputs, *forward[1:], *backward[1:])

    def _bi_as_specs(self, shapes: Structure) -> Structure:
        return map_shapes(lambda s: keras.KerasTensor(s, dtype=self.compute_dtype), shapes)

    def compute_output_spec(
        self,
        sequences: Structure,
        initial_state: Structure = None,
        mask: Tensor | None = None,
        training: bool | None = None,
        constants: Structure = None,
        sequences_mask: Structure = None,
        resets: Tensor | None = None,
        fresh_state: Structure = None,
        **of_subclass: Any,
    ) -> Any:
        """The results as symbolic tensors; refuses what `call` would.

        A subclass's `call` may take more arguments; they change no shape here.
        """
        mask = each_of_timesteps(sequences_mask if mask is None else mask)
        given = {"training": training, "mask": mask, "constants": constants, "resets": resets}
        states = self._bi_states(initial_state, fresh_state)
        specs = (
            layer.compute_output_spec(sequences, **keywords_for(layer, sequences, {**given, **own}))
            for layer, own in zip(self._bi_both(), states, strict=True)
        )
        return self._bi_merged_specs(*(tree.map_structure(shape_of, spec) for spec in specs))

    def compute_mask(self, sequences: Structure, mask: Structure) -> Any:
        """The mask (B, T) of each result: the layers' own for a sequence, none for the rest.

        It's in the order of the outputs, which is that of the forward layer's.
        """
        mask = each_of_timesteps(mask)
        forward, backward = (output_masks(layer, sequences, mask) for layer in self._bi_both())
        masks = forward if self.merge_mode is not None else [*forward, *map(turned, backward)]
        if not self.return_state:
            return masks[0] if len(masks) == 1 else masks
        counts = map(count_states, self._bi_both())
        return [*masks, *[None] * sum(1 if count is None else count for count in counts)]

    def reset_state(self, states: Structure = None) -> None:
        """Sets the kept states of both layers.

        Args:
            states: The forward layer's states and then the backward layer's; by default both
                start anew.

        Raises:
            AttributeError: if the layer isn't stateful.
        """
        if not self.stateful:
            raise AttributeError(f"{name_of(self)}: Layer must be stateful.")
        for layer, given in zip(self._bi_both(), self._bi_split(states, "states"), strict=True):
            reset_states(layer, given)

    def reset_states(self, states: Structure = None) -> None:
        """The same as `reset_state`, by Keras 2's name."""
        self.reset_state(states)

    @property
    def states(self) -> tuple[Any, ...] | None:
        """The kept states of the forward layer and then of the backward layer, or None."""
        forward, backward = (getattr(layer, "states", None) for layer in self._bi_both())
        if forward is None or backward is None:
            return None
        return (*spread(forward), *spread(backward))

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's layer, with the configs of both layers."""
        return {
            **super().get_config(),
            "merge_mode": self.merge_mode,
            "layer": keras.saving.serialize_keras_object(self.forward_layer),
            "backward_layer": keras.saving.serialize_keras_object(self.backward_layer),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Bidirectional":
        """Builds the layer from its config or from that of Keras's layer."""
        config = copy.deepcopy(config)
        check_entry(cls.__name__, config, "layer")
        for name in ("layer", "backward_layer"):
            if config.get(name) is not None:
                config[name] = keras.saving.deserialize_keras_object(
                    of_ours(config[name]), custom_objects
                )
        return cls(**config)


def _is_plain(layer: Any) -> bool:
    """Whether calling a layer, built, is running its cell and nothing else."""
    kind = type(layer)
    return (
        isinstance(layer, RNN)
        and kind.call is RNN.call
        and kind.__call__ is RNN.__call__
        and layer.built
        and layer.activity_regularizer is None
    )


def _check_layers(layer: Any, backward_layer: Any) -> None:
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            "Bidirectional: Please initialize `Bidirectional` layer with a `keras.layers.Layer` "
            f"instance. Received: {layer}"
        )
    if backward_layer is not None and not isinstance(backward_layer, keras.layers.Layer):
        raise ValueError(
            "Bidirectional: `backward_layer` need to be a `keras.layers.Layer` instance. "
            f"Received: {backward_layer}"
        )
    for name in (*_SHARED, "go_backwards"):
        if not hasattr(layer, name):
            raise ValueError(
                f"Bidirectional: expected a recurrent layer with attribute `{name}`, got {layer}."
            )


def _prefixed(prefix: str, name: str) -> str:
    return f"{prefix}_{name.removeprefix(f'{prefix}_')}"
