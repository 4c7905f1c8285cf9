"""Graphs that may leave this process: they're given the portable engine, or say why they can't go.

Where a graph is bound for is known while it's traced, or never: nothing tells a function that is
there already who will write it to a file.
"""

import contextlib
from functools import cache
from typing import Any

import tensorflow as tf

from ostinato.doors.tracing import EXPORTING, callers, is_exporting

# What those see who read a graph and have no such operation: a node's name, and a resource's.
NODE = "with_ostinato.use_engine-scan-without_this_operation"
RESOURCE = (
    "Ostinato's native operation, which exists in this process only. For a function that can be "
    'saved, have the model traced anew in `with ostinato.use_engine("scan")`'
)


def trace_why_not() -> str | None:
    """What keeps native operations out of what is being traced; None outside a trace."""
    if tf.executing_eagerly():
        return None
    reason = None
    for frame in callers():
        caller = frame.f_locals.get("self")
        if not isinstance(caller, tf.types.experimental.PolymorphicFunction):
            continue
        if getattr(caller, "_jit_compile", None) is True:
            return "XLA compiles this function (jit_compile=True), and has no such operation"
        if frame.f_code.co_name == "get_concrete_function":
            reason = (
                "the function's graph is asked for (get_concrete_function), as exporters do, and a "
                "graph has to run where Ostinato isn't installed"
            )
    return reason or (EXPORTING if is_exporting() else None)


def of_this_process() -> contextlib.AbstractContextManager[Any]:
    """Ties the operations that are added to a function to a resource that nothing tracks.

    `tf.saved_model.save` refuses a function with such a resource, and shows its name. It's used by
    nothing, and so gone from what runs.
    """
    if tf.executing_eagerly() or not tf.inside_function():
        return contextlib.nullcontext()
    tie = tf.raw_ops.VarIsInitializedOp(resource=_resource())
    context: contextlib.AbstractContextManager[Any] = tf.control_dependencies([tie])
    return context


@cache
def _resource() -> Any:
    with tf.init_scope():
        return tf.raw_ops.VarHandleOp(dtype=tf.bool, shape=(), shared_name=RESOURCE)
