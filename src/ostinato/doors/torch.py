"""The door to PyTorch: the loop is Python's."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch

try:
    from ostinato.doors.torch_native import fused, native_why_not
except (ImportError, AttributeError) as error:  # of PyTorch's, some without a promise to stay
    _missing = f"PyTorch {torch.__version__} lacks what the native operations are made of: {error}"

    def native_why_not(x: Any) -> str | None:
        """Why the native operations can't be had."""
        return _missing


__all__ = [
    "affine",
    "apply_each",
    "blend",
    "consuming",
    "fused",
    "is_exporting",
    "lean",
    "loop",
    "multiply_add",
    "native_why_not",
    "packed",
]

Tensors = tuple[Any, ...]

# Keras's function adds conversions and dtype checks, about 6 us an op; in an eager loop that's a
# third of the time (LSTM B64 T28 U64 forward: 3.5 ms with keras.ops, 1.9 ms with torch's).
_LEAN: dict[Any, Callable[..., Any]] = {
    keras.ops.convert_to_tensor: lambda variable, dtype: variable.value.to(getattr(torch, dtype)),
    keras.activations.sigmoid: torch.sigmoid,
    keras.activations.tanh: torch.tanh,
    keras.activations.relu: torch.relu,
    keras.activations.linear: lambda x: x,
    keras.ops.split: torch.chunk,
    keras.ops.where: torch.where,
}
_IN_PLACE: dict[Any, Callable[..., Any]] = {
    torch.sigmoid: torch.sigmoid_,
    torch.tanh: torch.tanh_,
    torch.relu: torch.relu_,
}


def loop(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
    carry: Tensors,
    xs: Tensors,
    like: Tensors,
    *,
    project: Callable[[Any], Any] | None = None,
    unroll: bool,
    variables: Sequence[keras.Variable] = (),
) -> tuple[Tensors, Tensors]:
    """Runs `step` over time; see `ostinato.doors`. Variables are updated in place."""
    if project is not None:  # one product for all timesteps saves T calls forward, 2 T backward
        xs = (project(xs[0]), *xs[1:])
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

    In one call, which at one timestep takes 14 us where product and sum take 16, and for all of
    them at once saves the page faults of another tensor.
    """
    if bias is None:
        return torch.matmul(x, kernel)
    if x.dim() == 2:
        return torch.addmm(bias, x, kernel)
    rows = torch.addmm(bias, x.reshape(-1, x.shape[-1]), kernel)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def packed(kernel: Any) -> Any:
    """A kernel laid out for a product at every timestep: by columns, unless autograd is to see it.

    Products take 24 us where by rows they take 26 (B32 U128; 12 either way at B64 U64).
    """
    return kernel if torch.is_grad_enabled() else kernel.t().contiguous().t()


# One operation where the plain operators are two or four, at 2 us each.
blend = torch.lerp
multiply_add = torch.addcmul


def is_exporting() -> bool:
    """Whether ONNX is being written; told so that torch.compile understands it."""
    return bool(torch.onnx.is_in_onnx_export())


def lean(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's own function for one of Keras's, or the function itself."""
    return _LEAN.get(function, function)


def consuming(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same in place, unless autograd needs the argument (LSTM's loop: 2 % faster)."""
    function = lean(function)
    return function if torch.is_grad_enabled() else _IN_PLACE.get(function, function)


def apply_each(functions: Sequence[Callable[..., Any]]) -> Callable[[Any], list[Any]]:
    """Applies a function to each of the equal parts of a tensor's last axis.

    Without autograd a function that several parts share goes over the whole tensor in one call,
    once the other parts are read (LSTM's loop at B64 U64: 3 % faster).
    """
    common = max(functions, key=functions.count)
    if torch.is_grad_enabled() or functions.count(common) == 1 or common not in _IN_PLACE:
        each = [consuming(function) for function in functions]
        return lambda x: [f(part) for f, part in zip(each, x.chunk(len(each), -1), strict=True)]
    others = [(i, function) for i, function in enumerate(functions) if function is not common]

    def apply(x: Any) -> list[Any]:
        parts = list(x.chunk(len(functions), -1))
        for i, function in others:
            parts[i] = function(parts[i])
        _IN_PLACE[common](x)
        return parts

    return apply
