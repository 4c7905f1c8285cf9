"""What a layer refuses, before any work is done; each error names the layer."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from ostinato.structure import Structure, describe, leaf_paths, repack

Dimensions = tuple[int | None, ...]

STATES_BY_NAME = "States don't go beside the inputs, but by name: `initial_state=`."


def name_of(thing: Any) -> str:
    """A layer or cell as errors call it: "LSTM layer 'lstm'", "MyCell object"."""
    kind = type(thing).__name__
    if isinstance(thing, keras.layers.Layer):
        return f"{kind} layer '{thing.name}'"
    return f"{kind} object"


def shape_of(tensor: Any) -> Dimensions:
    """A tensor's static shape; None for an unknown dimension."""
    return tuple(tensor.shape)


def check_sequences(owner: str, shapes: Sequence[Dimensions], paths: Sequence[str]) -> None:
    """Refuses inputs without a batch and a time axis, or that disagree in these."""
    for shape, path in zip(shapes, paths, strict=True):
        if len(shape) < 2:
            raise ValueError(
                f"{owner}: expected inputs of shape (batch, timesteps, ...), got "
                f"input{path} of shape {shape}."
            )
    for axis, name in enumerate(("batch sizes", "numbers of timesteps")):
        if len({shape[axis] for shape in shapes} - {None}) > 1:
            hint = f" {STATES_BY_NAME}" if paths[0].startswith("[0]") else ""  # a tuple or list
            found = ", ".join(
                f"input{path} of shape {shape}" for path, shape in zip(paths, shapes, strict=True)
            )
            raise ValueError(
                f"{owner}: expected nested inputs with the same batch size and the same number of "
                f"timesteps, but the {name} disagree: {found}.{hint}"
            )


def check_features(
    owner: str, shapes: Sequence[Dimensions], built: Sequence[Dimensions], paths: Sequence[str]
) -> None:
    """Refuses inputs whose features are not those that the layer was built for."""
    if len(shapes) != len(built):
        raise ValueError(
            f"{owner}: built for {len(built)} input tensors, got {len(shapes)}: "
            f"{', '.join(map(str, shapes))}."
        )
    for shape, wanted, path in zip(shapes, built, paths, strict=True):
        if not agree(shape[2:], wanted[2:]):
            raise ValueError(
                f"{owner}: built for input{path} with features {wanted[2:]}, got features "
                f"{shape[2:]} (an input of shape {shape})."
            )


def check_unroll(owner: str, unroll: bool, timesteps: int | None) -> None:
    """Refuses to unroll a loop of unknown length."""
    if unroll and timesteps is None:
        raise ValueError(
            f"{owner}: Cannot unroll a RNN if the time dimension is undefined: `unroll=True` needs "
            "a known number of timesteps, got None. Give it in `Input(shape=(timesteps, ...))`, or "
            "leave unroll at False."
        )


def check_batch(owner: str, expected: int | None, received: int | None) -> None:
    """Refuses a batch of another size than the states that a stateful layer keeps."""
    if None not in (expected, received) and expected != received:
        raise ValueError(
            f"{owner}: If an RNN is stateful, the batch size of the inputs must be that of its "
            f"states.\n- Expected batch size: {expected}\n- Received batch size: {received}"
        )


def need_batch_size(asked: Any, batch_size: Any) -> None:
    """Refuses to make states for no batch size."""
    if batch_size is None:
        raise ValueError(
            f"{name_of(asked)}: expected a batch size to make initial states for, an int or a "
            "scalar tensor, got None."
        )


def check_one_sequence(layer: Any, given: Any) -> None:
    """Refuses a container of tensors where a layer takes one: in Keras 2 states came that way."""
    if not isinstance(given, (list, tuple, dict)):
        return
    tensors = tree.flatten(given)
    if all(hasattr(tensor, "shape") for tensor in tensors):
        hint = "" if isinstance(given, dict) else f" {STATES_BY_NAME}"
        raise ValueError(
            f"{name_of(layer)}: expected one tensor (batch, timesteps, features), got "
            f"{len(tensors)} in a {type(given).__name__}: {describe(given)}.{hint}"
        )


def shared_mask(mask: Structure) -> Any:
    """One mask out of those of nested inputs, or None where none has any.

    Inputs without a mask go by that of the others. Of several masks a timestep has to be valid in
    each, as the cell takes all inputs of a timestep at once. (Keras 2 took the first.)
    """
    masks: list[Any] = []
    for given in tree.flatten(mask):
        if given is not None and not any(given is other for other in masks):
            masks.append(given)
    flat = (ops.squeeze(m, -1) if len(m.shape) == 3 else m for m in masks)  # (B, T, 1)
    return functools.reduce(ops.logical_and, flat) if masks else None


def read_mask(owner: str, mask: Any, batch_size: int | None, timesteps: int | None) -> Any:
    """One boolean mask (B, T) out of what came as `mask`, or None."""
    if mask is None:
        return None
    expected = (batch_size, timesteps)
    masks = [leaf for leaf in tree.flatten(mask) if leaf is not None]
    if not all(hasattr(leaf, "shape") for leaf in masks):
        raise ValueError(
            f"{owner}: expected a mask that is a tensor or array of shape (batch, timesteps) = "
            f"{expected}, got {type(mask).__name__}."
        )
    for shape in map(shape_of, masks):
        if not agree(shape[:2] if shape[2:] == (1,) else shape, expected):
            raise ValueError(
                f"{owner}: expected a mask of shape (batch, timesteps) = {expected}, got one of "
                f"shape {shape}."
            )
    shared = shared_mask(masks)
    return None if shared is None else ops.cast(shared, "bool")


def read_states(
    owner: str, what: str, given: Structure, expected: Structure, batch_size: int | None
) -> Structure:
    """Given states in the containers of the layer's own, checked leaf by leaf.

    Args:
        owner: The layer.
        what: What they are, such as "initial_state".
        given: The states, in any containers.
        expected: A structure of `Shape`s.
        batch_size: B, or None where it's unknown.
    """
    states = repack(expected, given)
    if states is None:
        raise ValueError(
            f"{owner}: expected {what} to be {len(tree.flatten(expected))} tensors like "
            f"{describe(expected)}, got {describe(given)}."
        )
    triples = zip(leaf_paths(expected), tree.flatten(states), tree.flatten(expected), strict=True)
    for path, state, size in triples:
        if not hasattr(state, "shape"):
            raise ValueError(f"{owner}: expected {what}{path} to be a tensor, got {state!r}.")
        if not agree(shape_of(state), (batch_size, *size)):
            wanted = ("batch" if batch_size is None else batch_size, *size)
            raise ValueError(
                f"{owner}: expected {what}{path} of shape {wanted}, got {shape_of(state)}."
            )
    return states


def agree(shape: Dimensions, expected: Dimensions) -> bool:
    """Whether two shapes may be the same, given that unknown dimensions fit any."""
    return len(shape) == len(expected) and all(
        a is None or b is None or a == b for a, b in zip(shape, expected, strict=True)
    )


def check_entry(owner: str, config: dict[str, Any], entry: str) -> None:
    """Refuses a config without an entry that it takes to build a layer."""
    if entry not in config:
        raise ValueError(
            f"{owner}: expected a config with an entry {entry!r}, got one with the entries "
            f"{sorted(config)}."
        )


def check_cell(owner: str, cell: Any) -> None:
    """Refuses what isn't a cell."""
    if inspect.isclass(cell):
        raise ValueError(
            f"{owner}: expected a cell, got the class {cell.__name__}: make one of it, as in "
            f"`{cell.__name__}(units)`."
        )
    if hasattr(cell, "return_sequences") and hasattr(cell, "return_state"):
        raise ValueError(
            f"{owner}: expected a cell, which runs one timestep, got {name_of(cell)}, which runs "
            "whole sequences and needs no layer around it."
        )
    if not callable(getattr(cell, "call", None)) and not callable(cell):
        raise ValueError(f"{owner}: Argument `cell` should have a `call` method, got {cell!r}.")
    if getattr(cell, "state_size", None) is None:
        raise ValueError(
            f"{owner}: state_size must be specified as property on the RNN cell (an int, a shape, "
            f"or a nest of them; () for a cell without states), got {cell!r}, which has no "
            "`state_size` attribute or None."
        )
