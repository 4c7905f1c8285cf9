"""The engine `cuda` in PyTorch: `ostinato::cuda_forward`, whose gradients are another kernel's.

Tensors are batch-major, float32 and on one card. What kernels take and give, the kernels say (those
of `ostinato.cuda`, which aren't imported here).
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ostinato.doors.cuda_kernels import known, register_kernels
from ostinato.doors.torch_state import why_not_here
from ostinato.doors.torch_vmap import fold, one_by_one

__all__ = [
    "computing_from",
    "cuda_launcher",
    "cuda_number",
    "cuda_products",
    "cuda_recurrence",
    "cuda_why_not",
    "register_kernels",
]

Tensors = Sequence[Any]


def cuda_why_not(x: Any) -> str | None:
    """What keeps PyTorch from calling the kernels on a tensor like x, or None."""
    if x.device.type != "cuda":
        return f"the tensors are on {x.device}, and it runs on NVIDIA's GPUs"
    if torch.version.hip is not None:
        return "this PyTorch is for AMD's GPUs"
    if 0 in x.shape:
        return "it takes no tensor without numbers"
    return why_not_here(x)


def cuda_number(x: torch.Tensor) -> int:
    """Which card a tensor is on."""
    return x.device.index or 0


# By PyTorch's own setting of what float32 products are computed from.
_PRODUCTS = {"highest": "float32", "high": "tf32", "medium": "bfloat16"}


def cuda_products() -> str:
    """What products of float32 are computed from, by PyTorch's own setting."""
    return _PRODUCTS[torch.get_float32_matmul_precision()]


@contextlib.contextmanager
def computing_from(products: str) -> Iterator[None]:
    """Inside, PyTorch computes products of float32 from that; see `ostinato.doors`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision({made: name for name, made in _PRODUCTS.items()}[products])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cuda_launcher() -> str:
    """What launches the kernels, as text."""
    return f"torch {torch.__version__}"


def _stream_of(x: torch.Tensor) -> int:
    """The handle of the stream that PyTorch uses."""
    return int(torch.cuda.current_stream(x.device).cuda_stream)


def _run(name: str, way: str, every: bool, products: str, tensors: Tensors) -> list[torch.Tensor]:
    found = known(name)
    kernels, like = found.kernels, _state(found.kernels, tensors)
    how = found.how(kernels.sizes(tensors), every, products, cuda_number(like))
    dense = [x.contiguous() for x in tensors]
    results = _empty(name, way, every, tensors)
    with torch.cuda.device_of(like):  # the driver works in the context that's current
        zeros = like.new_zeros(kernels.prepared(way, how).workspace)
        addresses = [x.data_ptr() for x in (*dense, *results, zeros)]
        kernels.run(way, how, addresses, _stream_of(like))
    return results


def _state(kernels: Any, operands: Tensors) -> Any:
    return operands[kernels.counts["input"] + kernels.counts["constant"]]


def _empty(name: str, way: str, every: bool, operands: Tensors) -> list[torch.Tensor]:
    kernels = known(name).kernels
    like = _state(kernels, operands)
    return [like.new_empty(shape) for shape in kernels.shapes(way, kernels.sizes(operands), every)]


def _forward_on_card(
    name: str, every: bool, products: str, train: bool, operands: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Outputs, final states, and where it trains what is kept."""
    return _run(name, "train" if train else "infer", every, products, operands)


def _backward_on_card(
    name: str, every: bool, products: str, tensors: list[torch.Tensor]
) -> list[torch.Tensor]:
    """The gradients of the states, and the values that all others are made of."""
    return _run(name, "backward", every, products, tensors)


def _forward_unseen(
    name: str, every: bool, products: str, train: bool, operands: list[torch.Tensor]
) -> list[torch.Tensor]:
    return _empty(name, "train" if train else "infer", every, operands)


def _backward_unseen(
    name: str, every: bool, products: str, tensors: list[torch.Tensor]
) -> list[torch.Tensor]:
    return _empty(name, "backward", every, tensors)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    ctx.name, ctx.every, ctx.products, _, operands = inputs
    ctx.save_for_backward(*operands, output[-1])


def _pull(ctx: Any, grads: Tensors, run: Any = None) -> tuple[Any, ...]:
    run = torch.ops.ostinato.cuda_backward if run is None else run
    tensors = [*ctx.saved_tensors, *grads[:-1]]
    results = run(ctx.name, ctx.every, ctx.products, tensors)
    *operands, kept = ctx.saved_tensors
    found = known(ctx.name)
    return *(None,) * 4, found.afterwards(found.kernels, operands, kept, results)


_custom: Any = torch.library.custom_op
_forward = _custom("ostinato::cuda_forward", _forward_on_card, mutates_args=())
_forward.register_fake(_forward_unseen)
_forward.register_autograd(_pull, setup_context=_keep)
_backward = _custom("ostinato::cuda_backward", _backward_on_card, mutates_args=())
_backward.register_fake(_backward_unseen)


class _Transformed(torch.autograd.Function):
    """The same for torch.func's transforms, which don't take an operation's own gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[torch.Tensor, ...]:
        *flags, operands = *inputs[:4], list(inputs[4:])
        return tuple(torch.ops.ostinato.cuda_forward(*flags, operands))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output[-1])
        _keep(ctx, (*inputs[:4], inputs[4:]), output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        *flags, operands = _pull(ctx, grads, _transformed_back)
        return (*flags, *operands)


class _TransformedBack(torch.autograd.Function):
    """Likewise its way back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[torch.Tensor, ...]:
        return tuple(torch.ops.ostinato.cuda_backward(*inputs[:3], list(inputs[3:])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps nothing."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        raise RuntimeError(
            "[ostinato] the engine 'cuda' has no gradients of gradients on PyTorch: "
            '`with ostinato.use_engine("scan")` has.'
        )


def _transformed_back(*inputs: Any) -> tuple[Any, ...]:
    *flags, tensors = inputs
    return tuple(_TransformedBack.apply(*flags, *tensors))


def cuda_recurrence(name: str, operands: Tensors, every: bool, products: str) -> tuple[Any, ...]:
    """Runs a recurrence, differentiably; see `ostinato.doors`."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return tuple(_Transformed.apply(name, every, products, True, *operands)[:-1])
    train = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands)
    results = torch.ops.ostinato.cuda_forward(name, every, products, train, list(operands))
    return tuple(results[:-1] if train else results)


# torch.func.vmap: the mapped axis becomes a part of the batch, or there's a call for each.


def _forward_mapped(info: Any, in_dims: Any, name: str, every: bool, *rest: Any) -> Any:
    *flags, operands = rest
    kernels = known(name).kernels
    axes = kernels.result_axes("train" if flags[-1] else "infer")

    def run(tensors: Tensors) -> Any:
        return torch.ops.ostinato.cuda_forward(name, every, *flags, list(tensors))

    return _mapped(run, info.batch_size, in_dims[-1], operands, (kernels.axes, axes))


def _backward_mapped(
    info: Any, in_dims: Any, name: str, every: bool, products: str, tensors: Tensors
) -> Any:
    kernels = known(name).kernels
    axes = (*kernels.axes, 1, *kernels.result_axes("infer"))

    def run(tensors: Tensors) -> Any:
        return torch.ops.ostinato.cuda_backward(name, every, products, list(tensors))

    results = kernels.result_axes("backward")
    return _mapped(run, info.batch_size, in_dims[-1], tensors, (axes, results))


def _mapped(run: Any, size: int, dims: Tensors, tensors: Tensors, axes: Any) -> Any:
    given, given_back = axes
    pairs = list(zip(dims, given, strict=True))
    if any(axis is None and dim is not None for dim, axis in pairs):  # weights of their own
        return one_by_one(run, size, dims, tensors)
    folded = [fold(x, *pair, size) for x, pair in zip(tensors, pairs, strict=True)]
    results = zip(run(folded), given_back, strict=True)
    return [x.unflatten(axis, (size, -1)) for x, axis in results], list(given_back)


_forward.register_vmap(_forward_mapped)
_backward.register_vmap(_backward_mapped)
