"""What the engines that run programs share: what a cell is given before, and gives after."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from keras import ops, tree

from ostinato.cells.checked import held_masks, holds_masks, like_a_timestep
from ostinato.cells.contract import output_sizes
from ostinato.engines.interface import Answer, Task
from ostinato.programs.compiling import Compiled
from ostinato.structure import leaves, map_leaves
from ostinato.tensors import Tensor, dtype_name, to_dtype


def with_rows(state: Tensor, batch_size: Any) -> Tensor:
    """A state of the batch, where it's of one row that stands for all."""
    shape = tuple(state.shape)
    if shape[0] == 1 and not (isinstance(batch_size, int) and batch_size == 1):
        return ops.broadcast_to(state, (batch_size, *shape[1:]))
    return state


def answer_of(
    task: Task, compiled: Compiled, outputs: Sequence[Tensor], final: Sequence[Tensor]
) -> Answer:
    """A task's answer from what its program gave: the dtypes and containers of the cell's own."""
    is_declared = output_sizes(task.cell) is not None  # then the layer makes room, of its dtype
    made = [
        to_dtype(output, task.context.dtype if is_declared or "float" in own else own)
        for output, own in zip(outputs, compiled.output_dtypes, strict=True)
    ]
    pairs = zip(final, leaves(task.states), strict=False)
    states = tuple(to_dtype(result, dtype_name(state.dtype)) for result, state in pairs)
    like = compiled.traced.outputs_like
    return made[0] if isinstance(like, str) else tree.pack_sequence_as(like, made), states


def with_masks(task: Task) -> AbstractContextManager[None]:
    """Inside, the cell holds masks of the sequence.

    Outside training, too: the random numbers of later calls depend on it.
    """
    if not holds_masks(task.cell):
        return nullcontext()
    return held_masks(task.cell, map_leaves(like_a_timestep, task.xs), task.states)
