"""cuDNN's LSTM by JAX: what `jax.experimental.rnn` calls, for programs that are lowered for CUDA.

For another platform, and where JAX has no CUDA, it's that module's own reference, a scan.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jax.custom_batching import sequential_vmap

from ostinato.cudnn import CudnnSpec
from ostinato.doors.jax_native import platform_of
from ostinato.doors.tracing import EXPORTING, is_exporting

__all__ = ["CUDNN_DTYPES", "CUDNN_MODES", "cudnn", "cudnn_precision", "cudnn_why_not", "device_of"]

try:
    from jax.experimental import rnn
except ImportError:  # experimental: it may go
    rnn = None

Tensors = tuple[Any, ...]

CUDNN_MODES: tuple[str, ...] = ("lstm",)
CUDNN_DTYPES: tuple[str, ...] = ("float32", "float16", "bfloat16")  # the halves by way of float32

_PRECISIONS = {"float32": lax.Precision.HIGHEST, "tf32": lax.Precision.HIGH}
_EXACT = ("float32", "highest", "F32_F32_F32")


def device_of(x: Any) -> str:
    """The kind of device that x is on; what is being traced goes where JAX puts new arrays."""
    platform = platform_of(x)
    return "cuda" if platform == "gpu" and _has_cuda() else platform


def cudnn_why_not(x: Any) -> str | None:
    """What keeps JAX from calling it on such an x; None where nothing does."""
    if rnn is None:
        return f"JAX {jax.__version__} has no jax.experimental.rnn"
    if device_of(x) not in ("cuda", "cpu"):
        return f"JAX computes on {platform_of(x)}, and cuDNN runs on NVIDIA's GPUs"
    if isinstance(x, jax.core.Tracer) and is_exporting():
        return EXPORTING
    return "cuDNN takes no tensor without numbers" if 0 in x.shape else None


def cudnn_precision(dtype: str) -> str:
    """What `jax_default_matmul_precision` asks for: TF32 unless it says float32."""
    return "float32" if jax.config.jax_default_matmul_precision in _EXACT else "tf32"


def _has_cuda() -> bool:
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


def cudnn(spec: CudnnSpec, x: Any, states: Tensors, parameters: Any) -> Tensors:
    """Runs one call; see `ostinato.doors`."""
    given = [tensor.astype(jnp.float32) for tensor in (x, *states, parameters)]
    run = _compiled if _has_cuda() else _reference
    results = run(_Call(spec, cudnn_precision("float32")), *given)
    return tuple(result.astype(x.dtype) for result in results)


class _Call(NamedTuple):
    """What is known of a call while it's traced: sizes, and what products are computed from."""

    spec: CudnnSpec
    precision: str

    def sizes(self) -> tuple[Any, ...]:
        """Features, units, layers, dropout between them, and whether there are two directions."""
        return self.spec.features, self.spec.units, 1, 0.0, self.spec.directions == 2


def _reference(call: _Call, x: Any, h: Any, c: Any, parameters: Any) -> Tensors:
    features, units, layers, dropout, both = call.sizes()
    weights = rnn.unpack_lstm_weights(parameters, features, units, layers, both)
    lengths = _lengths(x)
    results: Tensors = rnn.lstm_ref(
        x, h, c, *weights, lengths, features, units, layers, dropout, both
    )
    return results


def _lengths(x: Any) -> Any:
    """All rows have all timesteps: what is masked has been moved, not cut off."""
    return jnp.full((x.shape[0],), x.shape[1], jnp.int32)


# For CUDA. `jax.experimental.rnn.lstm` can't be mapped over (vmap), nor run elsewhere: so it's put
# together again from its two halves, each mapped over one by one.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _differentiable(call: _Call, *operands: Any) -> Tensors:
    return _forward(call, *operands)[:3]


def _save(call: _Call, *operands: Any) -> tuple[Tensors, Tensors]:
    *results, reserve = _forward(call, *operands)
    return tuple(results), (*operands, results[0], reserve)


def _pulled(call: _Call, saved: Tensors, upstream: Tensors) -> Tensors:
    gradients: Tensors = sequential_vmap(partial(_backward_here, call))(*saved, *upstream)
    return gradients


_differentiable.defvjp(_save, _pulled)
_compiled = jax.jit(_differentiable, static_argnums=0)


def _forward(call: _Call, *operands: Any) -> Tensors:
    """Outputs, final states, and what cuDNN keeps for its backward pass."""
    results: Tensors = sequential_vmap(partial(_forward_here, call))(*operands)
    return results


def _forward_here(call: _Call, *operands: Any) -> Tensors:
    on_cuda = partial(_cudnn_forward, call)
    *_, reserve = jax.eval_shape(on_cuda, *operands)

    def elsewhere(*operands: Any) -> Tensors:
        return *_reference(call, *operands), jnp.zeros(reserve.shape, reserve.dtype)

    results: Tensors = lax.platform_dependent(*operands, cuda=on_cuda, default=elsewhere)
    return results


def _backward_here(call: _Call, *given: Any) -> Tensors:
    def elsewhere(*given: Any) -> Tensors:
        operands, upstream = given[:4], given[6:]
        gradients: Tensors = jax.vjp(partial(_reference, call), *operands)[1](tuple(upstream))
        return gradients

    on_cuda = partial(_cudnn_backward, call)
    results: Tensors = lax.platform_dependent(*given, cuda=on_cuda, default=elsewhere)
    return results


def _cudnn_forward(call: _Call, *operands: Any) -> Tensors:
    x, h, c, parameters = operands
    lengths, precision = _lengths(x), _PRECISIONS[call.precision]
    results, saved = rnn.lstm_fwd(x, h, c, parameters, lengths, *call.sizes(), precision)
    return *results, saved[-1]


def _cudnn_backward(call: _Call, *given: Any) -> Tensors:
    x, h, c, parameters, ys, reserve, *upstream = given
    saved = (x, h, c, parameters, _lengths(x), ys, reserve)
    *gradients, _ = rnn.lstm_bwd(*call.sizes(), _PRECISIONS[call.precision], saved, tuple(upstream))
    return tuple(gradients)
