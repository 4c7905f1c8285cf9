"""The door to PyTorch: the loop is Python's."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import torch

from ostinato.doors.losses import kept_of_each

# What operations are made of is PyTorch's, some of it without a promise to stay.
_LACKS = f"PyTorch {torch.__version__} lacks what our operations are made of: "

try:
    from ostinato.doors.torch_native import native_run, native_why_not
except (ImportError, AttributeError) as error:
    _no_native = f"{_LACKS}{error}"

    def native_why_not(x: Any) -> str | None:
        """Why the native operations can't be had."""
        return _no_native


try:
    from ostinato.doors.torch_cuda import (
        computing_from,
        cuda_launcher,
        cuda_number,
        cuda_products,
        cuda_recurrence,
        cuda_why_not,
        register_kernels,
    )
except (ImportError, AttributeError) as error:
    _no_cuda = f"{_LACKS}{error}"

    def cuda_why_not(x: Any) -> str | None:
        """Why the kernels for a card can't be called."""
        return _no_cuda


try:
    from ostinato.doors.torch_cudnn import (
        CUDNN_DTYPES,
        CUDNN_MODES,
        cudnn,
        cudnn_precision,
        cudnn_why_not,
    )
except (ImportError, AttributeError) as error:
    _no_cudnn, CUDNN_DTYPES, CUDNN_MODES = f"{_LACKS}{error}", (), ()

    def cudnn_why_not(x: Any) -> str | None:
        """Why cuDNN can't be called."""
        return _no_cudnn


__all__ = [
    "COMPILES_CUDNN",
    "COMPILES_LOOPS",
    "CUDNN_DTYPES",
    "CUDNN_MODES",
    "affine",
    "at_once",
    "blend",
    "computing_from",
    "consuming",
    "cuda_launcher",
    "cuda_number",
    "cuda_products",
    "cuda_recurrence",
    "cuda_why_not",
    "cudnn",
    "cudnn_precision",
    "cudnn_why_not",
    "device_of",
    "dropout_masks",
    "for_checkpoints",
    "gates",
    "is_bare",
    "is_exporting",
    "lean",
    "loop",
    "multiply_add",
    "native_run",
    "native_why_not",
    "opaque",
    "packed",
    "product_precision",
    "read",
    "refused_while_compiling",
    "register_kernels",
    "remembered",
    "sized",
    "sizes_are_known",
    "threads",
    "zeros",
]

Tensors = tuple[Any, ...]

COMPILES_LOOPS = False
COMPILES_CUDNN = True

# Keras's function adds conversions and dtype checks, about 6 us an op; in an eager loop that's a
# third of the time (LSTM B64 T28 U64 forward: 3.5 ms with keras.ops, 1.9 ms with torch's).
_LEAN: dict[Any, Callable[..., Any]] = {
    keras.activations.sigmoid: torch.sigmoid,
    keras.activations.tanh: torch.tanh,
    keras.activations.relu: torch.relu,
    keras.activations.linear: lambda x: x,
    keras.ops.split: torch.chunk,
    keras.ops.where: torch.where,
    keras.ops.argsort: torch.argsort,
    keras.ops.take_along_axis: lambda x, places, axis: x.take_along_dim(places.long(), axis),
}
_IN_PLACE: dict[Any, Callable[..., Any]] = {
    torch.sigmoid: torch.sigmoid_,
    torch.tanh: torch.tanh_,
    torch.relu: torch.relu_,
}


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Inside, operations on what isn't being traced run now, for numbers that outlive the trace.

    What inference_mode makes can't be differentiated by later, and what is made while Keras runs a
    model for its shapes, as `fit` does first, has no numbers; so both are left for a while. What is
    drawn here leaves PyTorch's stream of random numbers as it was.
    """
    has_numbers = not keras.ops.zeros(()).is_meta
    device = contextlib.nullcontext() if has_numbers else keras.device(_device_of_keras())
    with device, torch.random.fork_rng(devices=()), torch.inference_mode(False), torch.no_grad():
        yield


@functools.cache
def _device_of_keras() -> str:
    """The device on which Keras makes tensors where none is asked for, as it is in a new thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: str(keras.ops.zeros(()).device)).result()


def loop(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
    carry: Tensors,
    xs: Tensors,
    like: Tensors,
    *,
    project: Callable[[Any], Any] | None = None,
    unroll: bool,
    variables: Sequence[keras.Variable] = (),
    add_loss: Callable[[Any], None] | None = None,
) -> tuple[Tensors, Tensors]:
    """Runs `step` over time; see `ostinato.doors`. Variables need no care in it."""
    if project is not None:  # one product for all timesteps saves T calls forward, 2 T backward
        xs = (project(xs[0]), *xs[1:])
    if torch.compiler.is_compiling():  # which wouldn't understand the scopes
        return _stepped(step, carry, xs, like)
    with kept_of_each(step, add_loss) as step:
        return _stepped(step, carry, xs, like)


def _stepped(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
    carry: Tensors,
    xs: Tensors,
    like: Tensors,
) -> tuple[Tensors, Tensors]:
    collected: list[Tensors] = []
    # unbind, not x[t]: its backward is one stack, where T selects each fill a (T, ...) gradient
    for x in zip(*(x.unbind(0) for x in xs), strict=True):
        carry, ys = step(carry, x)
        collected.append(ys)
    if not collected:  # copies, as zero states are one tensor, and these are the user's
        carry = tuple(state.clone() for state in carry)
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
    rows = torch.addmm(bias, x.flatten(0, -2), kernel)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def read(variable: keras.Variable, dtype: str) -> Any:
    """A variable's value in a dtype; keras.ops.convert_to_tensor takes 6 us more.

    `to` takes 1.7 us, also where there's nothing to do.
    """
    value, wanted = variable.value, getattr(torch, dtype)
    return value if value.dtype == wanted else value.to(wanted)


def zeros(shape: tuple[Any, ...], dtype: str, like: Any) -> Any:
    """Zeros on the device of another tensor; keras.ops takes 4 us, this 1."""
    if isinstance(like, torch.Tensor):
        return like.new_zeros(shape, dtype=getattr(torch, dtype))
    return keras.ops.zeros(shape, dtype=dtype)


def packed(kernel: Any) -> Any:
    """A kernel laid out for a product at every timestep: by columns, unless autograd is to see it.

    Products take 24 us where by rows they take 26 (B32 U128; 12 either way at B64 U64).
    """
    plain = torch.is_grad_enabled() or torch.jit.is_tracing()
    return kernel if plain else kernel.t().contiguous().t()


def blend(start: Any, end: Any, weight: Any) -> Any:
    """`start + weight (end - start)`, in one operation; autocast doesn't make its dtypes one."""
    if torch.is_autocast_enabled("cpu"):
        return start + weight * (end - start)
    return torch.lerp(start, end, weight)


# One operation where the plain operators are two, at 2 us each.
multiply_add = torch.addcmul


def device_of(x: Any) -> str:
    """The kind of device that a tensor is on; tensors without numbers count as the CPU's."""
    kind: str = x.device.type
    return "cpu" if kind == "meta" else kind


def is_bare(x: Any) -> bool:
    """Whether x is a dense tensor with numbers, outside torch.compile."""
    return (
        type(x) is torch.Tensor
        and x.layout is torch.strided
        and not (x.is_meta or x.is_nested)
        and not torch.compiler.is_compiling()
    )


def is_exporting() -> bool:
    """Whether ONNX is being written; told so that torch.compile understands it."""
    return bool(torch.onnx.is_in_onnx_export())


def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, into which torch.compile doesn't look: what it returns is a constant.

    A function around it, as torch.compile warns of each one that functools has wrapped.
    """

    def answer(*args: Any) -> Any:
        return function(*args)

    constant: Callable[..., Any] = torch.compiler.assume_constant_result(answer)
    return constant


_BREAKS_WITH_A_REASON = torch.__version__ >= (2, 8)  # older ones' function takes none


def refused_while_compiling(reason: str) -> None:
    """Ends the graph there: with `fullgraph` that's an error with the reason.

    Else torch.compile says of Keras's handling of errors that it can't be traced.
    """
    if torch.compiler.is_compiling() and _BREAKS_WITH_A_REASON:
        torch._dynamo.graph_break(msg=reason)


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its answers kept, which torch.compile looks into as into the plain one.

    It warns of each function that functools has wrapped: it would look inside all the same.
    """
    kept = functools.lru_cache(maxsize=4096)(function)

    def answer(*args: Any) -> Any:
        return function(*args) if torch.compiler.is_compiling() else kept(*args)

    return answer


def product_precision() -> str | None:
    """What `torch.set_float32_matmul_precision` and `torch.autocast` ask for."""
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    lowered = torch.get_float32_matmul_precision() == "medium" or autocast == torch.bfloat16
    return "bfloat16" if lowered else None


def threads() -> tuple[int, str]:
    """How many threads an operation may use, and how to give PyTorch one."""
    remedy = "OMP_NUM_THREADS=1 before Python starts, or torch.set_num_threads(1)"
    return torch.get_num_threads(), remedy


def for_checkpoints(variables: Sequence[keras.Variable]) -> None:
    """Nothing: only TensorFlow's checkpoints look for variables by themselves."""


def lean(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch's own function for one of Keras's, or the function itself."""
    return _LEAN.get(function, function)


def dropout_masks(*asked: Any) -> None:
    """Nothing: the framework draws them; see `ostinato.doors`."""


def consuming(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same in place, unless autograd needs the argument (LSTM's loop: 2 % faster)."""
    function = lean(function)
    plain = torch.is_grad_enabled() or torch.jit.is_tracing()
    return function if plain else _IN_PLACE.get(function, function)


def gates(functions: Sequence[Callable[..., Any]], kernel: Any) -> Callable[[Any, Any], list[Any]]:
    """See `ostinato.doors`.

    Without autograd the sum is taken in z's own memory, and a function that several gates share
    goes over all of it in one call: LSTM B64 T28 U64 takes 6 % less.
    """
    count = len(functions)
    if torch.is_grad_enabled() or _must_not_write():
        return lambda z, h: [
            f(part)
            for f, part in zip(functions, affine(h, kernel, z).chunk(count, -1), strict=True)
        ]
    kernel, common = packed(kernel), max(functions, key=functions.count)
    # Others' results mustn't lie in z, as those of an identity would.
    known = all(function in _IN_PLACE for function in functions)
    if functions.count(common) == 1 or not known:
        each = [consuming(function) for function in functions]
        return lambda z, h: [
            f(part) for f, part in zip(each, z.addmm_(h, kernel).chunk(count, -1), strict=True)
        ]
    others = [(i, function) for i, function in enumerate(functions) if function is not common]

    def apply(z: Any, h: Any) -> Any:
        parts = list(z.addmm_(h, kernel).chunk(count, -1))
        for i, function in others:
            parts[i] = function(parts[i])
        _IN_PLACE[common](z)
        return parts

    return apply


def _must_not_write() -> bool:
    """Whether tensors may be more than they seem: batched, traced, or of another dtype inside."""
    traced = (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
    )
    return bool(traced or torch.is_autocast_enabled("cpu"))


def sizes_are_known() -> bool:
    """True: what traces for unknown sizes has names for them."""
    return True


def sized(tensor: Any, sizes: Sequence[Any], message: str) -> Any:
    """The tensor, since its sizes are known."""
    return tensor


def pulled(
    function: Callable[..., Any], tensors: Sequence[Any], upstream: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """See `ostinato.doors`."""
    # Keras's Dropout without a seed draws from PyTorch's own stream: here it's the same numbers
    # each time, and none that the user's model would have had.
    with torch.random.fork_rng(devices=()), torch.enable_grad():
        torch.manual_seed(0)
        given = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        results = function(*given)
        moving = [result for result in results if result.requires_grad]
        gradients = [upstream(result) for result in moving]
        found = torch.autograd.grad(moving, given, gradients, allow_unused=True)
    pairs = zip(found, given, strict=True)
    return tuple(results), tuple(
        given.new_zeros(given.shape) if g is None else g for g, given in pairs
    )


def may_be_lowered_for(x: Any) -> tuple[str, ...]:
    """Nothing: where tensors are is known."""
    return ()
