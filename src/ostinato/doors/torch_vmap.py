"""torch.vmap over the native engine's operations: a larger batch, or one run after another."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ostinato.signatures import batch_axis, folds, signature_of


def map_forward(
    info: Any, in_dims: tuple[Any, Any], inputs: list[Any], flat: list[int]
) -> tuple[list[Any], list[int]]:
    """The rule of `ostinato::forward` and `ostinato::infer`."""
    signature = signature_of("forward", tuple(flat))
    if not folds(signature.specs, signature.operands, [dim is not None for dim in in_dims[0]]):
        operation = torch.ops.ostinato.forward.default
        return one_by_one(lambda some: operation(some, flat), info.batch_size, in_dims[0], inputs)
    names = [name for run in signature.operands for name in run]
    folded = [
        fold(tensor, dim, batch_axis(name), info.batch_size)
        for name, dim, tensor in zip(names, in_dims[0], inputs, strict=True)
    ]
    outputs = [
        y.unflatten(0, (info.batch_size, y.shape[0] // info.batch_size))
        for y in torch.ops.ostinato.infer.default(folded, flat)
    ]
    return outputs, [0] * len(outputs)


def fold(tensor: Any, dim: int | None, axis: int | None, size: int) -> Any:
    """The tensor with the mapped axis `dim` made a part of `axis`; weights have neither."""
    if axis is None:
        return tensor
    spread = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return spread.movedim(0, axis).flatten(axis, axis + 1)


def map_backward(
    info: Any, in_dims: tuple[Any, Any], inputs: list[Any], flat: list[int]
) -> tuple[list[Any], list[int]]:
    """The rule of `ostinato::backward`."""
    backward = torch.ops.ostinato.backward.default
    return one_by_one(lambda some: backward(some, flat), info.batch_size, in_dims[0], inputs)


def one_by_one(
    run: Callable[[list[Any]], Sequence[Any]],
    size: int,
    dims: Sequence[int | None],
    tensors: Sequence[Any],
) -> tuple[list[Any], list[int]]:
    """What a function of tensors gives of each of a mapped axis; `dims` says where each has it."""
    each = [
        run([t if dim is None else t.select(dim, i) for t, dim in zip(tensors, dims, strict=True)])
        for i in range(size)
    ]
    outputs = [torch.stack(parts) for parts in zip(*each, strict=True)]
    return outputs, [0] * len(outputs)
