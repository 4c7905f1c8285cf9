"""TensorFlow's door to cuDNN, by its graphs: the operation has no kernel for the CPU."""

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers
from ostinato.cudnn import CudnnSpec
from ostinato.doors import door

if keras.config.backend() != "tensorflow":
    pytest.skip("TensorFlow's door", allow_module_level=True)

import tensorflow as tf

from ostinato.doors import tensorflow_cudnn, tensorflow_native


@pytest.fixture
def with_gpu(monkeypatch):
    """TensorFlow says that there's a GPU; tensors of a graph may be on it."""
    for module in (tensorflow_cudnn, tensorflow_native):
        monkeypatch.setattr(module, "is_on_gpu", lambda x: True)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: True)


def graph_of(layer):
    """The graph of a call and its gradients, which knows neither batch nor time."""

    def run(x, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            results = layer(x, mask=mask, training=True)
            loss = tf.add_n([tf.reduce_sum(result) for result in results])
        return results, tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])

    signature = [tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None), tf.bool)]
    return tf.compat.v1.wrap_function(run, signature)


def nodes_of(graph):
    return [node.op for node in graph.graph.as_graph_def().node]


@pytest.mark.parametrize("cls", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("wrap", [False, True])
def test_the_graph_has_cudnn_s_operation_and_its_gradient(with_gpu, cls, wrap):
    layer = getattr(layers, cls)(3, return_sequences=True, return_state=True, dropout=0.2)
    layer = layers.Bidirectional(layer) if wrap else layer
    layer.build((None, None, 4))
    graph = graph_of(layer)
    calls = 2 if wrap and cls == "SimpleRNN" else 1
    nodes = sorted(node for node in nodes_of(graph) if node.startswith("CudnnRNN"))
    # With cuDNN 9 TensorFlow refuses those of before, which aren't told how long rows are.
    assert nodes == ["CudnnRNNBackpropV3"] * calls + ["CudnnRNNV3"] * calls
    for call in graph.graph.get_operations():
        if call.type == "CudnnRNNV3":
            assert call.get_attr("time_major")  # else cuDNN would pad
            lengths = call.inputs[4]
            assert (lengths.dtype, lengths.op.type) == (tf.int32, "Fill")
            run = graph.prune(graph.inputs[:2], lengths)
            np.testing.assert_array_equal(run(tf.zeros((5, 7, 4)), tf.ones((5, 7), bool)), [7] * 5)
    assert not [node for node in nodes_of(graph) if "While" in node]
    results, gradients = graph.structured_outputs
    assert results[0].shape.as_list() == [None, None, 6 if wrap else 3]
    assert all(result.shape.as_list() == [None, 3] for result in results[1:])
    assert len(gradients) == 1 + len(layer.trainable_variables)
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize(
    ("mode", "parameters"), [("lstm", 2 * 4 * 3 * (4 + 3 + 2)), ("gru", 2 * 3 * 3 * (4 + 3 + 2))]
)
def test_shapes_are_those_of_the_contract(mode, parameters):
    spec = CudnnSpec(mode, 2, 4, 3)
    assert sum(int(np.prod(shape)) for shape in spec.parameters) == parameters

    def run(x, states, parameters):
        return door.cudnn(spec, x, tuple(states), parameters)

    for dtype in map(tf.as_dtype, tensorflow_cudnn.CUDNN_DTYPES):
        states = [tf.TensorSpec((2, 5, 3), dtype)] * (2 if mode == "lstm" else 1)
        signature = [tf.TensorSpec((5, 7, 4), dtype), states, tf.TensorSpec((parameters,), dtype)]
        ys, *final = tf.compat.v1.wrap_function(run, signature).structured_outputs
        assert ys.shape.as_list() == [5, 7, 6]
        assert [state.shape.as_list() for state in final] == [[2, 5, 3]] * len(states)
        assert {tensor.dtype for tensor in (ys, *final)} == {dtype}


def test_xla_is_kept_from_layers_on_cudnn_and_from_no_other(with_gpu, monkeypatch):
    """Keras's `jit_compile="auto"` has XLA compile a model on a GPU, unless a layer says no."""
    on_cudnn = [layers.LSTM(3), layers.Bidirectional(layers.GRU(3)).forward_layer]
    others = [layers.LSTM(3, activation="gelu"), layers.GRU(3, reset_after=False)]
    assert [layer.supports_jit for layer in on_cudnn + others] == [False, False, True, True]
    monkeypatch.undo()
    assert layers.LSTM(3).supports_jit


def test_what_xla_compiles_is_a_loop(with_gpu):
    layer = layers.LSTM(3)
    layer.build((2, 5, 4))
    compiled = tf.function(layer, jit_compile=True, input_signature=[tf.TensorSpec((2, 5, 4))])
    assert compiled(np.zeros((2, 5, 4), "float32")).shape == (2, 3)
    with ostinato.use_engine("cudnn"), pytest.raises(ValueError, match="XLA compiles"):
        tf.function(layer, jit_compile=True)(np.zeros((2, 5, 4), "float32"))


def test_what_it_refuses(with_gpu, monkeypatch):
    x = tf.zeros((2, 3, 4))
    assert door.cudnn_why_not(x) is None
    assert door.device_of(x) == "cuda"
    assert "without numbers" in door.cudnn_why_not(x[:0])
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    assert "without CUDA" in door.cudnn_why_not(x)
    monkeypatch.undo()
    assert "on a GPU alone" in door.cudnn_why_not(x)
    assert door.device_of(x) == "cpu"


def test_precision_is_tensorflow_s_setting():
    setting = tf.config.experimental
    before = setting.tensor_float_32_execution_enabled()
    try:
        for enabled, precision in ((True, "tf32"), (False, "float32")):
            setting.enable_tensor_float_32_execution(enabled)
            assert door.cudnn_precision("float32") == precision
            assert door.cudnn_precision("float16") == "float16"
    finally:
        setting.enable_tensor_float_32_execution(before)
