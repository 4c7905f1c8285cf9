"""cuDNN's LSTM by JAX: what `jax.experimental.rnn` calls, for programs that are lowered for CUDA.

For another platform, and where JAX has no CUDA, it's that module's own reference, a scan; so are
derivatives in forward mode, and of derivatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp

from ostinato.cudnn import CudnnSpec
from ostinato.doors.jax_native import platform_of
from ostinato.doors.jax_operation import call, fold
from ostinato.doors.jax_varying import varying_alike
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
    lstm = _Lstm(spec, cudnn_precision("float32"))
    results = _compiled(lstm, *given) if _has_cuda() else lstm.plain(tuple(given))
    return tuple(result.astype(x.dtype) for result in results)


@partial(jax.jit, static_argnums=0)
def _compiled(lstm: "_Lstm", *operands: Any) -> Tensors:
    return call(lstm, operands)


@dataclass(frozen=True)
class _Lstm:
    """A call of x, h, c and parameters, as an `Operation`.

    `jax.experimental.rnn.lstm` can't be mapped over (vmap), differentiated twice or forwards, nor
    run elsewhere: so its two halves are what the kernels are here.

    Attributes:
        spec: The call.
        precision: What products are computed from.
    """

    spec: CudnnSpec
    precision: str

    platform = "cuda"
    differentiable = (True,) * 4
    operand_axes = (0, 1, 1, None)
    result_axes = (0, 1, 1)

    @property
    def _sizes(self) -> tuple[Any, ...]:
        """Features, units, layers, dropout between them, and whether there are two directions."""
        return self.spec.features, self.spec.units, 1, 0.0, self.spec.directions == 2

    def _forward(self, *operands: Any) -> Tensors:
        lengths, precision = _lengths(operands[0]), _PRECISIONS[self.precision]
        results, saved = rnn.lstm_fwd(*operands, lengths, *self._sizes, precision)
        return *results, saved[-1]

    def result_types(self, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        x, h, c, _ = operands
        shape = (*x.shape[:2], self.spec.directions * self.spec.units)
        return [jax.ShapeDtypeStruct(each, x.dtype) for each in (shape, h.shape, c.shape)]

    def kept_types(self, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        """Outputs, and what cuDNN keeps for its way back."""
        types = [jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in operands]
        ys, _, _, reserve = jax.eval_shape(self._forward, *types)
        return [ys, reserve]

    def infer(self, operands: Tensors) -> Tensors:
        return self._forward(*operands)[:3]

    def forward(self, operands: Tensors) -> tuple[Tensors, Tensors]:
        *results, reserve = self._forward(*operands)
        return tuple(results), (results[0], reserve)

    def backward(
        self, operands: Tensors, kept: Tensors, gradients: Tensors, wanted: tuple[int, ...]
    ) -> Tensors:
        saved = (*operands, _lengths(operands[0]), *kept)
        found = rnn.lstm_bwd(*self._sizes, _PRECISIONS[self.precision], saved, tuple(gradients))
        return tuple(found[place] for place in wanted)

    def plain(self, operands: Tensors) -> Tensors:
        """That module's own reference, a scan."""
        x, h, c, parameters = varying_alike(operands)
        features, units, layers, dropout, both = self._sizes
        weights = rnn.unpack_lstm_weights(parameters, features, units, layers, both)
        results: Tensors = rnn.lstm_ref(
            x, h, c, *weights, _lengths(x), features, units, layers, dropout, both
        )
        return results

    def folded(self, size: int, mapped: Sequence[bool], operands: Tensors) -> Tensors | None:
        """Where one call can't be for all, it's one for each: parameters differ."""
        if mapped[-1]:
            return None
        return tuple(map(partial(fold, size), operands, mapped, self.operand_axes))


def _lengths(x: Any) -> Any:
    """All rows have all timesteps: what is masked has been moved, not cut off."""
    return jnp.full((x.shape[0],), x.shape[1], jnp.int32)
