"""An operation of JAX in two forms: kernels of our own, and plain JAX for all that they can't do.

Values and gradients are the kernels'. The plain form is what forward mode and second derivatives
are taken of, and what is written where a kernel of this process would be of no use: into an
exported program, and for any other platform than the kernels'. Which one it is, JAX tells when it
lowers a program, and nowhere before that. A custom_vjp sees neither that nor a tangent, hence
primitives:

    infer    operands -> results
    forward  operands -> results, kept: what `backward` needs besides
    push     operands, tangents -> tangents of the results: linear, with `backward` as transpose
    backward operands, kept, gradients of the results -> gradients of the operands

Reverse mode is `forward`, then the transpose of `push`; forward mode runs `push`, in plain JAX.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive
from jax.interpreters import ad, batching, mlir

from ostinato.doors.jax_varying import varying, varying_alike

Tensor = Any
Tensors = tuple[Any, ...]
Shapes = Sequence[jax.ShapeDtypeStruct]

# In each primitive's name, which is what those say who read a program and don't know a primitive.
HINT = '(plain JAX in `with ostinato.use_engine("scan")`)'


class Operation(Protocol):
    """Both forms; equal where they are, and hashable: JAX keeps what it has compiled for each."""

    @property
    def platform(self) -> str:
        """JAX's name of the platform that the kernels are for: "cpu" or "cuda"."""

    @property
    def result_axes(self) -> tuple[int, ...]:
        """Which axis of each result is the batch."""

    @property
    def differentiable(self) -> tuple[bool, ...]:
        """Of each operand whether results have a derivative in it."""

    def result_types(self, operands: Sequence[Any]) -> Shapes:
        """Shapes and dtypes of the results."""

    def kept_types(self, operands: Sequence[Any]) -> Shapes:
        """Shapes and dtypes of what `forward` keeps."""

    def infer(self, operands: Tensors) -> Tensors:
        """The results, by kernels."""

    def forward(self, operands: Tensors) -> tuple[Tensors, Tensors]:
        """The results and what's kept, by kernels."""

    def backward(
        self, operands: Tensors, kept: Tensors, gradients: Tensors, wanted: tuple[int, ...]
    ) -> Tensors:
        """The gradients of the wanted operands, given those of the results, by kernels."""

    def plain(self, operands: Tensors) -> Tensors:
        """The results, in operations of JAX."""

    def folded(self, size: int, mapped: Sequence[bool], operands: Tensors) -> Tensors | None:
        """Operands with the axis that vmap maps made a part of the batch; None where it can't be.

        Args:
            size: The axis's size.
            mapped: Of each operand whether it has the axis, in front.
            operands: The operands.
        """


def call(operation: Operation, operands: Tensors) -> Tensors:
    """The results of an operation, differentiable any number of times, in either mode."""
    return tuple(_bind(_infer, *varying_alike(operands), operation=operation))


# Taken apart: what each primitive is given in one list.


def _cut(values: Sequence[Any], *counts: int) -> list[Tensors]:
    parts, start = [], 0
    for count in (*counts, len(values)):
        parts.append(tuple(values[start : start + count]))
        start += count
    return parts


def _of_push(args: Sequence[Any], operation: Operation) -> list[Tensors]:
    """Operands, kept, tangents."""
    count = len(operation.differentiable)
    return _cut(args, count, len(operation.kept_types(args[:count])))


# The plain form, as a function of what has a derivative.


def _plain_of(
    operation: Operation, operands: Tensors, places: Sequence[int]
) -> Callable[..., Tensors]:
    def run(*values: Tensor) -> Tensors:
        given = list(operands)
        for place, value in zip(places, values, strict=True):
            given[place] = value
        return operation.plain(tuple(given))

    return run


def _plain_infer(*operands: Tensor, operation: Operation) -> Tensors:
    return operation.plain(operands)


def _plain_forward(*operands: Tensor, operation: Operation) -> Tensors:
    kept = (jax.numpy.zeros(t.shape, t.dtype) for t in operation.kept_types(operands))
    return (*operation.plain(operands), *kept)


def _plain_push(*args: Tensor, operation: Operation, moving: tuple[int, ...]) -> Tensors:
    operands, _, tangents = _of_push(args, operation)
    run = _plain_of(operation, operands, moving)
    # Not jvp: what is linear in the tangents stays apart from the rest, and has a transpose.
    _, push = jax.linearize(run, *(operands[place] for place in moving))
    pushed: Tensors = push(*tangents)
    return pushed


def _plain_backward(*args: Tensor, operation: Operation, wanted: tuple[int, ...]) -> Tensors:
    operands, _, gradients = _of_push(args, operation)
    run = _plain_of(operation, operands, wanted)
    _, pull = jax.vjp(run, *(operands[place] for place in wanted))
    pulled: Tensors = pull(gradients)
    return pulled


# The kernels.


def _native_infer(*operands: Tensor, operation: Operation) -> Tensors:
    return operation.infer(operands)


def _native_forward(*operands: Tensor, operation: Operation) -> Tensors:
    results, kept = operation.forward(operands)
    return (*results, *kept)


def _native_backward(*args: Tensor, operation: Operation, wanted: tuple[int, ...]) -> Tensors:
    operands, kept, gradients = _of_push(args, operation)
    return operation.backward(operands, kept, gradients, wanted)


_KERNELS: dict[Primitive, Callable[..., Tensors]] = {}


def _bind(primitive: Primitive, *args: Any, **parameters: Any) -> list[Tensor]:
    """Applies a primitive.

    The kernels' program is a parameter, since JAX looks for what needs to know the devices of a
    mesh in the programs that it finds there. Sizes that are symbols belong to an export, which has
    no use for it.
    """
    types = tuple((arg.shape, arg.dtype) for arg in args)
    kernels = None
    if primitive in _KERNELS and all(isinstance(n, int) for shape, _ in types for n in shape):
        kernels = _program(primitive, types, tuple(parameters.items()))
    bound: list[Tensor] = primitive.bind(*args, kernels=kernels, **parameters)
    return bound


@functools.lru_cache(maxsize=512)
def _program(
    primitive: Primitive, types: tuple[Any, ...], parameters: tuple[tuple[str, Any], ...]
) -> ClosedJaxpr:
    args = [jax.ShapeDtypeStruct(*each) for each in types]
    return jax.make_jaxpr(functools.partial(_KERNELS[primitive], **dict(parameters)))(*args)


# What comes out, without running it.


def _infer_types(*operands: Any, operation: Operation) -> Shapes:
    return operation.result_types(operands)


def _forward_types(*operands: Any, operation: Operation) -> Shapes:
    return (*operation.result_types(operands), *operation.kept_types(operands))


def _push_types(*args: Any, operation: Operation, moving: tuple[int, ...]) -> Shapes:
    return operation.result_types(args[: len(operation.differentiable)])


def _backward_types(*args: Any, operation: Operation, wanted: tuple[int, ...]) -> Shapes:
    return [jax.ShapeDtypeStruct(args[place].shape, args[place].dtype) for place in wanted]


def _abstract(types: Callable[..., Shapes]) -> Callable[..., Any]:
    """A primitive's rule of types, of a function that gives them as for one device."""

    def rule(*args: Any, kernels: Any, **parameters: Any) -> Any:
        found = types(*args, **parameters)
        if not varying(args[0]):
            return [jax.core.ShapedArray(t.shape, t.dtype) for t in found]

        def alike(x: Tensor) -> list[Tensor]:
            return [jax.numpy.broadcast_to(x.sum().astype(t.dtype), t.shape) for t in found]

        return [jax.typeof(t) for t in jax.eval_shape(alike, args[0])]

    return rule


# Derivatives.


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero


def _zeros_like(values: Sequence[Any]) -> list[Any]:
    return [ad.Zero(jax.typeof(value).to_tangent_aval()) for value in values]


def _infer_jvp(
    primals: Any, tangents: Any, *, kernels: Any, operation: Operation
) -> tuple[Any, Any]:
    if not _moving(tangents, operation):
        results = _bind(_infer, *primals, operation=operation)
        return results, _zeros_like(results)
    both, pushed = _forward_jvp(primals, tangents, kernels=None, operation=operation)
    count = len(operation.result_types(primals))
    return both[:count], pushed[:count]


def _forward_jvp(
    primals: Any, tangents: Any, *, kernels: Any, operation: Operation
) -> tuple[Any, Any]:
    # What's kept has no tangent: `push` and `backward`, which alone read it, are differentiated as
    # functions of the operands that it's made of.
    both = _bind(_forward, *primals, operation=operation)
    kept = _cut(both, len(operation.result_types(primals)))[1]
    moving = _moving(tangents, operation)
    if not moving:
        return both, _zeros_like(both)
    along = [tangents[place] for place in moving]
    pushed = _bind(_push, *primals, *kept, *along, operation=operation, moving=moving)
    return both, [*pushed, *_zeros_like(kept)]


def _moving(tangents: Any, operation: Operation) -> tuple[int, ...]:
    """The places of the operands along which the results may move."""
    pairs = enumerate(zip(tangents, operation.differentiable, strict=True))
    return tuple(place for place, (t, has_one) in pairs if has_one and not _is_zero(t))


def _plain_jvp(plain: Callable[..., Tensors]) -> Callable[..., Any]:
    """The rule of `push` and `backward`, whose values come from kernels where those have them."""

    def rule(
        primals: Any, tangents: Any, *, kernels: Any, operation: Operation, **places: Any
    ) -> Any:
        moving = [i for i, tangent in enumerate(tangents) if not _is_zero(tangent)]
        primitive = _push if plain is _plain_push else _backward

        def run(*values: Tensor) -> Tensors:
            given = list(primals)
            for place, value in zip(moving, values, strict=True):
                given[place] = value
            return plain(*given, operation=operation, **places)

        values = _bind(primitive, *primals, operation=operation, **places)
        points = tuple(primals[i] for i in moving)
        _, pushed = jax.jvp(run, points, tuple(tangents[i] for i in moving))
        return values, pushed

    return rule


def _push_transpose(
    gradients: Any, *args: Any, kernels: Any, operation: Operation, moving: tuple[int, ...]
) -> list[Any]:
    operands, kept, tangents = _of_push(args, operation)
    is_wanted = [ad.is_undefined_primal(tangent) for tangent in tangents]
    wanted = tuple(place for place, flag in zip(moving, is_wanted, strict=True) if flag)
    dense = map(ad.instantiate_zeros, gradients)
    pulled = iter(_bind(_backward, *operands, *kept, *dense, operation=operation, wanted=wanted))
    none = [None] * (len(operands) + len(kept))
    return [*none, *(next(pulled) if flag else None for flag in is_wanted)]


# vmap: the mapped axis becomes a part of the batch, or there's a loop of calls that each use all
# threads.


def _in_front(args: Any, dims: Any) -> tuple[int, list[bool], Tensors]:
    mapped = [dim is not None for dim in dims]
    moved = tuple(
        jax.numpy.moveaxis(arg, dim, 0) if flag else arg
        for arg, dim, flag in zip(args, dims, mapped, strict=True)
    )
    return (
        next(arg.shape[0] for arg, flag in zip(moved, mapped, strict=True) if flag),
        mapped,
        moved,
    )


def _infer_batched(args: Any, dims: Any, *, kernels: Any, operation: Operation) -> tuple[Any, Any]:
    size, mapped, operands = _in_front(args, dims)
    folded = operation.folded(size, mapped, operands)
    if folded is None:
        looped: tuple[Any, Any] = _looped(_infer)(args, dims, kernels=None, operation=operation)
        return looped
    outputs = _bind(_infer, *folded, operation=operation)
    split = [unfold(size, *pair) for pair in zip(outputs, operation.result_axes, strict=True)]
    return split, [0] * len(split)


def fold(size: int, array: Tensor, is_mapped: bool, batch: int | None) -> Tensor:
    """(N, ..., B, ...) as (..., N B, ...), of an array whose axis `batch` is the batch, if any."""
    if batch is None:
        return array
    spread = array if is_mapped else jax.numpy.broadcast_to(array, (size, *array.shape))
    return lax.collapse(jax.numpy.moveaxis(spread, 0, batch), batch, batch + 2)


def unfold(size: int, array: Tensor, batch: int) -> Tensor:
    """(..., N B, ...) as (N, ..., B, ...)."""
    sizes = array.shape[:batch], array.shape[batch] // size, array.shape[batch + 1 :]
    return jax.numpy.moveaxis(array.reshape(*sizes[0], size, sizes[1], *sizes[2]), batch, 0)


def _looped(primitive: Primitive) -> Callable[..., Any]:
    def rule(args: Any, dims: Any, *, kernels: Any, **parameters: Any) -> tuple[Any, Any]:
        _, mapped, moved = _in_front(args, dims)

        def one(values: list[Any]) -> Any:
            rest = iter(values)
            pairs = zip(moved, mapped, strict=True)
            return _bind(primitive, *(next(rest) if f else a for a, f in pairs), **parameters)

        pairs = zip(moved, mapped, strict=True)
        outputs = lax.map(one, [arg for arg, flag in pairs if flag])
        return outputs, [0] * len(outputs)

    return rule


def _push_batched(args: Any, dims: Any, *, kernels: Any, **parameters: Any) -> tuple[Any, Any]:
    outputs = jax.vmap(lambda *a: _plain_push(*a, **parameters), tuple(dims))(*args)
    return outputs, [0] * len(outputs)


# The primitives.


def _primitive(
    name: str,
    types: Callable[..., Shapes],
    plain: Callable[..., Tensors],
    kernels: Callable[..., Tensors] | None = None,
) -> Primitive:
    primitive = Primitive(f"ostinato_{name} {HINT}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(_abstract(types))
    if kernels is not None:
        _KERNELS[primitive] = kernels

    def run(*args: Tensor, kernels: ClosedJaxpr | None, **parameters: Any) -> Tensors:
        if kernels is None:
            return plain(*args, **parameters)
        return tuple(jax.core.eval_jaxpr(kernels.jaxpr, kernels.consts, *args))

    in_plain = mlir.lower_fun(
        lambda *args, kernels, **parameters: plain(*args, **parameters), multiple_results=True
    )
    in_kernels = mlir.lower_fun(run, multiple_results=True)

    def lowered_for(platform: str, ctx: Any, *args: Any, **parameters: Any) -> Any:
        exporting = ctx.module_context.lowering_parameters.for_export
        is_plain = exporting or parameters["operation"].platform != platform
        return (in_plain if is_plain else in_kernels)(ctx, *args, **parameters)

    primitive.def_impl(run)
    mlir.register_lowering(primitive, in_plain)
    for platform in ("cpu", "cuda"):
        rule = functools.partial(lowered_for, platform)
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


_infer = _primitive("infer", _infer_types, _plain_infer, _native_infer)
_forward = _primitive("forward", _forward_types, _plain_forward, _native_forward)
_push = _primitive("push", _push_types, _plain_push)
_backward = _primitive("backward", _backward_types, _plain_backward, _native_backward)

ad.primitive_jvps[_infer] = _infer_jvp
ad.primitive_jvps[_forward] = _forward_jvp
ad.primitive_jvps[_push] = _plain_jvp(_plain_push)
ad.primitive_jvps[_backward] = _plain_jvp(_plain_backward)
ad.primitive_transposes[_push] = _push_transpose
batching.primitive_batchers[_infer] = _infer_batched
batching.primitive_batchers[_forward] = _looped(_forward)
batching.primitive_batchers[_backward] = _looped(_backward)
batching.primitive_batchers[_push] = _push_batched
