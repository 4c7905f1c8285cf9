"""What `Bidirectional` asks of each of its two layers: ours, Keras's, or one of a user's own.

Any layer serves that has the attributes of Keras's recurrent layers (`return_sequences`,
`return_state`, `go_backwards`, `stateful`); it needs no cell. Each is asked for itself, since the
two directions may be layers of unlike kinds.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import tree

from ostinato.cells.checks import name_of, read_states
from ostinato.cells.contract import output_sizes, parameters_of, state_sizes, takes
from ostinato.layers.masks import turned
from ostinato.layers.rnn import RNN
from ostinato.layers.sizes import fitting
from ostinato.structure import Shape, Structure, map_shapes
from ostinato.tensors import shape_of

Tensor = Any


def count_states(layer: Any) -> int | None:
    """How many tensors a layer's states are; None where it doesn't tell."""
    if isinstance(layer, RNN):
        return len(tree.flatten(state_sizes(layer.cell)))
    states = _states_of_one_row(layer)
    return None if states is None else len(tree.flatten(states))


def _states_of_one_row(layer: Any) -> Structure:
    """The states that a layer which isn't ours starts from, for one row; None where it's silent."""
    make = getattr(layer, "get_initial_state", None)
    if make is None or not layer.built or "batch_size" not in parameters_of(make):
        return None
    return make(batch_size=1)


# What a layer may be called with beside its sequences; it's refused where the layer can't take it.
_WANTED = ("initial_state", "constants", "resets", "fresh_state")


def keywords_for(layer: Any, sequences: Structure, given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a layer's call.

    Args:
        layer: The layer.
        sequences: Its inputs.
        given: `training` and `mask`, and by name what else the call was given, or None. A layer
            that takes no mask, or doesn't care whether it's training, isn't told, as in Keras.

    Raises:
        ValueError: if there are states, constants or resets, and the layer takes none, or if the
            mask or the states don't fit its inputs.
    """
    has_mask = any(mask is not None for mask in tree.flatten(given["mask"]))
    values = {**given, "mask": given["mask"] if has_mask else None}
    values = {k: value for k, value in values.items() if value is not None or k == "training"}
    for name in _WANTED:
        if name in values and not takes(layer, name):
            raise ValueError(
                f"{name_of(layer)}: {name} was given, but its `call` takes no `{name}` argument."
            )
    taken = {name: value for name, value in values.items() if takes(layer, name)}
    return taken if isinstance(layer, RNN) else {**taken, **_fitting(layer, sequences, taken)}


def _fitting(layer: Any, sequences: Structure, taken: dict[str, Any]) -> dict[str, Any]:
    """The mask and the states, where a layer that isn't ours might spread those of one row."""
    mask, states = (taken.get(name) for name in ("mask", "initial_state"))
    sizes = None if states is None else _sizes_of_states(layer)
    mask, fitting_states = fitting(name_of(layer), sequences, mask, states, sizes)
    found = {"mask": mask, "initial_state": fitting_states}
    return {name: value for name, value in found.items() if value is not None}


def _sizes_of_states(layer: Any) -> Structure:
    """The sizes of its states, or None where it doesn't tell."""
    states = _states_of_one_row(layer)
    if not all(len(getattr(state, "shape", ())) for state in tree.flatten(states)):
        return None
    return tree.map_structure(lambda state: Shape(*state.shape[1:]), states)


def result_shapes(layer: Any, sequences_shape: Structure) -> Any:
    """The shapes of a layer's results, in their containers."""
    if type(layer).compute_output_shape is not keras.layers.Layer.compute_output_shape:
        return layer.compute_output_shape(sequences_shape)
    dtype = layer.compute_dtype
    inputs = map_shapes(lambda shape: keras.KerasTensor(shape, dtype=dtype), sequences_shape)
    return tree.map_structure(shape_of, layer.compute_output_spec(inputs))


def output_masks(layer: Any, sequences: Structure, mask: Structure) -> list[Any]:
    """The masks of a layer's outputs, each (B, T) in the order of the outputs, or None.

    Args:
        layer: The layer.
        sequences: Its inputs.
        mask: Their masks, each (B, T) or None.
    """
    masks: list[Any] = tree.flatten(layer.compute_mask(sequences, mask))
    if layer.return_state:
        masks = masks[: _count_outputs(layer)]
    if not layer.return_sequences:
        return [None] * len(masks)
    if not layer.go_backwards:
        return masks
    # Keras's layers pass a mask on as it came, though their outputs are turned.
    given = [m for m in tree.flatten(mask) if m is not None]
    return [turned(m) if any(m is one for one in given) else m for m in masks]


def _count_outputs(layer: Any) -> int:
    """How many tensors its output is; one, of a layer that isn't ours."""
    sizes = output_sizes(layer.cell) if isinstance(layer, RNN) else None
    return 1 if sizes is None else len(tree.flatten(sizes))


def reset_states(layer: Any, states: Structure) -> None:
    """Sets the states that a stateful layer keeps; None: to what it starts from.

    Raises:
        ValueError: if states are given that don't fit, or to a layer that doesn't show its own.
    """
    if states is None:
        layer.reset_state()
        return
    if isinstance(layer, RNN):
        layer.reset_state(states)
        return
    kept = getattr(layer, "states", None)
    if kept is None:
        raise ValueError(
            f"{name_of(layer)}: expected a layer with an attribute `states`, and built, to set "
            "them; it can only be reset to the states that it starts from."
        )
    variables: Sequence[Any] = tree.flatten(kept)
    sizes = [Shape(*variable.shape[1:]) for variable in variables]
    batch_size = variables[0].shape[0] if variables else None
    given = read_states(name_of(layer), "states", states, sizes, batch_size)
    for variable, value in zip(variables, tree.flatten(given), strict=True):
        variable.assign(value)
