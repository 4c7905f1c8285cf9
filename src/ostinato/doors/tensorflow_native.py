"""The native engine's operations in TensorFlow: OstinatoForward and OstinatoBackward.

They live in a shared object of their own, next to `_native`, that goes through TensorFlow's C API.
"""

import ctypes
from dataclasses import replace
from functools import cache
from typing import Any

import tensorflow as tf

from ostinato import native
from ostinato.doors.tensorflow_graphs import NODE, of_this_process, trace_why_not
from ostinato.routines import by_hashes
from ostinato.signatures import Signature, Spec, pullback, signature, signature_of

__all__ = ["is_on_gpu", "native_run", "native_why_not"]

Tensors = tuple[Any, ...]


def native_why_not(x: Any) -> str | None:
    """What keeps the native operation from such an x; None where nothing does."""
    _, reason = _operations()
    if reason is not None:
        return reason
    if is_on_gpu(x):
        where = getattr(x, "device", None)
        where = f"are on {where}" if where else "may be on a GPU"
        return f"the tensors {where}, and it runs on the CPU"
    return trace_why_not()


def is_on_gpu(x: Any) -> bool:
    """Whether x isn't on the CPU; in a graph, whether it may not be."""
    device = getattr(x, "device", None)
    if device:
        return "CPU" not in device.upper()
    return bool(tf.config.list_logical_devices("GPU"))


@cache
def _operations() -> tuple[Any, str | None]:
    """The operations' functions, or why there are none."""
    reason = native.why_not()
    if reason is not None:
        return None, reason
    path = native.tensorflow_library()
    if path is None:
        return None, "the native engine was built without TensorFlow's operations"
    try:
        loaded = tf.load_op_library(str(path))
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, OSError) as error:
        return None, f"TensorFlow {tf.__version__} can't load {path.name}: {error}"
    if not hasattr(loaded, "ostinato_backward"):
        return None, f"TensorFlow {tf.__version__} lacks functions of the C API that it needs"
    return loaded, None


def native_run(specs: tuple[Spec, ...], operands: Tensors, twin: Any = None) -> Tensors:
    """Runs layers over sequences on the native engine, differentiably.

    Args:
        specs: the runs. One that trains keeps what its gradient needs; of one that doesn't, a
            gradient runs the layer once more.
        operands: the inputs of `ostinato::forward` or of a routine (see `ostinato.doors`).
        twin: not needed here.

    Returns:
        Its outputs, run after run, without `saved`.
    """
    call = signature("forward", specs)
    outputs = _forward(call, list(operands))
    if not tf.executing_eagerly():
        _set_shapes(call, operands, outputs)
    return tuple(outputs[place] for place in call.shown)


# Of each operation, its function's and its nodes'.
_NAMES = {
    "forward": ("ostinato_forward", f"OstinatoForward-{NODE}"),
    "backward": ("ostinato_backward", f"OstinatoBackward-{NODE}"),
}


@cache
def _register(high: int, low: int) -> None:
    """Tells the operations' core of a routine; the other core, of `native`, isn't theirs."""
    found = by_hashes(high, low)
    assert found is not None
    routine = found.routine
    library = ctypes.CDLL(str(native.tensorflow_library()))
    native.register_routine_in(library, routine.ints, routine.floats)


def _run(call: Signature, inputs: list[Any]) -> list[Any]:
    """The outputs of an operation."""
    operations, _ = _operations()
    if call.flat[0] == native.ROUTINE:
        for hashes in (call.flat[1:3], call.flat[-2:]):  # and of what is run again
            if any(hashes):
                _register(*hashes)
    function, name = _NAMES[call.operation]
    outputs: list[Any] = getattr(operations, function)(
        inputs=inputs, Tout=[inputs[0].dtype] * call.n_results, spec=call.flat, name=name
    )
    return outputs


def _set_shapes(call: Signature, operands: Tensors, outputs: list[Any]) -> None:
    if any(operands[place].shape.rank is None for run in call.anchors for place in run):
        return
    shapes = (shape for run in call.shapes(operands) for shape in run)
    for output, shape in zip(outputs, shapes, strict=True):
        output.set_shape(shape)


def _forward(call: Signature, inputs: list[Any]) -> list[Any]:
    with of_this_process():
        return _run(call, inputs)


def _forward_gradient(op: Any, *grads: Any) -> list[Any]:
    """The gradients of the inputs of OstinatoForward; None for masks."""
    call = signature_of("forward", tuple(op.get_attr("spec")))
    inputs, outputs = list(op.inputs), list(op.outputs)
    shown = [_dense(grads[place], outputs[place]) for place in call.shown]
    if not all(spec.training for spec in call.specs):
        call = signature("forward", tuple(replace(spec, training=1) for spec in call.specs))
        outputs = _forward(call, inputs)
    # A tape tells which inputs need no gradient; a graph doesn't, and then every one is computed.
    unneeded = set(getattr(op, "skip_input_indices", None) or ())
    route = pullback(call.specs, tuple(place not in unneeded for place in range(len(inputs))))
    known = [*inputs, *(outputs[place] for place in call.saved)]
    known = [*(known[place] for place in route.kept), *shown]
    pulled = _run(route.backward, [known[place] for place in route.operands])
    gradients = [None if place is None else pulled[place] for place in route.gradients]
    for gradient, tensor in zip(gradients, inputs, strict=True):
        if gradient is not None and not tf.executing_eagerly():
            gradient.set_shape(tensor.shape)
    return gradients


def _dense(grad: Any, result: Any) -> Any:
    """The gradient of a result; that of tf.gather is sparse, that of an unused one may be None."""
    return tf.zeros_like(result) if grad is None else tf.convert_to_tensor(grad)


def _backward_gradient(op: Any, *grads: Any) -> list[Any]:
    raise RuntimeError(
        "[OstinatoBackward] The native engine has first derivatives only. For second ones use the "
        'portable engine: `with ostinato.use_engine("scan")`.'
    )


tf.RegisterGradient("OstinatoForward")(_forward_gradient)
tf.RegisterGradient("OstinatoBackward")(_backward_gradient)
