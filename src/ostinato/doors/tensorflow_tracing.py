"""Where TensorFlow traces a function that the native engine's operations can't be part of."""

from typing import Any

import tensorflow as tf

from ostinato.doors.tracing import EXPORTING, callers, is_exporting


def trace_why_not() -> str | None:
    """What keeps native operations out of what is being traced; None outside a trace."""
    if tf.executing_eagerly():
        return None
    if any(_compiles(frame.f_locals.get("self")) for frame in callers()):
        return "XLA compiles this function (jit_compile=True), and has no such operation"
    return EXPORTING if is_exporting() else None


def _compiles(caller: Any) -> bool:
    is_function = isinstance(caller, tf.types.experimental.PolymorphicFunction)
    return is_function and getattr(caller, "_jit_compile", None) is True
