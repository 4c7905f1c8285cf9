"""Over which axes of a shard_map arrays differ: JAX wants it alike of what it's given at once."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp


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

    return tuple(_spread(operand, axes) for operand in operands)


def zeros_of(shape: tuple[Any, ...], kind: Any) -> Any:
    """Zeros of a type's dtype, which differ over the axes over which its arrays do."""
    return _spread(jnp.zeros(shape, kind.dtype), varying(kind))


def varying_throughout(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any) -> Any:
    """A loop's first carry, which differs over the axes over which later ones do.

    As inside a shard_map `lax.scan` wants it: states begin as zeros, the same everywhere, and come
    to hold what is of the rows of one device. Elsewhere `body` isn't looked at.

    Args:
        body: One timestep, of the carry and x.
        carry: The first carry, of any structure.
        xs: Arrays (T, ...).
    """
    if not _is_in_a_map():
        return carry

    def one(carry: Any, x: Any) -> Any:
        return body(carry, x)[0]

    # Not the first, as there may be none.
    x = jax.tree.map(lambda x: zeros_of(x.shape[1:], jax.typeof(x)), xs)
    for _ in jax.tree.leaves(carry):  # what one comes to hold may go on to another
        later = jax.eval_shape(one, carry, x)
        spread = jax.tree.map(
            lambda array, then: _spread(array, varying(jax.typeof(then))), carry, later
        )
        if all(map(_alike, *map(jax.tree.leaves, (carry, spread)))):
            return carry
        carry = spread
    return carry


def _is_in_a_map() -> bool:
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def _alike(one: Any, other: Any) -> bool:
    return varying(jax.typeof(one)) == varying(jax.typeof(other))


def _spread(array: Any, axes: frozenset[Any]) -> Any:
    missing = tuple(axes - varying(jax.typeof(array)))
    if not missing:
        return array
    if hasattr(lax, "pcast"):
        return lax.pcast(array, missing, to="varying")
    return lax.pvary(array, missing)
