"""What is made of a cell before its first timestep: its layers, its output's shape, its states."""

from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from ostinato.cells.builtin import BuiltinCell, is_ours
from ostinato.cells.checks import name_of, read_states
from ostinato.cells.contract import (
    first_state_size,
    needs_constants,
    output_and_states,
    output_sizes,
    own_initial_states,
    state_sizes,
)
from ostinato.nests import leaf_paths
from ostinato.structure import Structure, describe, flat_shapes, map_shapes, repack, with_batch
from ostinato.tensors import float_or_own, shape_of, to_dtype


def initial_states(cell: Any, batch_size: Any, dtype: str) -> Structure:
    """The states that a cell starts from: its own `get_initial_state`, or zeros.

    Args:
        cell: The cell.
        batch_size: B, an int or a scalar tensor.
        dtype: The dtype of the zeros, where the cell has no compute dtype of its own.

    Returns:
        Tensors (B, ...) in the containers of the cell's `state_size`, a single one in a list.
    """
    if isinstance(cell, BuiltinCell) and is_ours(cell.get_initial_state):
        states: list[Any] = cell.get_initial_state(batch_size)  # zeros that need no check
        return states
    own = getattr(cell, "get_initial_state", None)
    if own is None:
        dtype = getattr(cell, "compute_dtype", dtype)
        return tree.map_structure(
            lambda size: ops.zeros((batch_size, *size), dtype=dtype), state_sizes(cell)
        )
    given = own_initial_states(cell, batch_size, dtype)
    expected = state_sizes(cell, given)
    fitted = repack(expected, given)
    if fitted is not None:
        dtype = getattr(cell, "compute_dtype", dtype)
        given = tree.map_structure(lambda state: _for_all_rows(state, batch_size, dtype), fitted)
    known = batch_size if isinstance(batch_size, int) else None
    return read_states(name_of(cell), "get_initial_state", given, expected, known)


def _for_all_rows(state: Any, batch_size: Any, dtype: str) -> Any:
    """A cell's own initial state as a tensor; a single row stands for every row."""
    if isinstance(state, np.ndarray):
        state = ops.convert_to_tensor(state)
        state = to_dtype(state, float_or_own(state, dtype))
    shape = tuple(getattr(state, "shape", ()))
    if len(shape) == 0 or shape[0] != 1 or (isinstance(batch_size, int) and batch_size == 1):
        return state
    return ops.copy(ops.broadcast_to(state, (batch_size, *shape[1:])))  # PyTorch gives a view


def build_cell(cell: Any, input_shape: Structure, dtype: str) -> None:
    """Builds a cell, if it's a layer and not built yet, for one timestep's inputs (B, ...)."""
    if not isinstance(cell, keras.layers.Layer) or cell.built:
        return
    if type(cell).build is keras.layers.Layer.build and _has_unbuilt_layers(cell):
        if needs_constants(cell):
            raise ValueError(
                f"{name_of(cell)}: expected a `build` that builds its layers; they can't be built "
                "by a symbolic run, since its `call` needs constants."
            )
        # No build of its own: a symbolic run builds the layers that its call uses. In the loop
        # it would be too late, since JAX can't create variables inside a scan.
        traced_output(cell, input_shape)
    cell.build(input_shape)
    cell.built = True


def _has_unbuilt_layers(cell: Any) -> bool:
    held = [
        item
        for value in vars(cell).values()
        for item in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return any(isinstance(item, keras.layers.Layer) and not item.built for item in held)


def traced_output(cell: Any, input_shape: Structure) -> Structure:
    """A cell's output of one symbolic timestep, from a symbolic run."""
    dtype = cell.compute_dtype
    shapes, _ = flat_shapes(input_shape)
    batch_size = shapes[0][0]
    inputs = map_shapes(lambda shape: keras.KerasTensor(shape, dtype=dtype), input_shape)
    states = tree.map_structure(
        lambda size: keras.KerasTensor(with_batch(size, batch_size), dtype=dtype), state_sizes(cell)
    )
    run: Any = _InItsDtype(cell)
    return run(inputs, states)


def _output_of_call(cell: Any, inputs: Structure, states: Structure) -> Structure:
    """The output that a cell's `call` gives of symbols; refuses what's no tensor, before Keras."""
    result = keras.layers.Layer.compute_output_spec(cell, inputs, states)
    output, _ = output_and_states(name_of(cell), cell, result)
    for path, leaf in zip(leaf_paths(output), tree.flatten(output), strict=True):
        if not getattr(leaf, "shape", ()):
            raise ValueError(
                f"{name_of(cell)}: expected `call` to return output{path} of shape (batch, ...), "
                f"got {describe(leaf)}."
            )
    return output


class _InItsDtype(keras.layers.Layer):
    """A symbolic run of a cell that reads variables in its own dtype, whatever layer is around it.

    In which dtype variables are read only the `__call__` of a layer says.
    """

    def __init__(self, cell: Any) -> None:
        super().__init__(name=cell.name, dtype=cell.dtype_policy, autocast=cell.autocast)
        self._of_cell = partial(_output_of_call, cell)
        self.built = True

    def call(self, inputs: Structure, states: Structure) -> Any:
        """The same; it's only called on symbols, though."""
        return self.compute_output_spec(inputs, states)

    def compute_output_spec(self, inputs: Structure, states: Structure) -> Any:
        """The cell's output."""
        return self._of_cell(inputs, states)


def output_shapes(cell: Any, input_shape: Structure) -> Structure:
    """The shapes (B, ...) of a cell's outputs of one timestep, in their containers.

    A cell without an `output_size` puts out what a symbolic run shows, if it's a layer, and else
    something like its first state.
    """
    shapes, _ = flat_shapes(input_shape)
    batch_size = shapes[0][0]
    declared = output_sizes(cell)
    is_built = isinstance(cell, keras.layers.Layer) and cell.built
    if declared is None and is_built and not needs_constants(cell):
        return tree.map_structure(shape_of, traced_output(cell, input_shape))
    if declared is None:
        declared = first_state_size(cell)
    return tree.map_structure(lambda size: (batch_size, *size), declared)
