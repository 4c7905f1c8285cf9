"""Symbols that behave as tensors do, where Keras's behave as Python objects, or not at all.

`symbol == 0` is Python's False on a KerasTensor, and `symbol[:3]` an error: a cell that says such
things would be traced wrongly, or not, though it's right on tensors. Results of operations are
KerasTensors whatever went in, so the class itself is taught.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
from keras import ops

from ostinato.programs.tracing.taught import Taught


class WeightSymbol(keras.KerasTensor):
    """A symbol in a variable's place."""

    @property
    def value(self) -> "WeightSymbol":
        """A variable's value is what stands for it."""
        return self


def _equal(own: Callable[..., Any]) -> Callable[..., Any]:
    def equal(symbol: Any, other: Any) -> Any:
        return own(symbol, other) if other is None else ops.equal(symbol, other)

    return equal


def _getitem(own: Callable[..., Any]) -> Callable[..., Any]:
    def getitem(symbol: Any, key: Any) -> Any:
        is_one = isinstance(key, slice) or key is None or key is ...
        return own(symbol, (key,) if is_one else key)

    return getitem


_TAUGHT = (
    Taught(keras.KerasTensor, "__eq__", _equal),
    Taught(keras.KerasTensor, "__getitem__", _getitem),
)


@contextmanager
def as_tensors() -> Iterator[None]:
    """While inside, in this thread, symbols are compared and sliced as tensors are."""
    with ExitStack() as stack:
        for taught in _TAUGHT:
            stack.enter_context(taught.used())
        yield
