"""The native engine's operations in PyTorch: `ostinato::forward` and `ostinato::backward`.

They are declared by torch.library, and not as an autograd.Function around the binding, which would
break torch.compile, and crash on tensors without storage.
"""

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch._C._functorch import is_legacy_batchedtensor
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from ostinato import native
from ostinato.doors.torch_state import why_not_here
from ostinato.doors.torch_vmap import map_backward, map_forward
from ostinato.routines import hashes_of
from ostinato.signatures import Pullback, Signature, Spec, pullback, signature, signature_of

__all__ = ["native_run", "native_why_not"]

Tensors = tuple[Any, ...]

_DTYPES = {
    torch.float32: native.FLOAT32,
    torch.float64: native.FLOAT64,
    torch.bool: native.BOOLEAN,
    torch.bfloat16: native.BFLOAT16,
    torch.int8: native.INT8,
}

# `saved` comes from the core's pool from this size on, as fresh pages cost as much as the kernel;
# below it malloc reuses its own, and a tensor over a pooled buffer takes 2 us more.
POOLED_BYTES = 1 << 18

_library = torch.library.Library("ostinato", "DEF")
_library.define("forward(Tensor[] inputs, int[] spec) -> Tensor[]")
_library.define("backward(Tensor[] inputs, int[] spec) -> Tensor[]")
# `forward` where nobody wants gradients: to find that out again in Python takes 3 us.
_library.define("infer(Tensor[] inputs, int[] spec) -> Tensor[]")


def native_why_not(x: Any) -> str | None:
    """What keeps the native operation from such an x; None where nothing does."""
    if x.device.type not in ("cpu", "meta"):
        return f"the tensors are on {x.device}, and it runs on the CPU"
    return why_not_here(x)


def native_run(specs: tuple[Spec, ...], operands: Tensors, twin: Any = None) -> Tensors:
    """Runs layers over sequences on the native engine, differentiably.

    Args:
        specs: the runs. Whether they train is decided here, by what asks for gradients.
        operands: the inputs of `ostinato::forward` or of a routine (see `ostinato.doors`).
        twin: not needed here.

    Returns:
        Its outputs, run after run, without `saved`.
    """
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in operands)
    if getattr(specs[0], "precision", None) == native.INT8_WEIGHTS:
        flat = list(_encoded(specs, 0))
        return tuple(_Int8.apply(flat, *operands) if training else _infer(operands, flat))
    # torch.compile looks into what functools has wrapped, with a warning
    encode = _encoded if torch.compiler.is_compiling() else _encoded_once
    flat = encode(specs, int(training))
    if not training:
        return tuple(_infer(operands, flat))
    iterator = iter(torch.ops.ostinato.forward.default(operands, flat))
    results: list[Any] = []
    for spec in specs:
        results += islice(iterator, spec.results)
        next(iterator)  # saved
    return tuple(results)


def _infer(operands: Tensors, flat: list[int]) -> list[Any]:
    results: list[Any] = torch.ops.ostinato.infer.default(operands, flat)
    return results


class _Int8(torch.autograd.Function):
    """Weights in int8 above what wants gradients: who asks for them is told that there are none."""

    @staticmethod
    def forward(ctx: Any, flat: list[int], *operands: Any) -> Tensors:
        return tuple(_infer(operands, flat))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensors:
        raise RuntimeError(native.NO_GRADIENTS_OF_INT8)


def _encoded(specs: tuple[Spec, ...], training: int) -> list[int]:
    return [number for spec in specs for number in spec.encoded("forward", training)]


_encoded_once = functools.lru_cache(maxsize=512)(_encoded)


# On the CPU.


def _dense(operation: str, tensors: Sequence[Any]) -> list[Any]:
    """The tensors, with their elements in order, where the core can read them."""
    for tensor in tensors:
        if not tensor.is_cpu or tensor.dtype not in _DTYPES:
            raise TypeError(
                f"[ostinato::{operation}] expected tensors of float32, float64 or bfloat16, "
                "weights of int8 and masks of bool, on the CPU; got "
                f"{tensor.dtype} on {tensor.device}."
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
    signature = signature_of("forward", tuple(flat))
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
    shapes = signature_of("backward", tuple(flat)).shapes(inputs)
    inputs = _dense("backward", inputs)
    dtype = inputs[0].dtype
    outputs = [torch.empty(shape, dtype=dtype) for run in shapes for shape in run]
    native.backward(flat, _views(inputs), _views(outputs))
    return outputs


# Without data: torch.compile, torch.export, the meta device.


def _fake(operation: str) -> Callable[[Sequence[Any], Sequence[int]], list[Any]]:
    def fake(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
        shapes = signature_of(operation, tuple(flat)).shapes(inputs)
        if any(tensor.device != inputs[0].device for tensor in inputs):
            devices = ", ".join(sorted({str(tensor.device) for tensor in inputs}))
            raise TypeError(
                f"[ostinato::{operation}] expected tensors on one device, got {devices}."
            )
        return [inputs[0].new_empty(shape) for run in shapes for shape in run]

    return fake


# Gradients. Not by torch.library.register_autograd, which takes 20 us a call more for taking lists
# apart and putting them together.


def _record(function: Any, inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    # Inside an operation the levels of torch.func are told apart already, so the function that
    # records is of one level, which PyTorch wants to be told.
    with enable_single_level_autograd_function():
        return list(function.apply(list(flat), *inputs))


def _with_gradient(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _record(_Forward, inputs, flat)
    with torch._C._AutoDispatchBelowAutograd():
        outputs: list[Any] = torch.ops.ostinato.forward.default(inputs, flat)
    return outputs


class _Forward(_SingleLevelFunction):
    @staticmethod
    def forward(flat: list[int], *inputs: Any) -> Tensors:
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(torch.ops.ostinato.forward.default(inputs, flat))

    @staticmethod
    def setup_context(ctx: Any, inputs: Tensors, output: Tensors) -> None:
        flat, *tensors = inputs
        signature = signature_of("forward", tuple(flat))
        _check_training(signature, tensors)
        ctx.specs = signature.specs
        ctx.shapes = [output[place].shape for place in signature.shown]
        saved = [output[place] for place in signature.saved]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*saved)
        known = (*tensors, *saved)
        ctx.save_for_backward(*(known[place] for place in _pullback(ctx).kept))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensors:
        _check_single(grads)
        route, kept = _pullback(ctx), ctx.saved_tensors
        shown = zip(signature("forward", ctx.specs).shown, ctx.shapes, strict=True)
        known = (
            *kept,
            *(kept[0].new_zeros(shape) if grads[i] is None else grads[i] for i, shape in shown),
        )
        inputs = [known[place] for place in route.operands]
        outputs = torch.ops.ostinato.backward.default(inputs, list(route.backward.flat))
        return (None, *(None if place is None else outputs[place] for place in route.gradients))


def _pullback(ctx: Any) -> Pullback:
    """Where gradients go, given which of the inputs want some."""
    return pullback(ctx.specs, tuple(ctx.needs_input_grad[1:]))


def _check_single(grads: Sequence[Any]) -> None:
    # An older vmap than torch.func's, which asks an operation for a rule that takes no lists.
    if any(grad is not None and is_legacy_batchedtensor(grad) for grad in grads):
        raise RuntimeError(
            "[ostinato::backward] expected one gradient of each output, got a batch of them (by "
            "is_grads_batched, or jacobian with vectorize=True). Use torch.func.jacrev, or the "
            'portable engine: `with ostinato.use_engine("scan")`.'
        )


def _check_training(signature: Signature, inputs: Sequence[Any]) -> None:
    if not all(spec.training for spec in signature.specs):
        raise ValueError(
            "[ostinato::forward] expected a spec with `training` set, since gradients are wanted."
        )
    names = (name for run in signature.operands for name in run)
    for name, tensor in zip(names, inputs, strict=True):
        if name in ("input_masks", "recurrent_masks") and tensor.requires_grad:
            raise ValueError(
                f"[ostinato::forward] expected {name} that need no gradient: dropout draws them."
            )


def _without_gradient(inputs: Sequence[Any], flat: Sequence[int]) -> list[Any]:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _record(_Backward, inputs, flat)
    with torch._C._AutoDispatchBelowAutograd():
        outputs: list[Any] = torch.ops.ostinato.backward.default(inputs, flat)
    return outputs


class _Backward(_SingleLevelFunction):
    """Gives gradients of which nobody may take the gradient."""

    @staticmethod
    def forward(flat: list[int], *inputs: Any) -> Tensors:
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(torch.ops.ostinato.backward.default(inputs, flat))

    @staticmethod
    def setup_context(ctx: Any, inputs: Tensors, output: Tensors) -> None:
        """Keeps nothing."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensors:
        raise RuntimeError(
            "[ostinato::backward] The native engine has first derivatives only. For second ones "
            'use the portable engine: `with ostinato.use_engine("scan")`.'
        )


def _mark_constants() -> None:
    """Tells torch.compile not to look into what the choice of an engine asks the process."""
    functions = (native.why_not, native.activation_names, native.kinds, native._kinds, hashes_of)
    for function in functions:
        torch.compiler.assume_constant_result(getattr(function, "__wrapped__", function))


def _lend_threads() -> None:
    """Puts the engine on PyTorch's own threads, where those are OpenMP's."""
    folder = Path(torch.__file__).with_name("lib")
    for path in (folder / "libtorch_cpu.so", folder / "libtorch_cpu.dylib"):
        if native.why_not() is None and path.exists():
            native.lend_openmp(ctypes.CDLL(str(path)))


def _register() -> None:
    operations = (
        ("infer", _forward, _fake("forward"), map_forward),
        ("forward", _forward, _fake("forward"), map_forward),
        ("backward", _backward, _fake("backward"), map_backward),
    )
    for name, on_cpu, fake, mapped in operations:
        qualified = f"ostinato::{name}"
        _library.impl(name, on_cpu, "CPU")
        torch.library.register_fake(qualified, fake, lib=_library)
        torch.library.register_vmap(qualified, mapped, lib=_library)
    _library.impl("forward", _with_gradient, "Autograd")
    _library.impl("backward", _without_gradient, "Autograd")


_lend_threads()
_register()
_mark_constants()
