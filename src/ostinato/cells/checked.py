"""Any cell as a step on flat tuples of tensors, with checks of what it returns."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops, tree

from ostinato.cells.building import output_shapes
from ostinato.cells.checks import name_of
from ostinato.cells.contract import call_method, output_and_states, output_sizes, takes
from ostinato.doors.losses import NothingKept
from ostinato.nests import leaf_paths
from ostinato.structure import Structure, describe, map_shapes, repack
from ostinato.tensors import (
    Stepped,
    Tensor,
    Tensors,
    agree,
    cast_floats,
    dtype_name,
    loses_fractions,
    shape_of,
)


class CheckedCell:
    """A cell that is called by its contract, `call(inputs, states) -> (output, new_states)`.

    Args:
        cell: The cell, built.
        states: Its initial states, in the containers of its `state_size`.
        owner: The layer, for errors.
        dtype: What its outputs are cast to.
        training: Given to a cell that takes it.
        constants: Given to the cell, where there are any.
    """

    def __init__(
        self,
        cell: Any,
        states: Structure,
        *,
        owner: str,
        dtype: str,
        training: bool,
        constants: list[Any] | None,
    ) -> None:
        self._cell, self._states = cell, states
        self._owner, self._dtype = owner, dtype
        self._keywords: dict[str, Any] = {}
        if takes(cell, "training"):
            self._keywords["training"] = training
        if constants is not None:
            self._keywords["constants"] = constants
        self._call = cell if isinstance(cell, keras.layers.Layer) else call_method(cell)

    def outputs_like(self, xs: Structure) -> Structure:
        """Zeros like one timestep's outputs; a cell that doesn't declare its size is run once."""
        declared = output_sizes(self._cell)
        if declared is None:
            first = tree.map_structure(_a_timestep, xs)
            with NothingKept():
                output, _ = self._pair(self._call(first, self._states, **self._keywords))
            self._check_tensors("output", output)
            return tree.map_structure(ops.zeros_like, cast_floats(output, self._dtype))
        batch_size = ops.shape(tree.flatten(xs)[0])[1]
        return tree.map_structure(
            lambda size: ops.zeros((batch_size, *size), dtype=self._dtype), declared
        )

    def flat_step(self, xs: Structure, outputs: Structure) -> Any:
        """The cell as a step on flat tuples. Its first run checks what the cell returns."""
        checked, like = False, tree.flatten(outputs)

        def step(x: Tensors, states: Tensors) -> Stepped:
            nonlocal checked
            packed = tree.pack_sequence_as(xs, x), tree.pack_sequence_as(self._states, states)
            output, new = self._pair(self._call(*packed, **self._keywords))
            flat_output = self._fit("output", "output_size", outputs, output, checked)
            flat_new = self._fit("new state", "state_size", self._states, new, checked)
            if not checked:
                self._check_whole(flat_new)
            checked = True
            return _cast_like(flat_output, like), _cast_like(flat_new, states)

        return step

    def _pair(self, result: Any) -> tuple[Any, Any]:
        return output_and_states(self._owner, self._cell, result)

    def _fit(
        self, what: str, attribute: str, like: Structure, value: Structure, checked: bool
    ) -> list[Any]:
        """The leaves of what the cell returned, in the order of the declared structure."""
        fitted = repack(like, value)
        if fitted is None:
            raise ValueError(
                f"{self._owner}: {name_of(self._cell)} returned {what}s {describe(value)}, which "
                f"don't match its {attribute} {describe(like)}."
            )
        flat: list[Any] = tree.flatten(fitted)
        if not checked:
            self._check_tensors(what, fitted)
            for path, leaf, wanted in zip(leaf_paths(like), flat, tree.flatten(like), strict=True):
                if not agree(shape_of(leaf), shape_of(wanted)):
                    raise ValueError(
                        f"{self._owner}: {name_of(self._cell)} returned {what}{path} of shape "
                        f"{tuple(leaf.shape)}, but its {attribute} says {tuple(wanted.shape)}."
                    )
        return flat

    def _check_whole(self, new: list[Any]) -> None:
        """Refuses floats for the new states of whole numbers, which would lose their fractions."""
        states = zip(leaf_paths(self._states), tree.flatten(self._states), new, strict=True)
        for path, old, state in states:
            if loses_fractions(state.dtype, old.dtype):
                raise ValueError(
                    f"{self._owner}: {name_of(self._cell)} returned new state{path} of "
                    f"{dtype_name(state.dtype)}, but its initial state is of "
                    f"{dtype_name(old.dtype)}, as states stay: begin with floats."
                )

    def _check_tensors(self, what: str, value: Structure) -> None:
        for path, leaf in zip(leaf_paths(value), tree.flatten(value), strict=True):
            if not hasattr(leaf, "shape"):
                raise ValueError(
                    f"{self._owner}: expected {name_of(self._cell)} to return {what}{path} as a "
                    f"tensor, got {describe(leaf)}."
                )


def _cast_like(values: Iterable[Tensor], like: Iterable[Tensor]) -> Tensors:
    return tuple(ops.cast(value, old.dtype) for value, old in zip(values, like, strict=True))


def _a_timestep(x: Tensor) -> Tensor:
    """A timestep like those of inputs (T, B, ...): the first, or zeros where there may be none."""
    return ops.zeros(ops.shape(x)[1:], dtype=x.dtype) if x.shape[0] in (None, 0) else x[0]


def like_a_timestep(x: Tensor) -> Tensor:
    """Zeros of the shape of a timestep of inputs (B, T, ...), of which there may be none."""
    return ops.zeros((ops.shape(x)[0], *x.shape[2:]), dtype=x.dtype)


def draw_foreign_masks(cell: Any, inputs: Structure, states: Structure) -> None:
    """Lets a cell that mixes in Keras's dropout draw its masks afresh, outside the loop.

    So do those of a stack of Keras's, each for inputs like the outputs of the one below.

    Args:
        cell: The cell; another than such a one is left as it is.
        inputs: A timestep's inputs, each (B, ...).
        states: Its states, each (B, ...).
    """
    forget_foreign_masks(cell)
    if _has_masks(cell):
        cell.get_dropout_mask(inputs)
        cell.get_recurrent_dropout_mask(tree.flatten(states)[0])
    if stacked := _stacked_by_keras(cell):
        for inner, own in zip(stacked, states, strict=True):
            draw_foreign_masks(inner, inputs, own)
            inputs = _like_outputs(inner, inputs)


def _like_outputs(cell: Any, inputs: Structure) -> Structure:
    """What has the shapes of a cell's outputs, and the dtype in which it makes them."""
    rows = ops.shape(tree.flatten(inputs)[0])[0]
    dtype = getattr(cell, "compute_dtype", tree.flatten(inputs)[0].dtype)
    shapes = output_shapes(cell, tree.map_structure(shape_of, inputs))
    return map_shapes(lambda shape: ops.zeros((rows, *shape[1:]), dtype), shapes)


@contextmanager
def held_masks(cell: Any, inputs: Structure, states: Structure) -> Iterator[None]:
    """While inside, a cell that mixes in Keras's dropout holds masks that are drawn afresh."""
    draw_foreign_masks(cell, inputs, states)
    try:
        yield
    finally:
        forget_foreign_masks(cell)


def holds_masks(cell: Any) -> bool:
    """Whether a cell, or one in a stack of Keras's, holds dropout masks for a whole sequence."""
    return _has_masks(cell) or any(map(holds_masks, _stacked_by_keras(cell)))


def _has_masks(cell: Any) -> bool:
    """Whether a cell has the methods by which Keras's RNN gets one dropout mask a sequence."""
    methods = ("get_dropout_mask", "reset_dropout_mask")
    return all(callable(getattr(cell, name, None)) for name in methods)


def _stacked_by_keras(cell: Any) -> Sequence[Any]:
    """The cells of a stack of Keras's, which has no such methods: Keras's RNN looks into it."""
    for base in type(cell).__mro__:
        if base.__name__ == "StackedRNNCells" and base.__module__.partition(".")[0] == "keras":
            stacked: list[Any] = cell.cells
            return stacked
    return ()


def forget_foreign_masks(cell: Any) -> None:
    """Makes such a cell drop the masks that it keeps; another is left as it is."""
    if _has_masks(cell):
        cell.reset_dropout_mask()
        cell.reset_recurrent_dropout_mask()
    for inner in _stacked_by_keras(cell):
        forget_foreign_masks(inner)
