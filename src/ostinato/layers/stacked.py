"""StackedRNNCells: several cells as one, each fed by the one below it."""

from typing import Any

import keras
from keras import ops, tree

from ostinato.cells.building import build_cell, initial_states, output_shapes
from ostinato.cells.checks import check_cell, name_of
from ostinato.cells.contract import (
    CellOfCells,
    call_method,
    first_state_size,
    output_and_states,
    state_sizes,
    takes,
)
from ostinato.layers.arguments import start_layer
from ostinato.layers.checks import check_entry
from ostinato.layers.dropout_protocol import MaskHolder
from ostinato.layers.serialization import of_ours
from ostinato.structure import Structure, describe, map_shapes, repack, with_batch
from ostinato.tensors import Tensor, shape_of


@keras.saving.register_keras_serializable(package="ostinato")
class StackedRNNCells(keras.layers.Layer, CellOfCells, MaskHolder):
    """Several cells that behave as one.

    Args:
        cells: List of cells. The inputs go to the first, each one's output to the next, and the
            last one's output is the stack's. Its states are the list of the cells' states.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...

    Raises:
        ValueError: if there are no cells, or one of them is none.
    """

    def __init__(self, cells: Any, **kwargs: Any) -> None:
        start_layer(self, kwargs)
        if not cells or not isinstance(cells, (list, tuple)):
            raise ValueError(
                f"{name_of(self)}: expected a list of at least one cell, got {cells!r}."
            )
        for cell in cells:
            check_cell(name_of(self), cell)
        self.cells = list(cells)

    @property
    def state_size(self) -> list[Any]:
        """The list of the cells' state sizes."""
        return [cell.state_size for cell in self.cells]

    @property
    def output_size(self) -> Any:
        """The last cell's output size; its first state's where it declares none."""
        top = self.cells[-1]
        declared = getattr(top, "output_size", None)
        return first_state_size(top) if declared is None else declared

    def get_initial_state(self, batch_size: Any = None) -> list[Structure]:
        """The list of the cells' initial states, each (B, ...)."""
        return [initial_states(cell, batch_size, self.compute_dtype) for cell in self.cells]

    def build(self, input_shape: Structure) -> None:
        """Builds the cells, bottom to top, for one timestep of inputs (B, ...)."""
        for cell in self.cells:
            build_cell(cell, input_shape, self.compute_dtype)
            input_shape = output_shapes(cell, input_shape)

    def call(
        self, inputs: Structure, states: Any, training: bool = False, **kwargs: Any
    ) -> tuple[Structure, list[Structure]]:
        """Runs one timestep through all cells.

        Args:
            inputs: The first cell's inputs (B, ...).
            states: The list of the cells' states.
            training: Given to the cells that take it.
            **kwargs: Given to the cells that take them: `constants`.

        Returns:
            The last cell's output and the list of the cells' new states.
        """
        if not isinstance(states, (list, tuple)) or len(states) != len(self.cells):
            raise ValueError(
                f"{name_of(self)}: expected states in a list of one entry for each of its "
                f"{len(self.cells)} cells, got {describe(states)}."
            )
        new_states = []
        for cell, state in zip(self.cells, states, strict=True):
            given = {
                name: value
                for name, value in {"training": training, **kwargs}.items()
                if takes(cell, name)
            }
            run = cell if isinstance(cell, keras.layers.Layer) else call_method(cell)
            result = run(inputs, state if tree.is_nested(state) else [state], **given)
            inputs, new = output_and_states(name_of(self), cell, result)
            fitted = repack(state, new)
            new_states.append(new if fitted is None else fitted)
        return inputs, new_states

    # Keras's RNN looks into no stack of ours; it takes this one for a cell with dropout.

    def get_dropout_mask(self, step_input: Structure) -> None:
        """Has the cells draw the masks of their inputs, and hold them until they're reset.

        Args:
            step_input: The inputs of a timestep, (B, ...).
        """
        batch_size = ops.shape(tree.flatten(step_input)[0])[0]
        shape = tree.map_structure(shape_of, step_input)
        for cell in self.cells:
            _call_if_it_has(cell, "get_dropout_mask", step_input)
            shape = output_shapes(cell, shape)
            step_input = map_shapes(lambda s: self._cell_zeros((batch_size, *s[1:])), shape)

    def get_recurrent_dropout_mask(self, step_input: Structure) -> None:
        """The same of the cells' states; `step_input` is a state, (B, ...)."""
        batch_size = ops.shape(tree.flatten(step_input)[0])[0]
        for cell in self.cells:
            for size in tree.flatten(state_sizes(cell))[:1]:
                state = self._cell_zeros(with_batch(size, batch_size))
                _call_if_it_has(cell, "get_recurrent_dropout_mask", state)

    def _cell_zeros(self, shape: tuple[Any, ...]) -> Tensor:
        """What has the shape that a mask should have."""
        return ops.zeros(shape, dtype=self.compute_dtype)

    def reset_dropout_mask(self) -> None:
        """Has the cells forget the masks of their inputs."""
        for cell in self.cells:
            _call_if_it_has(cell, "reset_dropout_mask")

    def reset_recurrent_dropout_mask(self) -> None:
        """Has the cells forget the masks of their states."""
        for cell in self.cells:
            _call_if_it_has(cell, "reset_recurrent_dropout_mask")

    def get_config(self) -> dict[str, Any]:
        """The config, with the cells' configs in its entry `cells`."""
        cells = [keras.saving.serialize_keras_object(cell) for cell in self.cells]
        return {**super().get_config(), "cells": cells}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "StackedRNNCells":
        """Builds the stack from its config or from that of Keras's class."""
        config = dict(config)
        check_entry(cls.__name__, config, "cells")
        cells = [
            keras.saving.deserialize_keras_object(of_ours(cell), custom_objects)
            for cell in config.pop("cells")
        ]
        return cls(cells, **config)


def _call_if_it_has(cell: Any, name: str, *arguments: Any) -> None:
    """Calls a method of a cell that draws masks; a name that the user gave to a value is none."""
    method = getattr(cell, name, None)
    if callable(method):
        method(*arguments)
