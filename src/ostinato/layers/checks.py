"""What a layer refuses, before any work is done; each error names the layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from ostinato.structure import Structure, describe, leaf_paths, repack

Dimensions = tuple[int | None, ...]


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
            found = ", ".join(
                f"input{path} of shape {shape}" for path, shape in zip(paths, shapes, strict=True)
            )
            raise ValueError(
                f"{owner}: expected nested inputs with the same batch size and the same number of "
                f"timesteps, but the {name} disagree: {found}."
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


def read_mask(owner: str, mask: Any, batch_size: int | None, timesteps: int | None) -> Any:
    """One boolean mask (B, T) out of what came as `mask`, or None.

    The mask of nested inputs comes nested; all of them must skip the same timesteps, so the first
    one counts, as in Keras.
    """
    masks = [] if mask is None else [m for m in tree.flatten(mask) if m is not None]
    if not masks:
        return None
    if not hasattr(masks[0], "shape"):
        raise ValueError(
            f"{owner}: expected a mask that is a tensor or array of shape (batch, timesteps) = "
            f"{(batch_size, timesteps)}, got {type(mask).__name__}."
        )
    shape = shape_of(masks[0])
    if len(shape) == 3 and shape[2] == 1:
        masks[0], shape = ops.squeeze(masks[0], -1), shape[:2]
    if not agree(shape, (batch_size, timesteps)):
        raise ValueError(
            f"{owner}: expected a mask of shape (batch, timesteps) = {(batch_size, timesteps)}, "
            f"got one of shape {shape}."
        )
    return ops.cast(masks[0], "bool")


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


def check_cell(owner: str, cell: Any) -> None:
    """Refuses what isn't a cell."""
    if not callable(getattr(cell, "call", None)) and not callable(cell):
        raise ValueError(f"{owner}: Argument `cell` should have a `call` method, got {cell!r}.")
    if getattr(cell, "state_size", None) is None:
        raise ValueError(
            f"{owner}: state_size must be specified as property on the RNN cell (an int, a shape, "
            f"or a nest of them; () for a cell without states), got {cell!r}, which has no "
            "`state_size` attribute or None."
        )
