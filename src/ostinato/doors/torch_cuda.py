"""The engine `cuda` in PyTorch: `ostinato::cuda_forward`, whose gradients are another kernel's.

Tensors are time-major, float32 and on one card. What kernels take and give, the kernels say (those
of `ostinato.cuda`, which aren't imported here).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

__all__ = ["cuda_number", "cuda_recurrence", "cuda_why_not", "register_kernels"]

Tensors = Sequence[Any]


class Known(NamedTuple):
    """What operations find by a name.

    Attributes:
        kernels: The kernels.
        addresses: Makes what `kernels.run` takes of addresses.
        run: Likewise of the rest.
        afterwards: The gradient of each operand, of what the way back has given.
    """

    kernels: Any
    addresses: Callable[..., Any]
    run: Callable[..., Any]
    afterwards: Callable[..., Any]


_KNOWN: dict[str, Known] = {}
_COUNT = itertools.count()


def register_kernels(*known: Any) -> str:
    """The name by which operations find kernels: a graph of torch.compile holds only that."""
    name = f"kernels_{next(_COUNT)}"
    _KNOWN[name] = Known(*known)
    return name


def cuda_why_not(x: Any) -> str | None:
    """What keeps PyTorch from calling the kernels on a tensor like x, or None."""
    if x.device.type != "cuda":
        return f"the tensors are on {x.device}, and it runs on NVIDIA's GPUs"
    if torch.version.hip is not None:
        return "this PyTorch is for AMD's GPUs"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    if torch.jit.is_tracing() or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return "the model is traced into a graph that is to run elsewhere"
    if 0 in x.shape:
        return "it takes no tensor without numbers"
    return None


def cuda_number(x: torch.Tensor) -> int:
    """Which card a tensor is on."""
    return x.device.index or 0


def _stream_of(x: torch.Tensor) -> int:
    """The handle of the stream that PyTorch uses."""
    return int(torch.cuda.current_stream(x.device).cuda_stream)


def _sizes(kernels: Any, operands: Tensors) -> tuple[int, int]:
    """Timesteps, and rows of the batch."""
    counts = kernels.counts
    timesteps = operands[0 if counts["input"] else -1].shape[0]
    return timesteps, operands[counts["input"] + counts["constant"]].shape[0]


def _run(
    name: str, way: str, every: bool, operands: Tensors, kept: Any = None, grads: Tensors = ()
) -> list[torch.Tensor]:
    known = _KNOWN[name]
    kernels, sizes = known.kernels, _sizes(known.kernels, operands)
    like = operands[kernels.counts["input"] + kernels.counts["constant"]]
    dense, grads = [x.contiguous() for x in operands], [x.contiguous() for x in grads]
    results = [like.new_empty(shape) for shape in kernels.shapes(way, sizes, every)]
    device = cuda_number(like)
    zeros = like.new_zeros(kernels.workspace(way, sizes[1], device))
    at = known.addresses(
        [x.data_ptr() for x in dense],
        [x.data_ptr() for x in results],
        zeros.data_ptr(),
        [x.data_ptr() for x in grads],
        0 if kept is None else kept.data_ptr(),
    )
    # PyTorch's own setting of what float32 products are computed from.
    three_products = torch.get_float32_matmul_precision() == "highest"
    with torch.cuda.device_of(like):  # the driver works in the context that's current
        kernels.run(way, at, known.run(sizes, every, three_products, device, _stream_of(like)))
    return results


def _empty(name: str, way: str, every: bool, operands: Tensors) -> list[torch.Tensor]:
    kernels = _KNOWN[name].kernels
    like = operands[kernels.counts["input"] + kernels.counts["constant"]]
    return [
        like.new_empty(shape) for shape in kernels.shapes(way, _sizes(kernels, operands), every)
    ]


def _forward_on_card(
    name: str, every: bool, train: bool, operands: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Outputs, final states, and where it trains what is kept."""
    return _run(name, "train" if train else "infer", every, operands)


def _backward_on_card(
    name: str,
    every: bool,
    operands: list[torch.Tensor],
    kept: torch.Tensor,
    grads: list[torch.Tensor],
) -> list[torch.Tensor]:
    """The gradients of the states, and the values that all others are made of."""
    return _run(name, "backward", every, operands, kept, grads)


def _forward_unseen(
    name: str, every: bool, train: bool, operands: list[torch.Tensor]
) -> list[torch.Tensor]:
    return _empty(name, "train" if train else "infer", every, operands)


def _backward_unseen(
    name: str,
    every: bool,
    operands: list[torch.Tensor],
    kept: torch.Tensor,
    grads: list[torch.Tensor],
) -> list[torch.Tensor]:
    return _empty(name, "backward", every, operands)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    ctx.name, ctx.every, _, operands = inputs
    ctx.save_for_backward(*operands, output[-1])


def _pull(ctx: Any, grads: list[Any]) -> tuple[Any, ...]:
    *operands, kept = ctx.saved_tensors
    results = torch.ops.ostinato.cuda_backward(ctx.name, ctx.every, operands, kept, grads[:-1])
    known = _KNOWN[ctx.name]
    return None, None, None, known.afterwards(known.kernels, operands, kept, results)


_custom: Any = torch.library.custom_op
_forward = _custom("ostinato::cuda_forward", _forward_on_card, mutates_args=())
_forward.register_fake(_forward_unseen)
_forward.register_autograd(_pull, setup_context=_keep)
_custom("ostinato::cuda_backward", _backward_on_card, mutates_args=()).register_fake(
    _backward_unseen
)


def cuda_recurrence(name: str, operands: Tensors, every: bool) -> tuple[Any, ...]:
    """Runs a recurrence, differentiably; see `ostinato.doors`."""
    train = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands)
    results = torch.ops.ostinato.cuda_forward(name, every, train, list(operands))
    return tuple(results[:-1] if train else results)
