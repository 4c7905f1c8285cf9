"""The engine `cuda` in JAX: a custom call in what is lowered for CUDA, plain JAX in all else.

Tensors are batch-major and float32.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from ostinato import native
from ostinato.doors.cuda_kernels import known, register_kernels
from ostinato.doors.jax_calls import Axes, partitioned, target
from ostinato.doors.jax_cudnn import device_of
from ostinato.doors.jax_native import platform_of, too_old
from ostinato.doors.jax_operation import call, fold
from ostinato.doors.tracing import EXPORTING, is_exporting

__all__ = [
    "computing_from",
    "cuda_launcher",
    "cuda_number",
    "cuda_products",
    "cuda_recurrence",
    "cuda_why_not",
    "register_kernels",
]

Tensors = tuple[Any, ...]

TARGET = target("cuda")


def cuda_why_not(x: Any) -> str | None:
    """What keeps JAX from calling the kernels on an array like x, or None."""
    device = device_of(x)
    is_traced = isinstance(x, jax.core.Tracer)
    # What is traced may be lowered for any platform, and takes plain JAX on all others.
    if device != "cuda" and not (is_traced and device == "cpu"):
        return f"JAX computes on {platform_of(x)}, and it runs on NVIDIA's GPUs"
    if is_traced and is_exporting():
        return EXPORTING
    if 0 in x.shape:
        return "it takes no tensor without numbers"
    if not all(isinstance(size, int) for size in x.shape):
        return "sizes of its inputs are unknown"
    return _registered()


def cuda_number(x: Any) -> int:
    """Which card is asked how large it is: the first, as all of a process are taken to be alike."""
    return 0


# By `jax_default_matmul_precision`; what it says of no float32 product leaves float32.
_PRODUCTS = {
    "tensorfloat32": "tf32",
    "TF32_TF32_F32": "tf32",
    "bfloat16": "bfloat16",
    "BF16_BF16_F32": "bfloat16",
}


def cuda_products() -> str:
    """What products of float32 are computed from, by JAX's own setting."""
    return _PRODUCTS.get(str(jax.config.jax_default_matmul_precision), "float32")


def computing_from(products: str) -> contextlib.AbstractContextManager[None]:
    """Inside, JAX computes products of float32 from that; see `ostinato.doors`."""
    setting = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}[products]
    context: contextlib.AbstractContextManager[None] = jax.default_matmul_precision(setting)
    return context


@functools.cache
def cuda_launcher() -> str:
    """What launches the kernels, as text: our extension is part of it."""
    file = native.file()
    ours = hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
    return f"jax {jax.__version__} {ours}"


@functools.cache
def _registered() -> str | None:
    """Registers the handler with XLA; why that can't be, or None."""
    reason = native.why_not() or too_old()
    if reason is not None:
        return reason
    handler = native.jax_cuda_handler(on_card=True)
    if handler is None:
        return "the native engine was built without JAX's headers"
    jax.ffi.register_ffi_target(TARGET, handler, platform="CUDA")
    return None


def cuda_recurrence(name: str, operands: Sequence[Any], every: bool, products: str) -> Tensors:
    """Runs a recurrence, differentiably; see `ostinato.doors`."""
    results: Tensors = _compiled(_Recurrence(name, every, products), *operands)
    return results


@functools.partial(jax.jit, static_argnums=0)
def _compiled(recurrence: "_Recurrence", *operands: Any) -> Tensors:
    return call(recurrence, operands)


# One pass, on the platform "cuda" alone.

_launch = Primitive("ostinato_cuda")
_launch.multiple_results = True
Types = list[jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class _Pass:
    """A pass of kernels; see `jax_calls.Call`.

    Attributes:
        name: Whose.
        way: Which: "infer", "train" or "backward".
        every: Whether outputs are of every timestep.
        products: What products are computed from.
    """

    name: str
    way: str
    every: bool
    products: str

    @property
    def operand_axes(self) -> Axes:
        kernels = known(self.name).kernels
        upstream = (1, *kernels.result_axes("infer")) if self.way == "backward" else ()
        return [*kernels.axes, *upstream]

    @property
    def result_axes(self) -> Axes:
        return list(known(self.name).kernels.result_axes(self.way))

    @property
    def leader(self) -> int:
        axes = self.operand_axes
        return next(place for place, axis in enumerate(axes) if axis is not None)

    def run(self, *operands: Any) -> Tensors:
        return tuple(_launch.bind(*operands, of=self))

    def types(self, operands: Sequence[Any]) -> Types:
        kernels = known(self.name).kernels
        shapes = kernels.shapes(self.way, kernels.sizes(operands), self.every)
        return [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]

    def on_card(self, *operands: Any) -> Tensors:
        """The custom call, whose attributes are all that there is to know."""
        found = known(self.name)
        sizes = found.kernels.sizes(operands)
        prepared = found.kernels.prepared(
            self.way, found.how(sizes, self.every, self.products, cuda_number(operands[0]))
        )
        workspace = jax.ShapeDtypeStruct((prepared.workspace,), "int32")
        run = jax.ffi.ffi_call(TARGET, [*self.types(operands), workspace])
        laid, key = prepared.layout, np.frombuffer(hashlib.sha256(prepared.image).digest(), "<i8")
        size = laid.blocks, laid.threads, laid.shared, laid.barrier
        launch = (*key[:2], *size, prepared.groups, prepared.at_once, *sizes, self.every)
        image = prepared.image + bytes(-len(prepared.image) % 8)
        *results, _ = run(
            *operands,
            image=np.frombuffer(image, "<i8"),
            launch=np.array(launch, np.int64),
            pointers=np.array(prepared.pointers, np.int64).ravel(),
        )
        return tuple(results)


def _types(*operands: Any, of: _Pass) -> list[Any]:
    return [jax.core.ShapedArray(each.shape, each.dtype) for each in of.types(operands)]


def _lowered(ctx: Any, *operands: Any, of: _Pass) -> Any:
    return mlir.lower_fun(of.on_card, multiple_results=True)(ctx, *operands)


_launch.def_abstract_eval(_types)
mlir.register_lowering(_launch, _lowered, platform="cuda")


@dataclass(frozen=True)
class _Recurrence:
    """A recurrence, as an `Operation`.

    Attributes:
        name: Whose kernels run it.
        every: Whether outputs are of every timestep.
        products: What products are computed from.
    """

    name: str
    every: bool
    products: str

    platform = "cuda"

    @property
    def _kernels(self) -> Any:
        return known(self.name).kernels

    def _pass(self, way: str) -> _Pass:
        return _Pass(self.name, way, self.every, self.products)

    @property
    def differentiable(self) -> tuple[bool, ...]:
        return tuple(self._kernels.differentiable)

    @property
    def result_axes(self) -> tuple[int, ...]:
        return tuple(self._kernels.result_axes("infer"))

    def result_types(self, operands: Sequence[Any]) -> Types:
        return self._pass("infer").types(operands)

    def kept_types(self, operands: Sequence[Any]) -> Types:
        return self._pass("train").types(operands)[-1:]

    def infer(self, operands: Tensors) -> Tensors:
        return partitioned(self._pass("infer"))(*operands)

    def forward(self, operands: Tensors) -> tuple[Tensors, Tensors]:
        *results, kept = partitioned(self._pass("train"))(*operands)
        return tuple(results), (kept,)

    def backward(
        self, operands: Tensors, kept: Tensors, gradients: Tensors, wanted: tuple[int, ...]
    ) -> Tensors:
        results = partitioned(self._pass("backward"))(*operands, *kept, *gradients)
        found = known(self.name).afterwards(self._kernels, operands, *kept, results)
        return tuple(
            jnp.zeros_like(operands[place]) if found[place] is None else found[place]
            for place in wanted
        )

    def plain(self, operands: Tensors) -> Tensors:
        run: Callable[..., Tensors] = known(self.name).plain
        return run(operands, self.every)

    def folded(self, size: int, mapped: Sequence[bool], operands: Tensors) -> Tensors | None:
        """Where one call can't be for all, it's one for each: weights differ."""
        axes = self._kernels.axes
        if any(flag and axis is None for flag, axis in zip(mapped, axes, strict=True)):
            return None
        return tuple(map(functools.partial(fold, size), operands, mapped, axes))
