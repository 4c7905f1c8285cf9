"""The door to PyTorch: the loop is Python's."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch

from ostinato.doors.torch_native import fused, native_why_not

__all__ = [
    "HOISTS_PROJECTION",
    "affine",
    "blend",
    "fused",
    "lean",
    "loop",
    "multiply_add",
    "native_why_not",
]

Tensors = tuple[Any, ...]

# One product for all timesteps saves T calls forward, and 2 T backward.
HOISTS_PROJECTION = True

# Keras's function adds conversions and dtype checks, about 6 us an op; in an eager loop that's a
# third of the time (LSTM B64 T28 U64 forward: 3.5 ms with keras.ops, 1.9 ms with torch's).
_LEAN: dict[Any, Callable[..., Any]] = {
    keras.ops.convert_to_tensor: lambda variable, dtype: variable.value.to(getattr(torch, dtype)),
    keras.activations.sigmoid: torch.sigmoid,
    keras.activations.tanh: torch.tanh,
    keras.activations.relu: torch.relu,
    keras.activations.linear: lambda x: x,
    keras.ops.split: lambda x, parts, axis: torch.chunk(x, parts, axis),
    keras.ops.where: torch.where,
}


def loop(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
    carry: Tensors,
    xs: Tensors,
    like: Tensors,
    *,
    unroll: bool,
    variables: Sequence[keras.Variable] = (),
) -> tuple[Tensors, Tensors]:
    """Runs `step` over time; see `ostinato.doors`. Variables are updated in place."""
    collected: list[Tensors] = []
    # unbind, not x[t]: its backward is one stack, where T selects each fill a (T, ...) gradient
    for x in zip(*(x.unbind(0) for x in xs), strict=True):
        carry, ys = step(carry, x)
        collected.append(ys)
    if not collected:
        return carry, tuple(y.new_empty((0, *y.shape)) for y in like)
    return carry, tuple(torch.stack(ys) for ys in zip(*collected, strict=True))


def affine(x: Any, kernel: Any, bias: Any | None) -> Any:
    """`x kernel + bias`, on the last axis of x.

    For all timesteps at once in one call, as a tensor for the product alone costs page faults; at
    one timestep apart, as addmm is slower on small tensors (LSTM B32 T100 D64 U128 forward, on 2
    cores: 7.0 ms so, 8.1 with addmm at each timestep).
    """
    if bias is None:
        return torch.matmul(x, kernel)
    if x.dim() == 2:
        return torch.mm(x, kernel) + bias
    rows = torch.addmm(bias, x.reshape(-1, x.shape[-1]), kernel)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def blend(weight: Any, first: Any, second: Any) -> Any:
    """`weight first + (1 - weight) second`, in one operation where four take 2 us each."""
    return torch.lerp(second, first, weight)


def multiply_add(first: Any, second: Any, addend: Any) -> Any:
    """`first second + addend`, in one operation."""
    return torch.addcmul(addend, first, second)


def lean(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's own function for one of Keras's, or the function itself."""
    return _LEAN.get(function, function)
