"""The native engine's operations in TensorFlow: OstinatoForward and OstinatoBackward.

They live in a shared object of their own, next to `_native`, that goes through TensorFlow's C API.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import tensorflow as tf

from ostinato import native
from ostinato.doors.signatures import signature_of
from ostinato.doors.tensorflow_graphs import NODE, of_this_process, trace_why_not
from ostinato.native import RunSpec

__all__ = ["fused", "native_why_not"]

Tensors = tuple[Any, ...]


def native_why_not(x: Any) -> str | None:
    """What keeps the native operation from such an x; None where nothing does."""
    _, reason = _operations()
    if reason is not None:
        return reason
    device = getattr(x, "device", None)
    if device and "CPU" not in device.upper():
        return f"the tensors are on {device}, and it runs on the CPU"
    if not device and tf.config.list_logical_devices("GPU"):
        return "the tensors may be on a GPU, and it runs on the CPU"
    return trace_why_not()


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


def fused(specs: tuple[RunSpec, ...], operands: Tensors, twin: Any = None) -> Tensors:
    """Runs layers over sequences on the native engine, differentiably.

    Args:
        specs: the runs. One that trains keeps what its gradient needs; of one that doesn't, a
            gradient runs the layer once more.
        operands: the inputs of `ostinato::forward` (native/core/ostinato.h), run after run.
        twin: not needed here.

    Returns:
        Its outputs, run after run, without `saved`.
    """
    outputs = _forward(list(operands), specs)
    results = [tensor for run in outputs for tensor in run[0]]
    if not tf.executing_eagerly():
        _set_shapes(results, specs, operands)
    return tuple(results)


def _forward(inputs: list[Any], specs: Sequence[RunSpec]) -> list[tuple[list[Any], list[Any]]]:
    """For each run its results, and what it saved: one tensor, or none."""
    count = sum(spec.results + int(spec.training) for spec in specs)
    operations, _ = _operations()
    with of_this_process():
        flat = operations.ostinato_forward(
            inputs=inputs,
            Tout=[inputs[0].dtype] * count,
            spec=native.encode(specs),
            name=f"OstinatoForward-{NODE}",
        )
    outputs = iter(flat)
    return [
        (list(islice(outputs, spec.results)), list(islice(outputs, int(spec.training))))
        for spec in specs
    ]


def _set_shapes(results: Sequence[Any], specs: Sequence[RunSpec], operands: Tensors) -> None:
    tensors, outputs = iter(operands), iter(results)
    for spec in specs:
        run = {name: next(tensors) for name in native.forward_operands(spec)}
        x, units = run["x"].shape, run["recurrent_kernel"].shape[0]
        if spec.owns_ys:
            width = None if units is None else units + spec.ys_after
            next(outputs).set_shape((x[0], x[1], width))
        for _ in range(spec.states):
            next(outputs).set_shape((x[0], units))


def _forward_gradient(op: Any, *grads: Any) -> list[Any]:
    specs = signature_of("forward", tuple(op.get_attr("spec"))).specs
    inputs, outputs, given = list(op.inputs), iter(op.outputs), iter(grads)
    d_results, saved = [], []
    for spec in specs:
        results = list(islice(outputs, spec.results))
        d_results.append([_dense(next(given), result) for result in results])
        saved.append([(next(outputs), next(given))[0]] if spec.training else [])
    if not all(spec.training for spec in specs):
        specs = tuple(replace(spec, training=True) for spec in specs)
        saved = [run[1] for run in _forward(inputs, specs)]
    # A tape tells which inputs need no gradient; a graph doesn't, and then every one is computed.
    unneeded = set(getattr(op, "skip_input_indices", None) or ())
    return _backward(specs, inputs, saved, d_results, unneeded)


def _dense(grad: Any, result: Any) -> Any:
    """The gradient of a result; that of tf.gather is sparse, that of an unused one may be None."""
    return tf.zeros_like(result) if grad is None else tf.convert_to_tensor(grad)


def _backward(
    specs: Sequence[RunSpec],
    inputs: list[Any],
    saved: list[list[Any]],
    d_results: list[list[Any]],
    unneeded: set[int],
) -> list[Any]:
    """The gradients of the inputs of OstinatoForward; None for masks."""
    tensors, first = iter(inputs), 0
    operands: list[Any] = []
    runs: list[tuple[RunSpec, dict[str, Any]]] = []
    for spec, run_saved, d_run in zip(specs, saved, d_results, strict=True):
        names = native.forward_operands(spec)
        run = dict(zip(names, islice(tensors, len(names)), strict=True))
        operands += [run[name] for name in native.backward_operands(spec) if name in run]
        operands += [*run_saved, *d_run]
        runs.append((replace(spec, wants_dx=first not in unneeded), run))
        first += len(names)
    count = sum(len(native.backward_results(spec)) for spec, _ in runs)
    outputs = iter(
        _operations()[0].ostinato_backward(
            inputs=operands,
            Tout=[inputs[0].dtype] * count,
            spec=native.encode([spec for spec, _ in runs]),
            name=f"OstinatoBackward-{NODE}",
        )
    )
    gradients: list[Any] = []
    for spec, run in runs:
        names = native.backward_results(spec)
        found = dict(zip(names, islice(outputs, len(names)), strict=True))
        for name, tensor in run.items():
            gradients.append(found.get(f"d_{name}"))
            if gradients[-1] is not None and not tf.executing_eagerly():
                gradients[-1].set_shape(tensor.shape)
    return gradients


def _backward_gradient(op: Any, *grads: Any) -> list[Any]:
    raise RuntimeError(
        "[OstinatoBackward] The native engine has first derivatives only. For second ones use the "
        'portable engine: `with ostinato.use_engine("scan")`.'
    )


tf.RegisterGradient("OstinatoForward")(_forward_gradient)
tf.RegisterGradient("OstinatoBackward")(_backward_gradient)
