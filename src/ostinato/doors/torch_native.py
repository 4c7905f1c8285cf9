"""The native engine's operations in PyTorch: `ostinato::forward` and `ostinato::backward`.

They are declared by torch.library, and not as an autograd.Function around the binding, which would
break torch.compile, and crash on tensors without storage.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch.autograd import forward_ad

from ostinato import native
from ostinato.native import RunSpec

__all__ = ["fused", "native_why_not"]

Tensors = tuple[Any, ...]

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bool: 2}

# `saved` comes from the core's pool from this size on, as fresh pages cost as much as the kernel;
# below it malloc reuses its own, and a tensor over a pooled buffer takes 2 us more.
POOLED_BYTES = 1 << 18

_FIELDS = tuple(RunSpec.__dataclass_fields__)
_TRAINING, _WANTS_DX = _FIELDS.index("training"), _FIELDS.index("wants_dx")

_library = torch.library.Library("ostinato", "DEF")
_library.define("forward(Tensor[] inputs, int[] spec) -> Tensor[]")
_library.define("backward(Tensor[] inputs, int[] spec) -> Tensor[]")
# `forward` where nobody wants gradients: to find that out again in Python takes 3 us.
_library.define("infer(Tensor[] inputs, int[] spec) -> Tensor[]")


def native_why_not(x: Any) -> str | None:
    """What keeps the native operation from such an x; None where nothing does."""
    if x.device.type not in ("cpu", "meta"):
        return f"the tensors are on {x.device}, and it runs on the CPU"
    if x.layout != torch.strided:
        return f"the tensors are {x.layout}, and it takes dense ones"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode derivative"
    if torch.onnx.is_in_onnx_export():
        return "ONNX has no such operation"
    return None


def fused(specs: tuple[RunSpec, ...], operands: Tensors) -> Tensors:
    """Runs layers over sequences on the native engine, differentiably.

    Args:
        specs: the runs. Whether they train is decided here, by what asks for gradients.
        operands: the inputs of `ostinato::forward` (native/core/ostinato.h), run after run.

    Returns:
        Its outputs, run after run, without `saved`.
    """
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands)
    flat = list(native.encode(specs))
    flat[_TRAINING :: len(_FIELDS)] = [int(training)] * len(specs)
    if not training:
        return tuple(torch.ops.ostinato.infer.default(operands, flat))
    iterator = iter(torch.ops.ostinato.forward.default(operands, flat))
    results: list[Any] = []
    for spec in specs:
        results += islice(iterator, _results(spec))
        next(iterator)  # saved
    return tuple(results)


def _results(spec: RunSpec) -> int:
    """How many outputs a run has, `saved` aside."""
    return int(spec.sequences) + spec.states


# An operation's arguments, taken apart.


@dataclass(frozen=True)
class _Signature:
    """What a `spec` says of an operation's inputs and outputs.

    Attributes:
        operation: "forward" or "backward".
        specs: The runs.
        operands: The names of each run's inputs.
        anchors: Where in the inputs each run's x and recurrent_kernel are.
        count: The number of inputs.
    """

    operation: str
    specs: tuple[RunSpec, ...]
    operands: tuple[tuple[str, ...], ...]
    anchors: tuple[tuple[int, int], ...]
    count: int

    def by_run(self, tensors: Sequence[Any]) -> list[dict[str, Any]]:
        """The inputs as one {name: tensor} for each run."""
        iterator = iter(tensors)
        return [{name: next(iterator) for name in run} for run in self.operands]

    def shapes(self, inputs: Sequence[Any]) -> list[list[Any]]:
        """The shapes of each run's outputs; their sizes may be symbols."""
        if len(inputs) != self.count:
            expected = "; ".join(", ".join(run) for run in self.operands)
            raise ValueError(
                f"[ostinato::{self.operation}] Expected {self.count} inputs ({expected}), "
                f"received {len(inputs)}."
            )
        output_shapes = _OUTPUT_SHAPES[self.operation]
        shapes = []
        for spec, (x_at, recurrent_at) in zip(self.specs, self.anchors, strict=True):
            x, recurrent = inputs[x_at].shape, inputs[recurrent_at].shape
            if len(x) != 3 or len(recurrent) != 2:
                raise ValueError(
                    f"[ostinato::{self.operation}] Expected x (batch, time, features) and "
                    f"recurrent_kernel (units, gates x units), received {tuple(x)} and "
                    f"{tuple(recurrent)}."
                )
            shapes.append(output_shapes(spec, x[0], x[1], x[2], recurrent[0]))
        return shapes


_OPERANDS = {"forward": native.forward_operands, "backward": native.backward_operands}
_OUTPUT_SHAPES = {
    "forward": native.forward_output_shapes,
    "backward": native.backward_output_shapes,
}


@lru_cache(maxsize=512)
def _signature(operation: str, flat: tuple[int, ...]) -> _Signature:
    size = len(_FIELDS)
    if not flat or len(flat) % size:
        raise ValueError(
            f"[ostinato::{operation}] Expected {size} integers for each run as spec, "
            f"received {len(flat)}."
        )
    specs = tuple(RunSpec(*flat[start : start + size]) for start in range(0, len(flat), size))
    operands = tuple(_OPERANDS[operation](spec) for spec in specs)
    anchors, first = [], 0
    for names in operands:
        anchors.append((first, first + names.index("recurrent_kernel")))
        first += len(names)
    return _Signature(operation, specs, operands, tuple(anchors), first)


# On the CPU.


def _dense(operation: str, tensors: Sequence[Any]) -> list[Any]:
    """The tensors, with their elements in order, where the core can read them."""
    for tensor in tensors:
        if not tensor.is_cpu or tensor.dtype not in _DTYPES:
            raise TypeError(
                f"[ostinato::{operation}] Expected tensors of float32 or float64 and masks of "
                f"bool, on the CPU; received {tensor.dtype} on {tensor.device}."
            )
    return [tensor.contiguous() for tensor in tensors]


def _views(tensors: Sequence[Any]) -> list[tuple[int, int, Any]]:
    """What the core is told of each tensor."""
    return [(tensor.data_ptr(), _DTYPES[tensor.dtype], tensor.shape) for tensor in tensors]


def _empty_saved(shape: tuple[int, ...], dtype: Any) -> Any:
    count = math.prod(shape)
    if count * dtype.itemsize < POOLED_BYTES:
        return torch.empty(shape, dtype=dtype)
    buffer = native.PooledBuffer(count * dtype.itemsize)
    return torch.frombuffer(buffer, dtype=dtype, count=count).view(shape)


def _forward(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    signature = _signature("forward", tuple(flat))
    shapes = signature.shapes(inputs)
    inputs = _dense("forward", inputs)
    dtype = inputs[0].dtype
    outputs: list[Any] = []
    for spec, run in zip(signature.specs, shapes, strict=True):
        saved = [_empty_saved(run.pop(), dtype)] if spec.training else []
        outputs += [torch.empty(shape, dtype=dtype) for shape in run] + saved
    native.forward(flat, _views(inputs), _views(outputs))
    return outputs


def _backward(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    shapes = _signature("backward", tuple(flat)).shapes(inputs)
    inputs = _dense("backward", inputs)
    dtype = inputs[0].dtype
    outputs = [torch.empty(shape, dtype=dtype) for run in shapes for shape in run]
    native.backward(flat, _views(inputs), _views(outputs))
    return outputs


# Without data: torch.compile, torch.export, the meta device.


def _fake_forward(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    shapes = _signature("forward", tuple(flat)).shapes(inputs)
    return [inputs[0].new_empty(shape) for run in shapes for shape in run]


def _fake_backward(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    shapes = _signature("backward", tuple(flat)).shapes(inputs)
    return [inputs[0].new_empty(shape) for run in shapes for shape in run]


# Gradients. Not by torch.library.register_autograd, which costs 20 us a call more for taking lists
# apart and putting them together.


def _with_gradient(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return list(_Forward.apply(list(flat), *inputs))
    with torch._C._AutoDispatchBelowAutograd():
        outputs: list[Any] = torch.ops.ostinato.forward.default(inputs, flat)
    return outputs


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: list[int], *inputs: Any) -> Tensors:
        with torch._C._AutoDispatchBelowAutograd():
            outputs = torch.ops.ostinato.forward.default(inputs, flat)
        signature = _signature("forward", tuple(flat))
        iterator = iter(outputs)
        kept: list[Any] = []
        all_saved: list[Any] = []
        for spec, run in zip(signature.specs, signature.by_run(inputs), strict=True):
            _check_training(spec, run)
            saved = next(islice(iterator, _results(spec), None))
            kept += [run[name] for name in native.backward_operands(spec) if name in run]
            kept.append(saved)
            all_saved.append(saved)
        ctx.flat = flat
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*all_saved)
        ctx.save_for_backward(*kept)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensors:
        specs = _signature("forward", tuple(ctx.flat)).specs
        kept, given, needed = iter(ctx.saved_tensors), iter(grads), iter(ctx.needs_input_grad[1:])
        flat = list(ctx.flat)
        inputs: list[Any] = []
        for index, spec in enumerate(specs):
            results = _results(spec)
            constants = list(islice(kept, len(native.backward_operands(spec)) - results))
            x, recurrent_kernel = constants[0], constants[2]
            batch, time, features = x.shape
            units = recurrent_kernel.shape[0]
            shapes = native.forward_output_shapes(spec, batch, time, features, units)
            inputs += constants
            inputs += [
                x.new_zeros(shape) if grad is None else grad
                for grad, shape in zip(islice(given, results), shapes, strict=False)
            ]
            next(given)  # saved has none
            of_run = list(islice(needed, len(native.forward_operands(spec))))
            flat[index * len(_FIELDS) + _WANTS_DX] = int(of_run[0])
        outputs = iter(torch.ops.ostinato.backward.default(inputs, flat))
        gradients: list[Any] = []
        for spec, wants_dx in zip(specs, flat[_WANTS_DX :: len(_FIELDS)], strict=True):
            weights = spec.states + 2 + int(spec.has_bias)
            gradients += [next(outputs) if wants_dx else None, *islice(outputs, weights)]
            gradients += [None] * (len(native.forward_operands(spec)) - 1 - weights)
        return (None, *gradients)


def _check_training(spec: RunSpec, run: dict[str, Any]) -> None:
    if not spec.training:
        raise ValueError(
            "[ostinato::forward] Expected a spec with `training` set, since gradients are wanted."
        )
    for name in ("input_masks", "recurrent_masks"):
        if name in run and run[name].requires_grad:
            raise ValueError(
                f"[ostinato::forward] Expected {name} that need no gradient: dropout draws them."
            )


def _without_gradient(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return list(_Backward.apply(list(flat), *inputs))
    with torch._C._AutoDispatchBelowAutograd():
        outputs: list[Any] = torch.ops.ostinato.backward.default(inputs, flat)
    return outputs


class _Backward(torch.autograd.Function):
    """Gives gradients of which nobody may take the gradient."""

    @staticmethod
    def forward(ctx: Any, flat: list[int], *inputs: Any) -> Tensors:
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(torch.ops.ostinato.backward.default(inputs, flat))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensors:
        raise RuntimeError(
            "[ostinato::backward] The native engine has first derivatives only. For second ones "
            'use the portable engine: `with ostinato.use_engine("scan")`.'
        )


# torch.vmap. Where the weights are shared and no gradient is wanted, the mapped axis becomes part
# of the batch; `saved` can't be split so, and weights of their own need runs of their own.

_BATCH_AXES = {"x": 0, "h": 0, "c": 0, "mask": 0, "input_masks": 1, "recurrent_masks": 1}


def _map_forward(
    info: Any, in_dims: tuple[Any, Any], inputs: list[Any], flat: list[int]
) -> tuple[list[Any], list[int]]:
    signature = _signature("forward", tuple(flat))
    names = [name for run in signature.operands for name in run]
    shared = all(
        dim is None for name, dim in zip(names, in_dims[0], strict=True) if name not in _BATCH_AXES
    )
    if any(spec.training for spec in signature.specs) or not shared:
        operation = torch.ops.ostinato.forward.default
        return _map_one_by_one(operation, info.batch_size, in_dims[0], inputs, flat)
    folded = [
        _fold(tensor, dim, _BATCH_AXES[name], info.batch_size) if name in _BATCH_AXES else tensor
        for name, dim, tensor in zip(names, in_dims[0], inputs, strict=True)
    ]
    outputs = [
        y.unflatten(0, (info.batch_size, y.shape[0] // info.batch_size))
        for y in torch.ops.ostinato.infer.default(folded, flat)
    ]
    return outputs, [0] * len(outputs)


def _fold(tensor: Any, dim: int | None, axis: int, size: int) -> Any:
    """The tensor with the mapped axis `dim` made a part of `axis`."""
    if dim is None:
        shape = [*tensor.shape]
        spread = tensor.unsqueeze(axis).expand(*shape[:axis], size, *shape[axis:])
    else:
        spread = tensor.movedim(dim, axis)
    return spread.flatten(axis, axis + 1)


def _map_backward(
    info: Any, in_dims: tuple[Any, Any], inputs: list[Any], flat: list[int]
) -> tuple[list[Any], list[int]]:
    operation = torch.ops.ostinato.backward.default
    return _map_one_by_one(operation, info.batch_size, in_dims[0], inputs, flat)


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


def _register() -> None:
    operations = (
        ("infer", _forward, _fake_forward, _map_forward),
        ("forward", _forward, _fake_forward, _map_forward),
        ("backward", _backward, _fake_backward, _map_backward),
    )
    for name, on_cpu, fake, mapped in operations:
        qualified = f"ostinato::{name}"
        _library.impl(name, on_cpu, "CPU")
        torch.library.register_fake(qualified, fake, lib=_library)
        torch.library.register_vmap(qualified, mapped, lib=_library)
    _library.impl("forward", _with_gradient, "Autograd")
    _library.impl("backward", _without_gradient, "Autograd")


_register()
