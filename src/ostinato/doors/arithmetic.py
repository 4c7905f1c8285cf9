"""What the doors to compilers share: these fuse plain operators by themselves."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

Tensors = tuple[Any, ...]
Step = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]


def affine(x: Any, kernel: Any, bias: Any | None) -> Any:
    """`x kernel + bias`, on the last axis of x."""
    return x @ kernel if bias is None else x @ kernel + bias


def packed(kernel: Any) -> Any:
    """The kernel: a compiler lays it out as it likes."""
    return kernel


def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function: tracing runs Python as it is."""
    return function


def refused_while_compiling(reason: str) -> None:
    """Nothing: tracing runs Python as it is, and its errors are the caller's."""


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its answers kept, by its arguments."""
    return functools.lru_cache(maxsize=4096)(function)


def blend(start: Any, end: Any, weight: Any) -> Any:
    """`start + weight (end - start)`."""
    return weight * end + (1 - weight) * start


def multiply_add(addend: Any, first: Any, second: Any) -> Any:
    """`addend + first second`."""
    return first * second + addend


def gates_by(affine: Callable[..., Any]) -> Callable[..., Callable[[Any, Any], list[Any]]]:
    """A door's `gates`, of its `affine`."""

    def gates(
        functions: Sequence[Callable[..., Any]], kernel: Any
    ) -> Callable[[Any, Any], list[Any]]:
        count = len(functions)

        def apply(z: Any, h: Any) -> list[Any]:
            parts = ops.split(affine(h, kernel, z), count, -1)
            return [function(part) for function, part in zip(functions, parts, strict=True)]

        return apply

    return gates


def after(project: Callable[[Any], Any] | None, step: Step) -> Step:
    """The step on what `project` makes of the first of its inputs."""
    if project is None:
        return step
    return lambda carry, x: step(carry, (project(x[0]), *x[1:]))


def dropout_masks(*asked: Any) -> None:
    """Nothing: the framework draws them; see `ostinato.doors`."""


def threads() -> None:
    """Nothing: JAX doesn't tell, and TensorFlow only what it has been set to."""
