"""Masks of timesteps: read as one (B, T), and handed on in the order of the outputs."""

import functools
from typing import Any

from keras import ops, tree

from ostinato.cells.contract import output_sizes, state_sizes
from ostinato.structure import Shape, Structure, is_tensor_like
from ostinato.tensors import Tensor, agree, has_axes, shape_of, to_dtype


def of_timesteps(mask: Any) -> Any:
    """A mask (B, T, ...) as one of timesteps (B, T).

    A timestep is valid where anything along the other axes is. Such masks are those of words in
    sentences, and what `Masking` gives for inputs of more than three axes.
    """
    if len(mask.shape) <= 2:
        return mask
    mask = ops.cast(mask, "bool")
    while len(mask.shape) > 2:  # not all axes at once, in which Keras 3.10 errs on PyTorch
        mask = ops.any(mask, axis=-1)
    return mask


def each_of_timesteps(mask: Structure) -> Structure:
    """A nest of masks, each as one of timesteps; what's no tensor is left to be refused."""
    return tree.map_structure(lambda m: of_timesteps(m) if has_axes(m) else m, mask)


def shared_mask(mask: Structure) -> Any:
    """One mask (B, T) for all of a layer's inputs, or None where none of them has a mask.

    The cell takes all inputs of a timestep at once, so a timestep is valid where every mask says
    so; an input without a mask goes by those of the others. (Keras 2 took the first mask.)
    """
    if mask is None:
        return None
    if is_tensor_like(mask):
        return of_timesteps(mask)
    masks: list[Any] = []
    for given in tree.flatten(mask):
        if given is not None and not any(given is other for other in masks):
            masks.append(given)
    return functools.reduce(ops.logical_and, map(of_timesteps, masks)) if masks else None


def read_mask(owner: str, mask: Any, batch_size: int | None, timesteps: int | None) -> Any:
    """One boolean mask (B, T) out of what came as `mask`, or None.

    Raises:
        ValueError: if one of the masks isn't (B, T) or (B, T, ...).
    """
    if mask is None:
        return None
    shared = shared_mask(check_masks(owner, mask, batch_size, timesteps))
    return None if shared is None else to_dtype(shared, "bool")


def check_masks(
    owner: str, mask: Any, batch_size: int | None, timesteps: int | None
) -> list[Tensor]:
    """The masks in what came as `mask`, refused unless each is (B, T) or (B, T, ...)."""
    expected = (batch_size, timesteps)
    masks = [leaf for leaf in tree.flatten(mask) if leaf is not None]
    # (A RaggedTensor has a shape, and no number of timesteps.)
    if not all(has_axes(leaf) and not hasattr(leaf, "row_lengths") for leaf in masks):
        raise ValueError(
            f"{owner}: expected a mask that is a tensor or array of shape (batch, timesteps) = "
            f"{expected}, got {type(mask).__name__}."
        )
    for shape in map(shape_of, masks):
        if not agree(shape[:2], expected):
            raise ValueError(
                f"{owner}: expected a mask of shape (batch, timesteps) = {expected}, got one of "
                f"shape {shape}."
            )
    return masks


def turned(mask: Any) -> Any:
    """A mask (B, T) from its last timestep to its first; None for none."""
    return None if mask is None else ops.flip(mask, axis=1)


def for_results(cell: Any, mask: Any, return_state: bool) -> Any:
    """The mask (B, T) of a cell's outputs, or None, as the masks of all that a layer returns."""
    if mask is None and not return_state:
        return None  # said at once: Keras asks in every call
    outputs = output_sizes(cell) or Shape(1)
    if isinstance(outputs, Shape) and not return_state:
        return mask
    # Keras's losses take a mask (B, T) only for outputs (B, T, units). Beside such an output a
    # leaf of another rank goes without, so that a model of both trains.
    has_vector = any(len(size) == 1 for size in tree.flatten(outputs))
    output = tree.map_structure(
        lambda size: mask if len(size) == 1 or not has_vector else None, outputs
    )
    if not return_state:
        return output
    return [*tree.flatten(output), *[None] * len(tree.flatten(state_sizes(cell)))]
