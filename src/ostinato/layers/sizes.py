"""Sizes that are unknown while tracing, checked while running.

A tensor with a batch or a length of its own would otherwise be spread (broadcast) over those of the
inputs, or cut, without a word: a last batch of one row, a mask of another sequence.
"""

from typing import Any

import keras
from keras import tree

from ostinato.cells.checks import read_states
from ostinato.cells.contract import state_sizes
from ostinato.doors import door
from ostinato.engines.interface import Resets, Task
from ostinato.layers.folding import known_lead, lead_of
from ostinato.layers.masks import check_masks
from ostinato.nests import leaf_paths
from ostinato.structure import Structure, describe, leaves, pack_like, with_batch
from ostinato.tensors import shape_of, size_of


def checked_while_running(
    task: Task, kept: int | None, given_states: bool, given_fresh: bool = False
) -> Task:
    """A task whose tensors have the batch size and the length of its inputs, or are refused.

    Args:
        task: The task; what's known of its sizes agrees already.
        kept: The batch size of the states that the layer keeps, if it does.
        given_states: Whether its states are the user's, and not made for the inputs.
        given_fresh: The same of the fresh states of its resets.
    """
    if door.sizes_are_known():
        return task
    xs = leaves(task.xs)
    sizes = [shape_of(x)[:2] for x in xs]
    batch_size = _known([kept, *(size[0] for size in sizes)], xs[0], 0)
    timesteps = _known([size[1] for size in sizes], xs[0], 1)
    checks = _Checks(task.context.owner, batch_size, timesteps)
    return task._replace(
        xs=checks.inputs(task.xs, kept),
        states=(
            checks.states(state_sizes(task.cell), task.states, "initial_state")
            if given_states
            else task.states
        ),
        resets=task.resets if task.resets is None else checks.resets(task, given_fresh),
        mask=task.mask if task.mask is None else checks.mask(task.mask),
        context=task.context._replace(constants=checks.constants(task.context.constants)),
    )


def fitting(
    owner: str, sequences: Structure, mask: Structure, states: Structure, sizes: Structure
) -> tuple[Structure, Structure]:
    """A mask and initial states that fit the inputs of a layer that isn't ours, or are refused.

    Args:
        owner: The layer, for errors.
        sequences: Its inputs, each (B, T, ...).
        mask: A nest of masks, or None.
        states: The states, or None.
        sizes: What they are, a structure of `Shape`s; None where the layer doesn't tell.
    """
    batch_size, timesteps = known_lead(sequences)
    check_masks(owner, mask, batch_size, timesteps)
    states = None if sizes is None else states
    if states is not None:
        read_states(owner, "initial_state", states, sizes, batch_size)
    if isinstance(leaves(sequences)[0], keras.KerasTensor) or door.sizes_are_known():
        return mask, states
    checks = _Checks(owner, *lead_of(sequences))
    return (
        tree.map_structure(lambda m: None if m is None else checks.mask(m), mask),
        None if states is None else checks.states(sizes, states, "initial_state"),
    )


def _known(sizes: list[int | None], tensor: Any, axis: int) -> Any:
    """The first size that's known; else that of a tensor's axis, as a scalar tensor."""
    known = next((size for size in sizes if size is not None), None)
    return size_of(tensor, axis) if known is None else known


class _Checks:
    """What a layer expects of each tensor, of inputs (B, T, ...)."""

    def __init__(self, owner: str, batch_size: Any, timesteps: Any) -> None:
        self._owner = owner
        self._batch_size, self._timesteps = batch_size, timesteps

    def inputs(self, xs: Structure, kept: int | None) -> Structure:
        flat, paths = leaves(xs), leaf_paths(xs)
        own = (kept or shape_of(flat[0])[0], shape_of(flat[0])[1])
        sizes = [own, *[(self._batch_size, self._timesteps)] * (len(flat) - 1)]
        why = "the same batch size and number of timesteps as the other inputs"
        if kept is not None:
            why = (
                f"the batch size of its states, {kept}: if an RNN is stateful, the batch size of "
                "the inputs must be that of its states, also in the last batch"
            )
        elif len(flat) == 1:
            why = f"the batch size and the number of timesteps that the model was made for, {own}"
        checked = [
            self._sized(x, size, f"input{path} with {why}")
            for path, x, size in zip(paths, flat, sizes, strict=True)
        ]
        return pack_like(xs, checked)

    def states(self, sizes: Structure, given: Structure, name: str) -> Structure:
        checked = [
            self._sized(
                state,
                with_batch(size, self._batch_size),
                f"{name}{path} of shape {describe(size)}",
            )
            for path, state, size in zip(
                leaf_paths(given), leaves(given), leaves(sizes), strict=True
            )
        ]
        return pack_like(given, checked)

    def resets(self, task: Task, given_fresh: bool) -> Resets:
        assert task.resets is not None
        flags, fresh, _ = task.resets
        sizes = (self._batch_size, self._timesteps)
        expected = "resets of shape (batch, timesteps), those of the inputs"
        return task.resets._replace(
            flags=self._sized(flags, sizes, expected),
            fresh=(
                self.states(state_sizes(task.cell), fresh, "fresh_state") if given_fresh else fresh
            ),
        )

    def mask(self, mask: Any) -> Any:
        sizes = (self._batch_size, self._timesteps)
        return self._sized(mask, sizes, "a mask of shape (batch, timesteps), those of the inputs")

    def constants(self, constants: list[Any] | None) -> list[Any] | None:
        if constants is None:
            return None
        checked = [
            # One of another number of rows has no batch axis; one row would be spread.
            self._sized(
                c, (self._batch_size,), f"constants{path} with the batch size of the inputs"
            )
            if len(c.shape) > 1 and c.shape[0] in (None, 1)
            else c
            for path, c in zip(leaf_paths(constants), leaves(constants), strict=True)
        ]
        packed: list[Any] = pack_like(constants, checked)
        return packed

    def _sized(self, tensor: Any, sizes: tuple[Any, ...], expected: str) -> Any:
        return door.sized(tensor, sizes, f"{self._owner}: expected {expected}.")
