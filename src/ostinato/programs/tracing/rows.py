"""The size of the batch while a cell is traced: a number to count with, but not to ask about.

`ops.zeros((x.shape[0], n))` is right for a batch of any size. `if x.shape[0] == 1:` isn't: a
program would have one of two branches in it, for all batches.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

import keras

from ostinato.programs.tracing.refusal import Untraceable

# Two sizes that nothing else is likely to have. What depends on the size comes out differently for
# the two.
BATCHES = (7919, 7907)
FRAMEWORKS = ("ostinato", "keras", "jax", "jaxlib", "torch", "tensorflow", "numpy", "contextlib")


class Rows(int):
    """A size of a batch, as a cell's own code gets it."""

    name = "int32"  # Keras 3.10 asks what dtype the type of a size is
    __hash__ = int.__hash__


# Users may have it by a name of their own: the one who asks is behind it.
_SHAPE = keras.ops.shape.__code__


def _is_of_a_framework(depth: int) -> bool:
    frame = sys._getframe(depth + 1)
    if frame.f_code is _SHAPE and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in FRAMEWORKS


class OfThread(threading.local):
    """Of this thread's trace: whether the cell's own code has read the size of the batch."""

    has_read_size = False


OF_THREAD = OfThread()


def _comparing(own: Callable[..., Any]) -> Callable[..., Any]:
    def compare(size: Rows, other: Any) -> Any:
        is_number = isinstance(other, (int, float)) and not isinstance(other, Rows)
        if is_number and not _is_of_a_framework(1):
            raise Untraceable("its call asks how many rows the batch has; a program is for any")
        return own(size, other)

    return compare


def _counting(own: Callable[..., Any]) -> Callable[..., Any]:
    def count(size: Rows, other: Any) -> Any:
        result = own(size, other)
        return Rows(result) if type(result) is int else result

    return count


# Bits and rests of a size are a question, too: both of `BATCHES` are odd.
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "rshift", "mod", "rmod"):
    setattr(Rows, f"__{_name}__", _comparing(getattr(int, f"__{_name}__")))
for _name in ("add", "sub", "mul", "floordiv"):
    for _side in ("", "r"):
        setattr(Rows, f"__{_side}{_name}__", _counting(getattr(int, f"__{_side}{_name}__")))


def shape_told(own: Callable[..., Any]) -> Callable[..., Any]:
    """What gives a tensor's shape, so that a cell's own code gets the batch as `Rows`."""

    def shape(tensor: Any) -> Any:
        found = own(tensor)
        if not isinstance(tensor, keras.KerasTensor) or _is_of_a_framework(2):
            return found
        size = found[0] if found else None
        if not size or all(size % batch for batch in BATCHES):
            return found
        OF_THREAD.has_read_size = True
        return (Rows(size), *found[1:])

    return shape
