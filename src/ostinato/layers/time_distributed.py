"""TimeDistributed: a layer at every timestep, all of them in one call of it."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from ostinato.cells.builtin import regularizes
from ostinato.cells.checks import name_of
from ostinato.cells.contract import parameters_of
from ostinato.doors import door, opaque
from ostinato.engines.interface import Loop
from ostinato.engines.loop import Recurrence, run_over_time
from ostinato.layers.arguments import start_layer
from ostinato.layers.checks import check_entry, check_given, check_keywords, check_sequences
from ostinato.layers.direction import result_shapes
from ostinato.layers.folding import folded, known_lead, lead_of, over_time, unfolded
from ostinato.layers.masks import shared_mask
from ostinato.layers.serialization import of_ours
from ostinato.layers.within import updates_itself, with_all_within
from ostinato.nests import leaf_paths
from ostinato.structure import (
    Structure,
    describe,
    first_known,
    flat_shapes,
    leaves,
    map_leaves,
    map_shapes,
)
from ostinato.tensors import Stepped, Tensor, Tensors, agree, cast_floats, shape_of


@keras.saving.register_keras_serializable(package="ostinato")
class TimeDistributed(keras.layers.Wrapper):
    """Applies a layer to every timestep, with the same weights.

    Inputs are a tensor (B, T, ...) or a nest of such tensors with the same B and T. The layer gets
    (B T, ...), all timesteps of all rows as one batch, in one call; what it returns comes as
    (B, T, ...), in its containers. B and T may be unknown. A layer that keeps something from call
    to call is called timestep after timestep instead, as by Keras's TimeDistributed: a `stateful`
    one, in training one with moving averages (BatchNormalization), and one with an activity
    regularizer.

    A mask (B, T, ...) gives the layer (B T, ...), if it takes one; a mask (B, T) gives a recurrent
    layer the same for all of its own timesteps. The mask that goes on is the layer's own for each
    timestep, (B, T, ...); else (B, T), True where anything in a timestep is.

    Args:
        layer: A `keras.layers.Layer`; it treats each row of its batch by itself.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...

    Raises:
        ValueError: for inputs or a mask that don't fit; it names the layer.
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                "TimeDistributed: Please initialize `TimeDistributed` layer with a "
                f"`keras.layers.Layer` instance. Received: {layer}"
            )
        start_layer(self, kwargs)
        self.layer = layer
        self.supports_masking = True

    # --- building, shapes -------------------------------------------------------------------

    def build(self, input_shape: Structure) -> None:
        """Builds the layer for one timestep of inputs."""
        shape = self._td_timestep(input_shape)
        layer = self.layer
        if layer.built:
            return
        if type(layer).build is keras.layers.Layer.build:
            # No build of its own: a symbolic run builds the layers that its call uses.
            dtype = layer.compute_dtype
            symbols = map_shapes(lambda s: keras.KerasTensor(s, dtype=dtype), shape)
            layer(symbols, **self._td_keywords(False))
        else:
            layer.build(shape)
        layer.built = True

    def _td_timestep(self, input_shape: Structure) -> Structure:
        """The shapes that the layer gets; only if it's called by timestep is its batch known."""
        shapes, paths = flat_shapes(input_shape)
        check_sequences(name_of(self), shapes, paths)
        batch_size = first_known(s[0] for s in shapes) if _keeps_states(self.layer) else None
        return map_shapes(lambda s: (batch_size, *s[2:]), input_shape)

    def compute_output_shape(self, input_shape: Structure) -> Structure:
        """The shapes of the outputs, (B, T, ...), in the layer's containers."""
        found = result_shapes(self.layer, self._td_timestep(input_shape))
        lead = known_lead(map_shapes(keras.KerasTensor, input_shape))
        return map_shapes(lambda shape: (*lead, *shape[1:]), found)

    def compute_output_spec(
        self, inputs: Structure, training: bool | None = None, mask: Structure = None
    ) -> Structure:
        """The outputs as symbolic tensors; refuses what `call` would."""
        self._td_checked(inputs, mask)
        lead = known_lead(inputs)
        timestep = self._td_timestep(tree.map_structure(shape_of, inputs))
        given = map_shapes(keras.KerasTensor, timestep)
        given = tree.map_structure(
            lambda x, like: keras.KerasTensor(x.shape, dtype=like.dtype), given, inputs
        )
        found = self.layer.compute_output_spec(given, **self._td_keywords(bool(training)))
        return tree.map_structure(
            lambda y: keras.KerasTensor((*lead, *y.shape[1:]), dtype=self._td_dtype(y)), found
        )

    def _td_dtype(self, output: Any) -> str:
        dtype: str = keras.backend.standardize_dtype(output.dtype)
        return self.compute_dtype if "float" in dtype else dtype

    # --- calling ----------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer; refuses sequences of different lengths."""
        if args:
            check_given(self, args[0])
        if kwargs:
            check_keywords(self, kwargs)
        return super().__call__(*args, **kwargs)

    def call(
        self, inputs: Structure, training: bool | None = None, mask: Structure = None
    ) -> Structure:
        """Applies the layer to each timestep; see the class.

        Args:
            inputs: The inputs, each (B, T, ...).
            training: Given to the layer, if it takes it.
            mask: Booleans (B, T, ...), or a nest of such like the inputs; by default those that
                came with the inputs.
        """
        inputs, mask = self._td_checked(inputs, mask)
        in_training = training is not None and training is not False
        if _goes_by_timestep(self.layer, in_training):
            outputs = self._td_by_timestep(inputs, training, mask)
        else:
            outputs = self._td_at_once(inputs, training, mask)
        return cast_floats(outputs, self.compute_dtype)

    def _td_at_once(self, inputs: Structure, training: Any, mask: Structure) -> Structure:
        lead = lead_of(inputs)
        rows = lead[0] * lead[1]
        outputs = self._td_run(map_leaves(folded, inputs), training, _map_masks(folded, mask))
        return tree.map_structure(lambda y: unfolded(self._td_kept(y, rows), inputs), outputs)

    def _td_kept(self, output: Any, rows: Any) -> Any:
        """An output of the layer, refused unless it has the rows that the layer was given."""
        shape = shape_of(output) if hasattr(output, "shape") else ()
        known = isinstance(rows, int)
        if not shape or (known and shape[0] not in (None, rows)):
            raise ValueError(
                f"{name_of(self)}: expected {name_of(self.layer)} to return tensors with the batch "
                f"axis of its inputs, got {describe(output)}"
                f"{f' for {rows} rows' if known else ''}."
            )
        return output

    def _td_by_timestep(self, inputs: Structure, training: Any, mask: Structure) -> Structure:
        timesteps = lead_of(inputs)[1]
        if not isinstance(timesteps, int) or timesteps == 0:
            return self._td_in_a_loop(inputs, training, mask)

        def run(t: int) -> Structure:
            return self._td_run(
                map_leaves(lambda x: x[:, t], inputs), training, _map_masks(lambda m: m[:, t], mask)
            )

        steps = [run(t) for t in range(timesteps)]
        return tree.map_structure(lambda *ys: ops.stack(ys, axis=1), *steps)

    def _td_in_a_loop(self, inputs: Structure, training: Any, mask: Structure) -> Structure:
        """The same on the backend's loop, for a number of timesteps that isn't known."""
        masks = [m for m in tree.flatten(mask) if m is not None]
        flat = [*leaves(inputs), *masks]
        count = len(flat) - len(masks)

        def step(xs: Tensors, states: Tensors) -> Stepped:
            given = iter(xs[count:])
            of_step = _map_masks(lambda _: next(given), mask)
            outputs = self._td_run(tree.pack_sequence_as(inputs, xs[:count]), training, of_step)
            return tuple(tree.flatten(outputs)), ()

        spec = self.compute_output_spec(inputs)
        batch_size = lead_of(inputs)[0]
        like = [ops.zeros((batch_size, *y.shape[2:]), dtype=y.dtype) for y in tree.flatten(spec)]
        recurrence = Recurrence(
            step,
            tuple(ops.swapaxes(x, 0, 1) for x in flat),
            (),
            tuple(like),
            variables=tuple(self.layer.non_trainable_variables),
            add_loss=self.add_loss,
        )
        outputs, _ = run_over_time(recurrence, None, Loop(return_sequences=True))
        return tree.pack_sequence_as(spec, outputs)

    def _td_run(self, inputs: Structure, training: Any, mask: Structure) -> Structure:
        """The layer's call on rows, with what it takes."""
        keywords = self._td_keywords(training)
        if mask is not None and "mask" in parameters_of(self.layer.call):
            keywords["mask"] = self._td_over_time(mask, inputs)
        return self.layer(inputs, **keywords)

    def _td_keywords(self, training: Any) -> dict[str, Any]:
        taken = training is not None and "training" in parameters_of(self.layer.call)
        return {"training": training} if taken else {}

    def _td_over_time(self, mask: Structure, rows: Structure) -> Structure:
        """A mask of rows as one of the timesteps that a recurrent layer has itself."""
        is_recurrent = hasattr(self.layer, "return_sequences") and any(
            hasattr(self.layer, name) for name in ("go_backwards", "backward_layer")
        )
        if not is_recurrent:
            return mask
        return _map_masks(lambda m: over_time(m, leaves(rows)[0]), mask)

    def _td_checked(self, inputs: Structure, mask: Structure) -> tuple[Structure, Structure]:
        """Inputs and mask, refused where they disagree; None as a mask if there's none at all."""
        shapes, paths = [shape_of(x) for x in leaves(inputs)], leaf_paths(inputs)
        check_sequences(name_of(self), shapes, paths)
        masks = [m for m in tree.flatten(mask) if m is not None]
        lead = known_lead(inputs)
        for found in masks:
            if not agree(shape_of(found)[:2], lead):
                raise ValueError(
                    f"{name_of(self)}: The `mask` passed to the `TimeDistributed` layer has a "
                    f"shape {shape_of(found)}, expected (batch, timesteps, ...) with those of its "
                    f"inputs, {lead}."
                )
        mask = mask if masks else None
        first = leaves(inputs)[0]
        if isinstance(first, keras.KerasTensor) or door.sizes_are_known():
            return inputs, mask
        sizes, words = lead_of(inputs), "the batch size and timesteps of its other inputs"

        def sized(tensor: Tensor, what: str) -> Tensor:
            return door.sized(tensor, sizes, f"{name_of(self)}: expected {what} with {words}.")

        if len(shapes) > 1:
            inputs = map_leaves(lambda x: sized(x, "nested inputs"), inputs)
        return inputs, _map_masks(lambda m: sized(m, "a mask"), mask)

    # --- masks, config ----------------------------------------------------------------------

    def compute_mask(self, inputs: Structure, mask: Structure = None) -> Structure:
        """The layer's own mask for each timestep, (B, T, ...); else which timesteps count."""
        given = [m for m in tree.flatten(mask) if m is not None]
        of_time = shared_mask(mask)
        if not self.layer.supports_masking:
            return of_time
        of_rows = map_leaves(folded, inputs)
        rows = self._td_over_time(_map_masks(folded, mask), of_rows) if given else None
        found = self.layer.compute_mask(of_rows, rows)
        if found is None:
            return of_time
        pairs = list(zip(tree.flatten(rows), tree.flatten(mask), strict=True)) if given else []

        def of_output(own: Any) -> Any:
            if own is None:
                return of_time
            passed_on = [before for row, before in pairs if row is own]
            return passed_on[0] if passed_on else unfolded(own, inputs)

        return tree.map_structure(of_output, found)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "TimeDistributed":
        """Builds the layer from its config or from that of Keras's layer."""
        config = dict(config)
        check_entry(cls.__name__, config, "layer")
        layer = keras.saving.deserialize_keras_object(of_ours(config.pop("layer")), custom_objects)
        return cls(layer, **config)


# Keras's bookkeeping of the layers within is nothing that torch.compile can trace.
@opaque
def _keeps_states(layer: Any) -> bool:
    return any(getattr(each, "stateful", False) is True for each in with_all_within(layer))


@opaque
def _goes_by_timestep(layer: Any, in_training: bool) -> bool:
    return any(_is_apart(each, in_training) for each in with_all_within(layer))


def _is_apart(layer: Any, in_training: bool) -> bool:
    """Whether it matters to a layer that the timesteps come one after the other."""
    if getattr(layer, "stateful", False) is True or regularizes(layer):
        return True
    return in_training and updates_itself(layer)


def _map_masks(function: Callable[[Any], Any], mask: Structure) -> Structure:
    """A function of each mask of a nest; where there's none, there's none."""
    return tree.map_structure(lambda m: None if m is None else function(m), mask)
