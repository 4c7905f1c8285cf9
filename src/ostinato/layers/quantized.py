"""Cells with weights in int8: what they keep, and what they refuse."""

from typing import Any

from ostinato.cells.builtin import is_int8
from ostinato.cells.checks import name_of

# The name of Keras's dtype policy: weights in int8, all else in float32.
INT8 = "int8_from_float32"


def add_int8_weights(
    cell: Any, kernel: tuple[int | None, ...], recurrent: tuple[int | None, ...]
) -> None:
    """Creates both kernels of these shapes as whole numbers, each with its columns' scales."""
    for name, shape in (("kernel", kernel), ("recurrent_kernel", recurrent)):
        whole = cell.add_weight(
            shape=shape, name=name, dtype="int8", initializer="zeros", trainable=False
        )
        scale = cell.add_weight(
            shape=shape[-1:], name=f"{name}_scale", initializer="ones", trainable=False
        )
        setattr(cell, name, whole)
        setattr(cell, f"{name}_scale", scale)


def refuse_training(owner: str, *cells: Any) -> None:
    """Refuses a call for training.

    Raises:
        ValueError: if the weights of one of the cells are in int8.
    """
    if any(map(is_int8, cells)):
        raise ValueError(
            f"{owner}: its weights are in int8, for inference: it can't be trained, nor called "
            "with `training=True`. Train the model that was quantized, and quantize it again."
        )


def why_not_in_place(cell: Any, mode: Any) -> str:
    """Why Keras's `quantize` leaves a cell as it is."""
    if mode == "int8":
        return (
            f"{name_of(cell)}: Keras's `quantize` would change its weights in place, which a layer "
            "can't by Keras's public means; it stays as it is. `ostinato.quantize(model)` gives a "
            "model whose recurrent layers are in int8."
        )
    return (
        f"{name_of(cell)}: expected the mode 'int8', in `ostinato.quantize(model)`, got {mode!r}; "
        "it stays as it is."
    )
