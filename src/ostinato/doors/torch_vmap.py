"""torch.vmap over the native engine's operations: a larger batch, or one run after another."""

from collections.abc import Sequence
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
        return _map_one_by_one(operation, info.batch_size, in_dims[0], inputs, flat)
    names = [name for run in signature.operands for name in run]
    folded = [
        _fold(tensor, dim, batch_axis(name), info.batch_size)
        for name, dim, tensor in zip(names, in_dims[0], inputs, strict=True)
    ]
    outputs = [
        y.unflatten(0, (info.batch_size, y.shape[0] // info.batch_size))
        for y in torch.ops.ostinato.infer.default(folded, flat)
    ]
    return outputs, [0] * len(outputs)


def _fold(tensor: Any, dim: int | None, axis: int | None, size: int) -> Any:
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
    return _map_one_by_one(backward, info.batch_size, in_dims[0], inputs, flat)


def _map_one_by_one(
    operation: Any, size: int, dims: Sequence[int | None], inputs: list[Any], flat: list[int]
) -> tuple[list[Any], list[int]]:
    slices = [
        operation(
            [t if dim is None else t.select(dim, i) for t, dim in zip(inputs, dims, strict=True)],
            flat,
        )
        for i in range(size)
    ]
    outputs = [torch.stack(tensors) for tensors in zip(*slices, strict=True)]
    return outputs, [0] * len(outputs)
