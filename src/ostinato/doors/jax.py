"""The door to JAX: the loop is `lax.scan`."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import keras
from jax import lax
from jax.extend.core import get_opaque_trace_state

from ostinato.doors import jax_convolution
from ostinato.doors.arithmetic import (
    after,
    blend,
    gates_by,
    multiply_add,
    opaque,
    packed,
    refused_while_compiling,
    remembered,
    threads,
)
from ostinato.doors.jax_cuda import (
    computing_from,
    cuda_launcher,
    cuda_number,
    cuda_products,
    cuda_recurrence,
    cuda_why_not,
    register_kernels,
)
from ostinato.doors.jax_cudnn import (
    CUDNN_DTYPES,
    CUDNN_MODES,
    cudnn,
    cudnn_precision,
    cudnn_why_not,
    device_of,
)
from ostinato.doors.jax_masks import dropout_masks
from ostinato.doors.jax_native import native_run, native_why_not
from ostinato.doors.jax_platforms import by_device, lowered_for, may_be_lowered_for
from ostinato.doors.jax_scan import affine, scan
from ostinato.doors.jax_varying import varying_throughout
from ostinato.doors.losses import LossesTaken, dtype_of_sum, kept_of_each, summed
from ostinato.doors.tracing import is_exporting

__all__ = [
    "COMPILES_CUDNN",
    "COMPILES_LOOPS",
    "CUDNN_DTYPES",
    "CUDNN_MODES",
    "affine",
    "at_once",
    "blend",
    "by_device",
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
    "lowered_for",
    "may_be_lowered_for",
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

COMPILES_LOOPS = True
COMPILES_CUDNN = True
Step = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]

# Outside jit every scan is compiled anew, in 0.1 s or more; up to so many timesteps it's quicker to
# run them one by one.
EAGER_TIMESTEPS = 256


# Keras's tanh turns float64 to float32; its conv is slow to differentiate in a loop.
_LEAN: dict[Any, Callable[..., Any]] = {
    keras.activations.tanh: jax.numpy.tanh,
    keras.ops.conv: jax_convolution.conv,
}


def at_once() -> contextlib.AbstractContextManager[Any]:
    """Inside, operations on what isn't being traced run now, for numbers that outlive the trace."""
    context: contextlib.AbstractContextManager[Any] = jax.ensure_compile_time_eval()
    return context


def loop(
    step: Step,
    carry: Tensors,
    xs: Tensors,
    like: Tensors,
    *,
    project: Callable[[Any], Any] | None = None,
    unroll: bool,
    variables: Sequence[keras.Variable] = (),
    add_loss: Callable[[Any], None] | None = None,
) -> tuple[Tensors, Tensors]:
    """Runs `step` over time; see `ostinato.doors`."""
    if _is_eager() and xs[0].shape[0] <= EAGER_TIMESTEPS:
        with kept_of_each(after(project, step), add_loss) as step:
            return _eager(step, carry, xs, like)
    if project is not None:
        return scan(step, project, carry, xs, unroll)
    # A variable that the step updates (a seed, a moving mean) would keep a tracer of the scan:
    # its value travels in the carry instead, and is assigned once the scan is over.
    first = tuple(variable.value for variable in variables)

    def body(
        carried: tuple[Tensors, Tensors], x: Tensors
    ) -> tuple[tuple[Tensors, Tensors], tuple[Tensors, Any]]:
        inner, values = carried
        _assign(variables, values)
        with LossesTaken() as taken:
            inner, ys = step(inner, x)
        loss = summed(taken.losses, dtype_of_sum(taken.losses)) if taken.losses else None
        return (inner, tuple(variable.value for variable in variables)), (ys, loss)

    last = first
    try:
        unrolled = True if unroll else 1
        begun = varying_throughout(body, (carry, first), xs)
        (carry, last), (ys, losses) = lax.scan(body, begun, xs, unroll=unrolled)
    finally:
        _assign(variables, last)
    if losses is not None and add_loss is not None:
        add_loss(losses.sum())
    return carry, ys


def _is_eager() -> bool:
    """Whether nothing is being compiled: under jit even a constant is a tracer."""
    # The first takes 0.4 us and the second 160; it says so under grad and vmap outside jit, too.
    at_top = get_opaque_trace_state() == _untraced()
    return at_top or not isinstance(jax.numpy.zeros(()), jax.core.Tracer)


@functools.cache
def _untraced() -> Any:
    """JAX's state where nothing is traced, as it is in a new thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(get_opaque_trace_state).result()


def read(variable: Any, dtype: str) -> Any:
    """A variable's value in a dtype; keras.ops.convert_to_tensor takes 3 us to find it has it."""
    value = variable.value if isinstance(variable, keras.Variable) else variable  # a twin's weight
    return value if value.dtype == dtype else value.astype(dtype)


def zeros(shape: tuple[Any, ...], dtype: str, like: Any) -> Any:
    """Zeros where JAX puts new arrays.

    Outside jit they're the same arrays again where they can be: to fill two anew takes 150 us.
    """
    if not _is_eager() or not all(isinstance(size, int) for size in shape):
        return jax.numpy.zeros(shape, dtype)
    kept = _kept_zeros(shape, dtype, jax.config.jax_default_device)
    if kept.is_deleted():  # somebody gave it away, by jit's donate_argnums
        _kept_zeros.cache_clear()
        kept = _kept_zeros(shape, dtype, jax.config.jax_default_device)
    return kept


@functools.lru_cache(maxsize=32)
def _kept_zeros(shape: tuple[int, ...], dtype: str, device: Any) -> Any:
    return jax.numpy.zeros(shape, dtype)


def _eager(step: Step, carry: Tensors, xs: Tensors, like: Tensors) -> tuple[Tensors, Tensors]:
    collected: list[Tensors] = []
    for time in range(xs[0].shape[0]):
        carry, ys = step(carry, tuple(x[time] for x in xs))
        collected.append(ys)
    if not collected:
        return carry, tuple(jax.numpy.zeros((0, *y.shape), y.dtype) for y in like)
    return carry, tuple(jax.numpy.stack(ys) for ys in zip(*collected, strict=True))


def _assign(variables: Sequence[keras.Variable], values: Tensors) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def for_checkpoints(variables: Sequence[keras.Variable]) -> None:
    """Nothing: only TensorFlow's checkpoints look for variables by themselves."""


def is_bare(x: Any) -> bool:
    """False: calls are compiled."""
    return False


def lean(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, since under jit Keras's checks cost nothing; or one that's exact."""
    return _LEAN.get(function, function)


consuming = lean  # the compiler reuses memory by itself
gates = gates_by(affine)


def sizes_are_known() -> bool:
    """True: while tracing an unknown size has a name, which no other size equals."""
    return True


def sized(tensor: Any, sizes: Sequence[Any], message: str) -> Any:
    """The tensor, since its sizes are known."""
    return tensor


# For a function that runs once: compiled as quickly as can be, but in one piece: one by one, its
# operations would take 10 to 40 ms each.
_HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def pulled(
    function: Callable[..., Tensors], tensors: Tensors, upstream: Callable[[Any], Any]
) -> tuple[Tensors, Tensors]:
    """See `ostinato.doors`."""

    def both(*tensors: Any) -> tuple[Tensors, Tensors]:
        results, pull = jax.vjp(function, *tensors)
        return tuple(results), tuple(pull(tuple(map(upstream, results))))

    compiled = jax.jit(both).lower(*tensors).compile(compiler_options=_HASTY)
    answer: tuple[Tensors, Tensors] = compiled(*tensors)
    return answer


def product_precision() -> str | None:
    """What `jax_default_matmul_precision` asks for."""
    setting = jax.config.jax_default_matmul_precision
    return "bfloat16" if setting in ("bfloat16", "BF16_BF16_F32") else None
