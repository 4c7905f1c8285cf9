"""The door to TensorFlow: the loop is `tf.while_loop`, or Python's where it's unrolled."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from ostinato.doors.arithmetic import (
    after,
    blend,
    dropout_masks,
    gates_by,
    multiply_add,
    opaque,
    packed,
    refused_while_compiling,
    remembered,
    threads,
)
from ostinato.doors.losses import LossesTaken, dtype_of_sum, kept_of_each, summed
from ostinato.doors.tensorflow_cudnn import (
    CUDNN_DTYPES,
    CUDNN_MODES,
    cudnn,
    cudnn_precision,
    cudnn_why_not,
    device_of,
)
from ostinato.doors.tensorflow_native import native_run, native_why_not
from ostinato.doors.tracing import is_exporting

__all__ = [
    "COMPILES_CUDNN",
    "COMPILES_LOOPS",
    "CUDNN_DTYPES",
    "CUDNN_MODES",
    "affine",
    "at_once",
    "blend",
    "consuming",
    "cuda_why_not",
    "cudnn",
    "cudnn_precision",
    "cudnn_why_not",
    "device_of",
    "dropout_masks",
    "for_checkpoints",
    "gates",
    "is_bare",
    "is_exporting",
    "lean",
    "loop",
    "multiply_add",
    "native_run",
    "native_why_not",
    "opaque",
    "packed",
    "product_precision",
    "read",
    "refused_while_compiling",
    "remembered",
    "sized",
    "sizes_are_known",
    "threads",
    "zeros",
]

Tensors = tuple[Any, ...]

COMPILES_LOOPS = False
COMPILES_CUDNN = False

Step = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]


def at_once() -> contextlib.AbstractContextManager[Any]:
    """Inside, operations on what isn't being traced run now, for numbers that outlive the trace."""
    context: contextlib.AbstractContextManager[Any] = tf.init_scope()
    return context


def loop(
    step: Step,
    carry: Tensors,
    xs: Tensors,
    like: Tensors,
    *,
    project: Callable[[Any], Any] | None = None,
    unroll: bool,
    variables: Sequence[keras.Variable] = (),
    add_loss: Callable[[Any], None] | None = None,
) -> tuple[Tensors, Tensors]:
    """Runs `step` over time; see `ostinato.doors`. Variables are updated in place."""
    # Slicing a hoisted projection costs more than the small product: LSTM B64 T28 D28 U64 training
    # step 5.8 ms in the loop, 6.8 ms hoisted.
    step = after(project, step)
    if unroll:
        with kept_of_each(step, add_loss) as step:
            return _unrolled(step, carry, xs, like)
    # An int where it's known: of a computed bound tf2onnx makes a file that no runtime reads.
    known = xs[0].shape[0]
    timesteps = tf.shape(xs[0])[0] if known is None else known
    inputs = tuple(tf.TensorArray(x.dtype, timesteps).unstack(x) for x in xs)
    outputs = tuple(tf.TensorArray(y.dtype, timesteps, element_shape=y.shape) for y in like)

    dtype = dtype_of_sum((*carry, *xs))
    has_losses = False

    def body(time: Any, carry: Tensors, outputs: Tensors, loss: Any) -> tuple[Any, ...]:
        nonlocal has_losses
        with LossesTaken() as taken:
            new, ys = step(carry, tuple(array.read(time) for array in inputs))
        if taken.losses:
            has_losses, loss = True, loss + summed(taken.losses, dtype)
        for old_tensor, new_tensor in zip(carry, new, strict=True):
            new_tensor.set_shape(old_tensor.shape)
        written = (array.write(time, y) for array, y in zip(outputs, ys, strict=True))
        return time + 1, new, tuple(written), loss

    _, carry, outputs, loss = tf.while_loop(
        lambda time, *_: time < timesteps,
        body,
        (tf.constant(0), carry, outputs, tf.zeros((), dtype)),
        maximum_iterations=timesteps,  # XLA needs a bound to differentiate the loop
        parallel_iterations=32,  # as Keras: 10, the default, takes 10 % longer in training
    )
    if has_losses and add_loss is not None:
        add_loss(loss)
    return carry, tuple(array.stack() for array in outputs)


def _unrolled(step: Step, carry: Tensors, xs: Tensors, like: Tensors) -> tuple[Tensors, Tensors]:
    collected: list[Tensors] = []
    for x in zip(*(tf.unstack(x) for x in xs), strict=True):
        carry, ys = step(carry, x)
        collected.append(ys)
    if not collected:
        return carry, tuple(tf.zeros((0, *y.shape), y.dtype) for y in like)
    return carry, tuple(tf.stack(ys) for ys in zip(*collected, strict=True))


def affine(x: Any, kernel: Any, bias: Any | None) -> Any:
    """`x kernel + bias`, on the last axis of x.

    An operation between product and bias keeps TensorFlow from fusing them, which takes longer on a
    CPU (LSTM B64 T28 D28 U64: 1.4 ms fused, 1.1 ms apart).
    """
    product = x @ kernel
    if bias is None:
        return product
    if len(bias.shape) > 1:
        return product + bias
    return tf.nn.bias_add(tf.ensure_shape(product, [None] * len(product.shape)), bias)


class _ForCheckpoints(tf.Module):
    """Variables that `tf.train.Checkpoint` finds, and Keras doesn't take for weights."""

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        super().__init__(name="states")
        self.states = list(variables)


def for_checkpoints(variables: Sequence[keras.Variable]) -> Any:
    """See `ostinato.doors`."""
    return _ForCheckpoints(variables)


def read(variable: Any, dtype: str) -> Any:
    """A variable's value in a dtype, as TensorFlow's variable where it has it.

    Keras's function takes 2 us to find that it does, and gives the Keras variable.
    """
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return value if value.dtype.name == dtype else tf.cast(value, dtype)


def zeros(shape: tuple[Any, ...], dtype: str, like: Any) -> Any:
    """Zeros where TensorFlow puts its tensors; eagerly the same again, as one anew takes 90 us."""
    if tf.executing_eagerly() and all(isinstance(size, int) for size in shape):
        return _kept_zeros(shape, dtype)
    return tf.zeros(shape, dtype)


@functools.lru_cache(maxsize=32)
def _kept_zeros(shape: tuple[int, ...], dtype: str) -> Any:
    return tf.zeros(shape, dtype)


def is_bare(x: Any) -> bool:
    """False: calls are compiled."""
    return False


def lean(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself: inside tf.function Keras's checks cost nothing."""
    return function


consuming = lean  # the compiler reuses memory by itself
gates = gates_by(affine)


def sizes_are_known() -> bool:
    """See `ostinato.doors`. In a graph they may be None, or what a model's Input says of them."""
    return bool(tf.executing_eagerly())


def sized(tensor: Any, sizes: Sequence[Any], message: str) -> Any:
    """See `ostinato.doors`. The assertion has the words; the reshape XLA can't leave out."""
    if all(size is None for size in sizes):
        return tensor
    actual = tf.raw_ops.Shape(input=tensor)  # not tf.shape, which believes the static shape
    wanted = tf.stack([actual[i] if size is None else size for i, size in enumerate(sizes)])
    first = actual[: len(sizes)]
    if not is_exporting():
        equal = tf.debugging.assert_equal(first, wanted, message=message)
        with tf.control_dependencies([equal]):
            tensor = tf.identity(tensor)
    # With sizes that it can read, the optimizer takes for granted that a reshape succeeds, and
    # drops the assertion: so zeros are added that it doesn't see through.
    shape = tf.concat([wanted + tf.minimum(first, 0), actual[len(sizes) :]], axis=0)
    static = [size if isinstance(size, int) else None for size in sizes]
    result = tf.reshape(tensor, shape)
    result.set_shape(tensor.shape.merge_with([*static, *tensor.shape[len(sizes) :]]))
    return result


def pulled(
    function: Callable[..., Any], tensors: Sequence[Any], upstream: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """See `ostinato.doors`."""
    given = [tf.convert_to_tensor(tensor) for tensor in tensors]
    with tf.GradientTape() as tape:
        tape.watch(given)
        results = function(*given)
    gradients = [upstream(result) for result in results]
    zero = tf.UnconnectedGradients.ZERO
    found = tape.gradient(results, given, gradients, unconnected_gradients=zero)
    return tuple(results), tuple(map(tf.convert_to_tensor, found))


def product_precision() -> str | None:
    """What the option `auto_mixed_precision_onednn_bfloat16` of tf.config.optimizer asks for."""
    options = tf.config.optimizer.get_experimental_options()
    return "bfloat16" if options.get("auto_mixed_precision_onednn_bfloat16") else None


def cuda_why_not(x: Any) -> str | None:
    """That others call the kernels for a card."""
    return "Ostinato's CUDA kernels are called from PyTorch and JAX, and this is TensorFlow"


def may_be_lowered_for(x: Any) -> tuple[str, ...]:
    """Nothing: where tensors are is known."""
    return ()
