"""Other exporters than Keras's: what they write has the portable engine in it, or they're told."""

import keras
import numpy as np
import pytest

from engines.cases import assert_near
from ostinato import native
from ostinato.layers import LSTM
from support import IS_OLDEST_KERAS

BACKEND = keras.config.backend()
HINT = r"use_engine.{0,5}scan"
X = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)


@pytest.fixture
def model():
    inputs = keras.Input(batch_shape=(2, 5, 3))
    return keras.Model(inputs, LSTM(4)(inputs))


def values(tensor):
    return tensor.detach().numpy()


on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's")
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="JAX's")


@on_tensorflow
class TestTensorFlow:
    """A graph that's asked for is portable; one that was traced for a call says what it holds."""

    def asked_for(self, model):
        import tensorflow as tf

        return tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec(X.shape))

    def called_before(self, model):
        """A function whose graph calls another that was traced to be run here."""
        import tensorflow as tf

        inner = tf.function(lambda x: model(x))
        inner(tf.constant(X))
        return tf.function(lambda x: inner(x)), tf.TensorSpec(X.shape)

    def test_a_saved_signature(self, model, tmp_path):
        import tensorflow as tf

        tf.saved_model.save(model, tmp_path, signatures=self.asked_for(model))
        assert b"Ostinato" not in (tmp_path / "saved_model.pb").read_bytes()
        (found,) = tf.saved_model.load(tmp_path).signatures["serving_default"](x=X).values()
        assert_near([found], [model(X)], 1e-5, "outputs")

    def test_a_saved_module_that_was_called(self, model, tmp_path):
        import tensorflow as tf

        module = tf.Module()
        module.model, module.run = model, tf.function(lambda x: model(x))
        expected = module.run(tf.constant(X))
        tf.saved_model.save(module, tmp_path)
        assert b"Ostinato" not in (tmp_path / "saved_model.pb").read_bytes()
        loaded = tf.saved_model.load(tmp_path)
        assert_near([loaded.run(tf.constant(X))], [expected], 1e-5, "outputs")

    def test_lite(self, model):
        import tensorflow as tf

        convert = tf.lite.TFLiteConverter.from_concrete_functions
        assert convert([self.asked_for(model)], model).convert()
        function, spec = self.called_before(model)
        with pytest.raises(Exception, match=HINT):
            convert([function.get_concrete_function(spec)], model).convert()

    @pytest.mark.skipif(IS_OLDEST_KERAS, reason="tf2onnx doesn't know its outputs' names")
    def test_onnx(self, model, capfd):
        tf2onnx = pytest.importorskip("tf2onnx")
        written, _ = tf2onnx.convert.from_keras(model)
        assert not any("Ostinato" in node.op_type for node in written.graph.node)

    def test_what_was_traced_before_is_not_saved(self, model, tmp_path):
        import tensorflow as tf

        function, spec = self.called_before(model)
        signature = function.get_concrete_function(spec)
        with pytest.raises(AssertionError, match=HINT):
            tf.saved_model.save(model, tmp_path, signatures=signature)
        assert_near([function(tf.constant(X))], [model(X)], 1e-5, "outputs")  # it runs here

    def test_what_was_traced_before_is_not_compiled(self, model):
        import tensorflow as tf

        inner = tf.function(lambda x: model(x))
        inner(tf.constant(X))
        with pytest.raises(tf.errors.InvalidArgumentError, match=HINT):
            tf.function(lambda x: inner(x), jit_compile=True)(tf.constant(X))


@on_jax
def test_readers_of_jaxprs_are_told(model):
    jax2onnx = pytest.importorskip("jax2onnx")
    trainable = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    run = lambda x: model.stateless_call(trainable, others, x)[0]  # noqa: E731
    with pytest.raises(NotImplementedError, match=HINT):
        jax2onnx.to_onnx(run, [X.shape])


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's")
class TestPyTorch:
    """What jit.trace and torch.export make is saved and loaded elsewhere; torch.compile's isn't."""

    def test_a_trace(self, model):
        import torch

        traced = torch.jit.trace(model.eval(), torch.tensor(X))
        assert "ostinato::" not in str(traced.inlined_graph)
        assert_near([values(traced(torch.tensor(X)))], [values(model(X))], 1e-6, "outputs")

    def test_an_exported_program(self, model, tmp_path):
        import torch

        program = torch.export.export(model.eval(), (torch.tensor(X),))
        assert "ostinato" not in str([node.target for node in program.graph.nodes])
        torch.export.save(program, tmp_path / "model.pt2")
        loaded = torch.export.load(tmp_path / "model.pt2").module()
        assert_near([values(loaded(torch.tensor(X)))], [values(model(X))], 1e-6, "outputs")

    @pytest.mark.slow  # Keras 3.10 can't be compiled
    def test_a_compiled_model_has_kernels_and_no_warning(self, model, recwarn):
        import torch

        torch._dynamo.reset()
        kinds = []

        def backend(graph, inputs):
            kinds.extend(str(node.target) for node in graph.graph.nodes)
            return graph

        with torch.no_grad():
            found = torch.compile(model, backend=backend, fullgraph=True)(torch.tensor(X))
        assert any("ostinato" in kind for kind in kinds)
        assert not [str(w.message) for w in recwarn if "lru_cache" in str(w.message)]
        assert_near([values(found)], [values(model(X))], 1e-6, "outputs")
