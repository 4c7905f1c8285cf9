"""Where rows begin anew inside a sequence: what a call's `resets` says, read for a run."""

from typing import Any

from keras import ops

from ostinato.cells.builtin import BuiltinCell, is_ours
from ostinato.engines.loop import moved
from ostinato.layers.stacked import StackedRNNCells
from ostinato.structure import describe
from ostinato.tensors import Tensor, agree, shape_of, to_dtype


def check_resets(
    owner: str, given: Any, fresh_state: Any, batch_size: int | None, timesteps: int | None
) -> None:
    """Refuses resets of another shape than (B, T) or (B, T, 1), and fresh states without any.

    Args:
        owner: The layer, for errors.
        given: What a call has for `resets`.
        fresh_state: What it has for `fresh_state`.
        batch_size: B of the inputs, where it's known.
        timesteps: T, likewise.
    """
    if given is None:
        if fresh_state is None:
            return
        raise ValueError(
            f"{owner}: fresh_state was given without `resets`: it's what states become where those "
            "are true. What a sequence starts from is `initial_state`."
        )
    expected = f"of shape (batch, timesteps) = {(batch_size, timesteps)}"
    # (A RaggedTensor has a shape, and no number of timesteps.)
    if not hasattr(given, "shape") or hasattr(given, "row_lengths"):
        raise ValueError(
            f"{owner}: expected resets that are a tensor or array {expected}, got "
            f"{type(given).__name__}."
        )
    shape = shape_of(given)
    shape = shape[:2] if len(shape) == 3 and shape[2] == 1 else shape
    if not agree(shape, (batch_size, timesteps)):
        raise ValueError(f"{owner}: expected resets {expected}, got {describe(given)}.")


def of_run(given: Any, go_backwards: bool) -> Tensor:
    """Before which timesteps of a run the states of a row are fresh, (B, T) booleans.

    Args:
        given: Where something begins that has nothing to do with what was before it in time:
            (B, T) or (B, T, 1), booleans, or zeros and ones.
        go_backwards: Whether the run is from the last timestep to the first. It comes to what is
            before a beginning from the beginning itself: a timestep earlier.
    """
    flags = to_dtype(ops.squeeze(given, axis=2) if len(given.shape) == 3 else given, "bool")
    return moved(flags, later=False) if go_backwards else flags


def begins_with_zeros(cell: Any) -> bool:
    """Whether a cell's own initial states are known to be zeros."""
    if type(cell) is StackedRNNCells:
        return all(map(begins_with_zeros, cell.cells))
    own = getattr(cell, "get_initial_state", None)
    return own is None or (isinstance(cell, BuiltinCell) and is_ours(own))
