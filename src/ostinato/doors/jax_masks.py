"""Dropout masks on JAX, drawn by the native engine: the very numbers of `keras.random.dropout`.

XLA draws at 6 ns a number, at small sizes as long as a part of the layer's step; the engine's
threefry takes less than one.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import ml_dtypes
import numpy as np

from ostinato.doors.jax_calls import target
from ostinato.doors.jax_native import native_why_not
from ostinato.doors.jax_operation import call

Tensors = tuple[Any, ...]


def dropout_masks(
    generator: Any, count: int, shape: tuple[Any, ...], rate: float, dtype: str
) -> Tensors | None:
    """Masks as `keras.random.dropout` draws them of ones, or None where it has to; see doors."""
    if not _draws_as_the_engine_does() or not all(isinstance(size, int) for size in shape):
        return None
    if dtype not in _BITS or native_why_not(generator.state.value) is not None:
        return None
    seeds = [generator.next() for _ in range(count)]
    masks = _operation(count, shape, rate, dtype)(*seeds)
    return tuple(masks[place] for place in range(count))


def _draws_as_the_engine_does() -> bool:
    """Whether numbers are those of threefry, of 32 bits, each from its own place alone."""
    config = jax.config
    return bool(
        config.jax_default_prng_impl == "threefry2x32"
        and config.jax_threefry_partitionable
        and not config.jax_enable_x64
    )


_BITS = {"float32": np.uint32, "bfloat16": np.uint16, "float16": np.uint16}
_NUMBERS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclass(frozen=True)
class _Masks:
    """Masks of keys (N, 2), as an `Operation`."""

    count: int
    shape: tuple[int, ...]
    rate: float
    dtype: str

    platform = "cpu"
    differentiable = (False,)
    result_axes = (0,)

    def result_types(self, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct((self.count, *self.shape), self.dtype)]

    def kept_types(self, operands: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
        return []

    def infer(self, operands: Tensors) -> Tensors:
        draw = jax.ffi.ffi_call(target("draw"), self.result_types(operands)[0])
        return (draw(*operands, bound=np.int64(self._bound), kept=np.int64(self._kept)),)

    def forward(self, operands: Tensors) -> tuple[Tensors, Tensors]:
        return self.infer(operands), ()

    def backward(
        self, operands: Tensors, kept: Tensors, gradients: Tensors, wanted: tuple[int, ...]
    ) -> Tensors:
        raise TypeError("[ostinato] draw: has no derivative.")

    def folded(self, size: int, mapped: Sequence[bool], operands: Tensors) -> Tensors | None:
        return None

    def plain(self, operands: Tensors) -> Tensors:
        def one(key: Any) -> Any:
            kept = jax.random.bernoulli(key, 1.0 - self.rate, self.shape)
            ones = jax.numpy.ones(self.shape, self.dtype)
            return jax.lax.select(kept, ones / (1.0 - self.rate), jax.numpy.zeros_like(ones))

        return (jax.vmap(one)(operands[0]),)

    @property
    def _bound(self) -> int:
        """A number u of 23 bits is kept where u / 2^23 is less than the probability, a float32."""
        return int(np.ceil(float(np.float32(1.0 - self.rate)) * 2**23))

    @property
    def _kept(self) -> int:
        """The bits of what is kept: 1 over the probability, in the masks' dtype."""
        number = _NUMBERS[self.dtype]
        with np.errstate(over="ignore", divide="ignore"):  # beyond float16 infinity, as Keras's
            value = np.asarray(number(1) / number(1.0 - self.rate), number)
        return int(value.view(_BITS[self.dtype]))


@functools.cache
def _operation(count: int, shape: tuple[int, ...], rate: float, dtype: str) -> Callable[..., Any]:
    masks = _Masks(count, shape, rate, dtype)

    def run(*seeds: Any) -> Any:
        return call(masks, (jax.numpy.stack(seeds),))[0]

    compiled: Callable[..., Any] = jax.jit(run)
    return compiled
