"""Where rows begin anew inside a sequence: what a call's `resets` says, read for a run."""

from typing import Any

from keras import ops

from ostinato.cells.builtin import BuiltinCell, is_ours
from ostinato.engines.interface import Resets
from ostinato.engines.loop import chosen, moved
from ostinato.layers.stacked import StackedRNNCells
from ostinato.structure import Structure, describe, leaves
from ostinato.tensors import Tensors, agree, shape_of, to_dtype


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


def of_run(given: Any, go_backwards: bool, stateful: bool) -> Resets:
    """Where a run's rows begin anew, without the fresh states.

    Args:
        given: Where something begins that has nothing to do with what was before it in time:
            (B, T) or (B, T, 1), booleans, or zeros and ones.
        go_backwards: Whether the run is from the last timestep to the first. It comes to what is
            before a beginning from the beginning itself: a timestep earlier; and to what is before
            the first timestep after the run.
        stateful: Whether anything goes on from there.
    """
    flags = to_dtype(ops.squeeze(given, axis=2) if len(given.shape) == 3 else given, "bool")
    if not go_backwards:
        return Resets(flags)
    after = ops.any(flags[:, :1], axis=1) if stateful else None
    return Resets(moved(flags, later=False), after=after)


def to_keep(states: Structure, resets: Resets | None) -> Tensors:
    """What a stateful layer keeps of the final states of a run, each (B, ...), flat."""
    final = tuple(leaves(states))
    if resets is None or resets.after is None:
        return final
    fresh = map(ops.zeros_like, final) if resets.fresh is None else leaves(resets.fresh)
    return chosen(resets.after, tuple(fresh), final)


def begins_with_zeros(cell: Any) -> bool:
    """Whether a cell's own initial states are known to be zeros."""
    if type(cell) is StackedRNNCells:
        return all(map(begins_with_zeros, cell.cells))
    own = getattr(cell, "get_initial_state", None)
    return own is None or (isinstance(cell, BuiltinCell) and is_ours(own))
