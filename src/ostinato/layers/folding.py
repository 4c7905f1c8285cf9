"""Timesteps as rows of one batch: (B, T, ...) as (B T, ...), and back."""

from typing import Any

import keras
from keras import ops

from ostinato.structure import Structure, first_known, leaves
from ostinato.tensors import Tensor, shape_of, size_of


def known_lead(inputs: Structure) -> tuple[int | None, int | None]:
    """B and T of inputs (B, T, ...), None where no input knows it."""
    shapes = [shape_of(x) for x in leaves(inputs)]
    return first_known(s[0] for s in shapes), first_known(s[1] for s in shapes)


def lead_of(inputs: Structure) -> tuple[Any, Any]:
    """B and T of inputs (B, T, ...), ints or scalar tensors."""
    first = leaves(inputs)[0]
    known = known_lead(inputs)
    batch, time = (size_of(first, a) if size is None else size for a, size in enumerate(known))
    return batch, time


def folded(tensor: Tensor) -> Tensor:
    """A tensor (B, T, ...) as (B T, ...)."""
    if isinstance(tensor, keras.KerasTensor):
        return Fold()(tensor)
    batch, time, *rest = _sizes(tensor)
    return ops.reshape(tensor, (batch * time, *rest))


def unfolded(tensor: Tensor, inputs: Structure) -> Tensor:
    """A tensor (B T, ...) as (B, T, ...), with B and T of inputs (B, T, ...)."""
    if isinstance(tensor, keras.KerasTensor):
        return Unfold()(tensor, leaves(inputs)[0])
    return ops.reshape(tensor, (*lead_of(inputs), *_sizes(tensor)[1:]))


def over_time(mask: Tensor, rows: Tensor) -> Tensor:
    """A mask (N,) of rows (N, T, ...) as one of their timesteps, (N, T); another as it is."""
    if len(mask.shape) > 1:
        return mask
    if isinstance(mask, keras.KerasTensor):
        return OverTime()(mask, rows)
    return ops.broadcast_to(mask[:, None], (size_of(rows, 0), size_of(rows, 1)))


def _sizes(tensor: Tensor) -> list[Any]:
    return [size_of(tensor, axis) for axis in range(len(tensor.shape))]


@keras.saving.register_keras_serializable(package="ostinato")
class Fold(keras.Operation):
    """`folded` of symbolic tensors, of which `ops.reshape` takes one unknown size alone."""

    def call(self, x: Tensor) -> Tensor:
        """(B, T, ...) as (B T, ...)."""
        return folded(x)

    def compute_output_spec(self, x: Any) -> Any:
        """Of the shape (B T, ...)."""
        batch, time, *rest = x.shape
        rows = None if None in (batch, time) else batch * time
        return keras.KerasTensor((rows, *rest), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="ostinato")
class Unfold(keras.Operation):
    """`unfolded` of symbolic tensors."""

    def call(self, x: Tensor, like: Tensor) -> Tensor:
        """(B T, ...) as (B, T, ...), with B and T of another tensor."""
        return unfolded(x, like)

    def compute_output_spec(self, x: Any, like: Any) -> Any:
        """Of the shape (B, T, ...)."""
        return keras.KerasTensor((*like.shape[:2], *x.shape[1:]), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="ostinato")
class OverTime(keras.Operation):
    """`over_time` of symbolic tensors, since `ops.broadcast_to` takes no unknown sizes."""

    def call(self, mask: Tensor, rows: Tensor) -> Tensor:
        """(N,) as (N, T), with N and T of rows (N, T, ...)."""
        return over_time(mask, rows)

    def compute_output_spec(self, mask: Any, rows: Any) -> Any:
        """Of the shape (N, T)."""
        return keras.KerasTensor(rows.shape[:2], dtype=mask.dtype)
