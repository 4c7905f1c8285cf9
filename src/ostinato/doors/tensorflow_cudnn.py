"""cuDNN's recurrent layers by TensorFlow's `CudnnRNNV3`, which Keras's own layers take, too.

TensorFlow that is built with cuDNN 9 refuses the older `CudnnRNN` and `CudnnRNNV2`: "Sequence
lengths for RNN are required" (xla/stream_executor/cuda/cuda_dnn.cc), as cuDNN has dropped the calls
that went without. Where time is the first axis and all rows have all timesteps, the lengths cost
nothing: cuDNN pads nothing then (`ShouldUsePaddedIO` in tensorflow/core/kernels/cudnn_rnn_ops.cc),
and its algorithm is the default in all three.
"""

from typing import Any

import tensorflow as tf

from ostinato.cudnn import CudnnSpec
from ostinato.doors.tensorflow_graphs import trace_why_not
from ostinato.doors.tensorflow_native import is_on_gpu

__all__ = ["CUDNN_DTYPES", "CUDNN_MODES", "cudnn", "cudnn_precision", "cudnn_why_not", "device_of"]

Tensors = tuple[Any, ...]

CUDNN_MODES: tuple[str, ...] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
CUDNN_DTYPES: tuple[str, ...] = (
    "float32",
    "float64",
    "float16",
    "bfloat16",
)  # the last by way of float32


def device_of(x: Any) -> str:
    """The kind of device that x is on, or may be in a graph where there's a GPU."""
    return "cuda" if is_on_gpu(x) else "cpu"


def cudnn_why_not(x: Any) -> str | None:
    """What keeps the operation from such an x; None where nothing does."""
    if not is_on_gpu(x):
        return "the tensors are on the CPU, and TensorFlow calls cuDNN on a GPU alone"
    if not tf.test.is_built_with_cuda():
        return f"TensorFlow {tf.__version__} is built without CUDA"
    if 0 in tuple(x.shape):
        return "cuDNN takes no tensor without numbers"
    return trace_why_not()


def cudnn_precision(dtype: str) -> str:
    """What `tf.config.experimental.enable_tensor_float_32_execution` has been told."""
    if dtype not in ("float32", "bfloat16"):
        return dtype
    return "tf32" if tf.config.experimental.tensor_float_32_execution_enabled() else "float32"


def cudnn(spec: CudnnSpec, x: Any, states: Tensors, parameters: Any) -> Tensors:
    """Runs one call; see `ostinato.doors`."""
    dtype = tf.float32 if x.dtype == tf.bfloat16 else x.dtype
    inputs, parameters, *initial = (tf.cast(t, dtype) for t in (x, parameters, *states))
    h, c = initial if spec.mode == "lstm" else (*initial, tf.zeros((), dtype))
    results = tf.raw_ops.CudnnRNNV3(
        input=tf.transpose(inputs, (1, 0, 2)),
        input_h=h,
        input_c=c,
        params=parameters,
        sequence_lengths=_lengths(inputs),
        rnn_mode=spec.mode,
        direction="bidirectional" if spec.directions == 2 else "unidirectional",
        is_training=True,  # of what isn't, there is no gradient
    )
    ys = tf.transpose(results.output, (1, 0, 2))
    final = (results.output_h, results.output_c)[: len(states)]
    return tuple(tf.cast(result, x.dtype) for result in (ys, *final))


def _lengths(x: Any) -> Any:
    """All rows have all timesteps: what is masked has been moved, not cut off.

    The operation takes them from the host's memory, where TensorFlow has all int32: nothing waits.
    """
    batch, timesteps = tf.unstack(tf.shape(x)[:2])
    return tf.fill((batch,), timesteps)
