"""What the doors to compilers share: these fuse plain operators by themselves."""

from typing import Any


def affine(x: Any, kernel: Any, bias: Any | None) -> Any:
    """`x kernel + bias`, on the last axis of x."""
    return x @ kernel if bias is None else x @ kernel + bias


def blend(weight: Any, first: Any, second: Any) -> Any:
    """`weight first + (1 - weight) second`."""
    return weight * first + (1 - weight) * second


def multiply_add(first: Any, second: Any, addend: Any) -> Any:
    """`first second + addend`."""
    return first * second + addend
