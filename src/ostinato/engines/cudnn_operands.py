"""Inputs and weights as cuDNN has them, from a cell's own, by moving data alone.

- Gates: GRU's come as reset, update, candidate, where Keras has update, reset, candidate; LSTM's
  order is the same. The update gate means the same in both: `h' = z h + (1 - z) candidate`.
- Every kernel is transposed, and has two biases, one added to each product.
- Dropout: inputs multiplied by a mask; where each gate has its own, one copy of the inputs a gate,
  side by side, with a kernel that is zero off its gate.
- Two directions in one call see the same features: where theirs differ they lie side by side, and
  each direction's kernel is zero on the other's.
- Timesteps to be passed over: one more feature, 1 there, whose weights shut or open the gates so
  that the state stays as it is.

All parameters lie in one tensor, in the order of cuDNN's own buffer: so it needn't be copied.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keras import ops

from ostinato.cudnn import GATES, CudnnSpec
from ostinato.doors import door
from ostinato.tensors import Tensor, Tensors, dtype_name

# sigmoid(+-BIG) is 1 or 0 exactly, in half precision, too, whatever else is added.
BIG = 1e4
# What the feature of timesteps to be passed over adds to the gates, in Keras's order. GRU: update
# 1. LSTM: input 0, forget 1, so the carry stays; the output, still o tanh(c), stays only at 0.
_HELD = {"lstm": (-1, 1, 0, 0), "gru": (1, 0, 0)}
_ORDER = {"gru": (1, 0, 2)}


class Weights(NamedTuple):
    """A cell's weights as Keras has them: (D, G U), (U, G U), and (G U,) or GRU's (2, 3 U)."""

    kernel: Tensor
    recurrent: Tensor
    bias: Tensor | None


class Direction(NamedTuple):
    """What one direction reads: its inputs (B, T, D), masks of them (B, D), and weights."""

    x: Tensor
    masks: Tensors
    weights: Weights


def operands(
    mode: str, directions: Sequence[Direction], passed_over: Tensor | None
) -> tuple[CudnnSpec, Tensor, Tensor]:
    """The call, its inputs (B, T, features), and all parameters in one tensor.

    Args:
        mode: Of `ostinato.cudnn`.
        directions: One or two, over the same timesteps and of as many units.
        passed_over: (B, T) booleans, the timesteps at which states stay; or None.
    """
    x, kernels = _side_by_side(directions)
    recurrent = directions[0].weights.recurrent
    units = recurrent.shape[0]
    if passed_over is not None:
        x = ops.concatenate([x, ops.cast(ops.expand_dims(passed_over, -1), x.dtype)], axis=-1)
        row = ops.expand_dims(_held_row(mode, units, recurrent), 0)
        kernels = [ops.concatenate([kernel, row], axis=0) for kernel in kernels]
    matrices, biases = [], []
    for kernel, (*_, weights) in zip(kernels, directions, strict=True):
        matrices += [_transposed(mode, each) for each in (kernel, weights.recurrent)]
        biases.append(_both_biases(mode, weights))
    parameters = ops.concatenate(matrices + biases, axis=0)
    return CudnnSpec(mode, len(directions), x.shape[-1], units), x, parameters


def _side_by_side(directions: Sequence[Direction]) -> tuple[Tensor, list[Tensor]]:
    """The features of all directions, and the kernel of each on all of them."""
    x = directions[0].x
    if not any(direction.masks or direction.x is not x for direction in directions):
        return x, [direction.weights.kernel for direction in directions]
    own = [_masked(direction) for direction in directions]
    rows = [kernel.shape[0] for _, kernel in own]
    kernels = [
        _between(kernel, sum(rows[:place]), sum(rows[place + 1 :]), axis=0)
        for place, (_, kernel) in enumerate(own)
    ]
    return ops.concatenate([inputs for inputs, _ in own], axis=-1), kernels


def _masked(direction: Direction) -> tuple[Tensor, Tensor]:
    """A direction's inputs, masked, and its kernel on them."""
    x, masks, (kernel, *_) = direction
    if not masks:
        return x, kernel
    inputs = [x * ops.expand_dims(mask, 1) for mask in masks]
    if len(masks) == 1:
        return inputs[0], kernel
    parts, units = ops.split(kernel, len(masks), axis=-1), kernel.shape[-1] // len(masks)
    last = len(masks) - 1
    blocks = [
        _between(part, gate * units, (last - gate) * units, axis=1)
        for gate, part in enumerate(parts)
    ]
    return ops.concatenate(inputs, axis=-1), ops.concatenate(blocks, axis=0)


def _between(kernel: Tensor, before: int, after: int, axis: int) -> Tensor:
    """A kernel with so many rows or columns of zeros before and after it."""
    shape, parts = list(kernel.shape), [kernel]
    for size, place in ((before, 0), (after, len(parts) + 1)):
        if size:
            shape[axis] = size
            parts.insert(place, door.zeros(tuple(shape), dtype_name(kernel.dtype), kernel))
    return ops.concatenate(parts, axis=axis) if len(parts) > 1 else kernel


def _held_row(mode: str, units: int, like: Tensor) -> Tensor:
    """The weights (G U,) of the feature of timesteps to be passed over."""
    zeros = door.zeros((units,), dtype_name(like.dtype), like)
    return ops.concatenate([zeros + BIG * sign for sign in _HELD[mode]], axis=-1)


def _ordered(mode: str, tensor: Tensor) -> Tensor:
    """The gates on the last axis, from Keras's order to cuDNN's."""
    if mode not in _ORDER:
        return tensor
    parts = ops.split(tensor, GATES[mode], axis=-1)
    return ops.concatenate([parts[place] for place in _ORDER[mode]], axis=-1)


def _transposed(mode: str, kernel: Tensor) -> Tensor:
    """A kernel (rows, G U) as (G U rows,), transposed."""
    return ops.reshape(ops.transpose(_ordered(mode, kernel)), (-1,))


def _both_biases(mode: str, weights: Weights) -> Tensor:
    """The biases (2 G U,) of the inputs' product and of the state's; zeros where there are none."""
    recurrent, bias = weights.recurrent, weights.bias
    if bias is None:
        return door.zeros((2 * recurrent.shape[-1],), dtype_name(recurrent.dtype), recurrent)
    if len(bias.shape) == 1:
        return ops.concatenate([_ordered(mode, bias), ops.zeros_like(bias)], axis=0)
    return ops.reshape(_ordered(mode, bias), (-1,))
