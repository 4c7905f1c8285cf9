"""Symbols that behave as tensors do, where Keras's behave as Python objects, or not at all.

`symbol == 0` is Python's False on a KerasTensor, and `symbol[:3]` an error: a cell that says such
things would be traced wrongly, or not, though it's right on tensors. Results of operations are
KerasTensors whatever went in, so the class itself is taught, in the thread that traces and for as
long as it does.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops


class WeightSymbol(keras.KerasTensor):
    """A symbol in a variable's place."""

    @property
    def value(self) -> "WeightSymbol":
        """A variable's value is what stands for it."""
        return self


_tracing = threading.local()
_lock = threading.Lock()
_depth = 0
_before: dict[str, Any] = {}


def _equal(own: Callable[..., Any]) -> Callable[..., Any]:
    def equal(symbol: Any, other: Any) -> Any:
        if getattr(_tracing, "depth", 0) and other is not None and not isinstance(other, str):
            return ops.equal(symbol, other)
        return own(symbol, other)

    return equal


def _getitem(own: Callable[..., Any]) -> Callable[..., Any]:
    def getitem(symbol: Any, key: Any) -> Any:
        return own(symbol, (key,) if isinstance(key, slice) or key is None or key is ... else key)

    return getitem


_TAUGHT = {"__eq__": _equal, "__getitem__": _getitem}


@contextmanager
def as_tensors() -> Iterator[None]:
    """While inside, in this thread, symbols are compared and sliced as tensors are."""
    global _depth
    with _lock:
        if _depth == 0:
            for name, taught in _TAUGHT.items():
                _before[name] = vars(keras.KerasTensor).get(name)
                setattr(keras.KerasTensor, name, taught(getattr(keras.KerasTensor, name)))
        _depth += 1
    _tracing.depth = getattr(_tracing, "depth", 0) + 1
    try:
        yield
    finally:
        _tracing.depth -= 1
        with _lock:
            _depth -= 1
            if _depth == 0:
                for name, own in _before.items():
                    if own is None:
                        delattr(keras.KerasTensor, name)
                    else:
                        setattr(keras.KerasTensor, name, own)
