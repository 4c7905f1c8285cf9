"""What is asked of single tensors all over the package: their dtypes and their sizes."""

from typing import Any

import keras
from keras import ops

from ostinato.doors import remembered
from ostinato.structure import Structure, map_leaves

Tensor = Any
Tensors = tuple[Any, ...]
# What a step gives: an output or several, and the new states. (By names: torch.compile runs a
# function's annotations where it's made, within a trace, and doesn't know `tuple[...]`.)
Stepped = tuple[Tensors, Tensors]
CellStepped = tuple[Tensor, Any]
Dimensions = tuple[int | None, ...]


def shape_of(tensor: Any) -> Dimensions:
    """A tensor's static shape; None for an unknown dimension."""
    return tuple(tensor.shape)


def has_axes(item: Any) -> bool:
    """Whether something is a tensor with a known number of axes; TensorFlow's may not tell it."""
    shape = getattr(item, "shape", None)
    return shape is not None and getattr(shape, "rank", 0) is not None


def size_of(tensor: Tensor, axis: int) -> Any:
    """The size of an axis, an int where it's known."""
    known = tensor.shape[axis]
    return ops.shape(tensor)[axis] if known is None else known


def agree(shape: Dimensions, expected: Dimensions) -> bool:
    """Whether two shapes may be the same, given that unknown dimensions fit any."""
    return len(shape) == len(expected) and all(
        a is None or b is None or a == b for a, b in zip(shape, expected, strict=True)
    )


@remembered
def dtype_name(dtype: Any) -> str:
    """The name of a framework's dtype; Keras takes 2 us to find it, and a call asks for a dozen."""
    name: str = keras.backend.standardize_dtype(dtype)
    return name


def float_or_own(tensor: Tensor, dtype: str) -> str:
    """A dtype for tensors of floats, and a tensor's own for one of ints or booleans."""
    own = dtype_name(tensor.dtype)
    return dtype if "float" in own else own


def loses_fractions(dtype: Any, as_dtype: Any) -> bool:
    """Whether floats of one dtype would lose their fractions in another, of whole numbers."""
    return "float" in dtype_name(dtype) and dtype_name(as_dtype).startswith(("int", "uint"))


def to_dtype(tensor: Tensor, dtype: str) -> Tensor:
    """A tensor in a dtype; in no time where it has it (ops.cast takes 5 us on PyTorch)."""
    if not ops.is_tensor(tensor):
        tensor = ops.convert_to_tensor(tensor)
    return tensor if dtype_name(tensor.dtype) == dtype else ops.cast(tensor, dtype)


def cast_floats(structure: Structure, dtype: str) -> Structure:
    """A structure of tensors with those of floats in a dtype."""

    def cast(tensor: Tensor) -> Tensor:
        tensor = tensor if ops.is_tensor(tensor) else ops.convert_to_tensor(tensor)
        own = dtype_name(tensor.dtype)
        return ops.cast(tensor, dtype) if own != dtype and "float" in own else tensor

    return map_leaves(cast, structure)


def dequantized(whole: Tensor, scales: Tensor) -> Tensor:
    """A kernel (depth, columns) of int8 as floats, given its columns' scales."""
    return ops.cast(whole, scales.dtype) * scales
