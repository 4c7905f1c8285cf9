"""cuDNN's recurrent layers by PyTorch: the calls that torch.nn.LSTM, GRU and RNN are made of.

On the CPU the same calls run a loop of PyTorch's own, with the same meaning, in float64, too.

torch.compile would take them apart, a timestep at a time: there they're one operation of ours,
whose backward pass calls them again and has autograd differentiate that.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._C import DispatchKey, _SetExcludeDispatchKeyGuard

from ostinato.cudnn import CudnnSpec
from ostinato.doors.torch_state import why_not_here

__all__ = ["CUDNN_DTYPES", "CUDNN_MODES", "cudnn", "cudnn_precision", "cudnn_why_not"]

Tensors = tuple[Any, ...]

CUDNN_MODES: tuple[str, ...] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CUDNN_DTYPES: tuple[str, ...] = ("float32", "float64", "float16", "bfloat16")

_library = torch.library.Library("ostinato", "FRAGMENT")
_SPEC = "int mode, int directions, int features, int units"
_library.define(f"cudnn(Tensor x, Tensor[] states, Tensor parameters, {_SPEC}) -> Tensor[]")
_library.define(
    f"cudnn_backward(Tensor x, Tensor[] states, Tensor parameters, Tensor[] upstream, {_SPEC})"
    " -> Tensor[]"
)


def cudnn_why_not(x: Any) -> str | None:
    """What keeps PyTorch from these calls on such an x; None where nothing does."""
    if x.device.type not in ("cuda", "cpu"):
        return f"the tensors are on {x.device}, and cuDNN runs on NVIDIA's GPUs"
    reason = why_not_here(x)
    if reason is not None:
        return reason
    if 0 in x.shape:
        return "cuDNN takes no tensor without numbers"
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return "cuDNN can't be called under a transform of torch.func"
    return _of_process() if x.device.type == "cuda" else None


def _process_why_not() -> str | None:
    if not torch.backends.cudnn.is_available():
        return f"PyTorch {torch.__version__} has no cuDNN"
    if not torch.backends.cudnn.enabled:
        return "torch.backends.cudnn.enabled is False"
    return None


_of_process: Callable[[], str | None] = torch.compiler.assume_constant_result(_process_why_not)


def cudnn_precision(dtype: str) -> str:
    """What `torch.backends.cudnn.rnn.fp32_precision`, or `allow_tf32` before it, asks for."""
    if dtype != "float32":
        return dtype
    of_layers = getattr(torch.backends.cudnn, "rnn", None)
    if of_layers is None:
        allowed = torch.backends.cudnn.allow_tf32
    else:
        allowed = of_layers.fp32_precision == "tf32"
    return "tf32" if allowed else "float32"


def cudnn(spec: CudnnSpec, x: Any, states: Tensors, parameters: Any) -> Tensors:
    """Runs one call; see `ostinato.doors`."""
    if not torch.compiler.is_compiling():
        return tuple(_run(x, states, parameters, spec))
    numbers = (CUDNN_MODES.index(spec.mode), *spec[1:])
    return tuple(torch.ops.ostinato.cudnn.default(x, list(states), parameters, *numbers))


def _run(x: Any, states: Sequence[Any], parameters: Any, spec: CudnnSpec) -> list[Any]:
    function = getattr(torch._VF, spec.mode)
    shapes = spec.parameters
    pieces = parameters.split([math.prod(shape) for shape in shapes])
    views = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    if spec.directions == 2:  # a direction after the other, as it's called
        views = [views[place] for place in (0, 1, 4, 5, 2, 3, 6, 7)]
    initial = tuple(states) if spec.mode == "lstm" else states[0]
    of_one_layer = (1, 0.0, torch.is_grad_enabled(), spec.directions == 2, True)
    results = function(x, initial, views, True, *of_one_layer)
    # Under autocast PyTorch calls cuDNN in half precision.
    return [result.to(x.dtype) for result in results]


# As one operation.


def _forward(x: Any, states: Sequence[Any], parameters: Any, *numbers: Any) -> list[Any]:
    return _own_memory(_run(x, states, parameters, _spec(numbers)))


def _backward(
    x: Any, states: Sequence[Any], parameters: Any, upstream: Sequence[Any], *numbers: Any
) -> list[Any]:
    """The gradients of x, states and parameters."""
    # An operation's kernel runs below autograd, which has to be let in again.
    with _SetExcludeDispatchKeyGuard(DispatchKey.AutogradFunctionality, False), torch.enable_grad():
        x, *states, parameters = (
            tensor.detach().requires_grad_() for tensor in (x, *states, parameters)
        )
        sources = (x, *states, parameters)
        results = _run(x, states, parameters, _spec(numbers))
        return _own_memory(torch.autograd.grad(results, sources, upstream))


def _spec(numbers: Sequence[Any]) -> CudnnSpec:
    mode, *rest = numbers
    return CudnnSpec(CUDNN_MODES[mode], *rest)


def _own_memory(results: Sequence[Any]) -> list[Any]:
    """Results of an operation: no views, and laid out as `_forward_shapes` says."""
    return [result.clone(memory_format=torch.contiguous_format) for result in results]


def _forward_shapes(x: Any, states: Sequence[Any], parameters: Any, *numbers: Any) -> list[Any]:
    spec = _spec(numbers)
    ys = x.new_empty((*x.shape[:2], spec.directions * spec.units))
    return [ys, *(state.new_empty(state.shape) for state in states)]


def _backward_shapes(
    x: Any, states: Sequence[Any], parameters: Any, upstream: Sequence[Any], *numbers: Any
) -> list[Any]:
    return [tensor.new_empty(tensor.shape) for tensor in (x, *states, parameters)]


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    x, states, parameters, *numbers = inputs
    ctx.save_for_backward(x, *states, parameters)
    ctx.numbers = numbers


def _pulled(ctx: Any, upstream: Sequence[Any]) -> Any:
    x, *states, parameters = ctx.saved_tensors
    gradients = torch.ops.ostinato.cudnn_backward.default(
        x, states, parameters, list(upstream), *ctx.numbers
    )
    return gradients[0], gradients[1:-1], gradients[-1], *[None] * len(ctx.numbers)


for _device in ("CPU", "CUDA"):
    _library.impl("cudnn", _forward, _device)
    _library.impl("cudnn_backward", _backward, _device)
torch.library.register_fake("ostinato::cudnn", _forward_shapes, lib=_library)
torch.library.register_fake("ostinato::cudnn_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("ostinato::cudnn", _pulled, setup_context=_save, lib=_library)
