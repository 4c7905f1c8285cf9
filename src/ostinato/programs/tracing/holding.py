"""Dropout masks that a cell holds for a whole sequence: constants of it, drawn before its loop.

Where a cell keeps them is its own affair. It is made to draw some, and what it holds more than
before are masks. For a call it draws its own, and they are read from the same places.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
from keras import ops

from ostinato.cells.checked import held_masks, holds_masks
from ostinato.doors import door
from ostinato.programs.tracing.members import Members
from ostinato.programs.tracing.run import Signature
from ostinato.structure import Structure, map_leaves

_ROWS = 3  # of the masks that are drawn to see what they're like


@contextmanager
def holding_masks(cell: Any, signature: Signature) -> Iterator[frozenset[int]]:
    """While inside, a cell that is trained holds its masks; gives the ids of those with rows."""
    if not (signature.training and holds_masks(cell)):
        yield frozenset()
        return

    def ones(nest: Structure) -> Structure:
        return map_leaves(lambda at: ops.ones((_ROWS, *at.shape), dtype=at.dtype), nest)

    seeds = cell.non_trainable_variables if isinstance(cell, keras.layers.Layer) else ()
    before = set(Members(cell).values)
    with ExitStack() as stack:
        with door.at_once():
            zeros = [(seed, ops.zeros(tuple(seed.shape), dtype=seed.dtype)) for seed in seeds]
            with keras.StatelessScope(state_mapping=zeros):
                masks = held_masks(cell, ones(signature.xs), ones(signature.states))
                stack.enter_context(masks)
        found = Members(cell).values.items()
        drawn = {key: member.thing for key, member in found if key not in before}
        yield frozenset(key for key, thing in drawn.items() if tuple(thing.shape)[:1] == (_ROWS,))
