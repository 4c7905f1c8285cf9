"""Over which axes of a shard_map arrays differ: JAX wants it alike of what it's given at once."""

from typing import Any

import jax
from jax import lax


def varying(kind: Any) -> frozenset[Any]:
    """The axes of a shard_map over which arrays of a type differ."""
    manual = getattr(kind, "mat", None)  # since JAX 0.10
    found: frozenset[Any] = getattr(kind, "vma", frozenset()) if manual is None else manual.varying
    return found


def varying_alike(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Operands that all differ over the same axes, as inside a shard_map those of plain JAX do."""
    axes = frozenset().union(*(varying(jax.typeof(operand)) for operand in operands))
    if not axes:
        return operands

    def spread(array: Any) -> Any:
        missing = tuple(axes - varying(jax.typeof(array)))
        if not missing:
            return array
        if hasattr(lax, "pcast"):
            return lax.pcast(array, missing, to="varying")
        return lax.pvary(array, missing)

    return tuple(map(spread, operands))
