"""The choice of an engine: pure, so every case is a line."""

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers, native
from ostinato.engines.interface import Activation, Question
from ostinato.layers.planning import question_about
from ostinato.plan import plan
from ostinato.settings import forced_engine

LSTM = Question("lstm", activations=(Activation("activation", "tanh", "tanh"),))
OWN = Activation("activation", None, "<lambda>")


def engine_of(question):
    engine = plan(question).engine
    return engine and engine.name


def test_a_builtin_cell_runs_on_the_kernel():
    assert engine_of(LSTM) == "fused"
    assert plan(LSTM).passed_over == ()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_every_float_runs_on_the_kernel(dtype):
    assert engine_of(LSTM._replace(dtype=dtype)) == "fused"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"kind": None, "not_builtin": "MyCell is not a built-in cell"},
            "MyCell is not a built-in",
        ),
        (
            {"activations": (OWN,)},
            "activation is a function that the kernel doesn't have: <lambda>",
        ),
        ({"dtype": "int8"}, "the cell computes in int8"),
        ({"rank": 4}, "the inputs are of 4 dimensions"),
        ({"rank": None}, "the inputs are a nest of tensors"),
        ({"native": "the native engine isn't built"}, "the native engine isn't built"),
        ({"framework": "the tensors are on cuda"}, "the tensors are on cuda"),
    ],
)
def test_what_the_kernel_cant_do_is_scanned_and_has_a_reason(change, reason):
    found = plan(LSTM._replace(**change))
    assert found.engine.name == "scan"
    assert reason in found.why_not("fused")
    assert engine_of(LSTM._replace(**change, forced="fused")) is None


def test_every_reason_is_named():
    found = plan(LSTM._replace(activations=(OWN,), dtype="int8"))
    assert "<lambda>" in found.why_not()
    assert "int8" in found.why_not()


def test_an_unbuilt_engine_is_the_reason_and_not_the_functions_that_it_would_have():
    found = plan(LSTM._replace(activations=(OWN,), native="it isn't built"))
    assert found.why_not() == "it isn't built"


def test_scan_can_be_forced_on_anything():
    found = plan(LSTM._replace(forced="scan"))
    assert found.engine.name == "scan"
    assert "OSTINATO_ENGINE" in found.why_not()
    assert engine_of(LSTM._replace(forced="fused")) == "fused"


def test_on_a_gpu_it_is_cudnn_and_what_that_lacks_is_scanned():
    lstm = LSTM._replace(
        activations=(*LSTM.activations, Activation("recurrent_activation", "sigmoid", "sigmoid")),
        framework="the tensors are on cuda:0",
        device="cuda",
    )
    assert engine_of(lstm) == "cudnn"
    assert plan(lstm).passed_over == ()  # the CPU's engines aren't faster ones there
    assert "the tensors are on cuda:0" in plan(lstm._replace(forced="fused")).why_not()
    for change, reason in (
        ({"recurrent_dropout": True}, "cuDNN has no dropout of the state (recurrent_dropout)"),
        ({"kind": "gru_reset_before"}, "cuDNN has no GRU with reset_after=False"),
        ({"cudnn": "PyTorch has no cuDNN"}, "PyTorch has no cuDNN"),
        ({"kind": None, "not_builtin": "it's one's own"}, "it's one's own"),
        ({"dtype": "int8"}, "the cell computes in int8, cuDNN in floats"),
    ):
        found = plan(lstm._replace(**change))
        assert found.engine.name == "scan"
        assert found.why_not("cudnn") == reason
        assert engine_of(lstm._replace(**change, forced="cudnn")) is None


def test_on_a_device_that_no_engine_is_for_each_says_why():
    found = plan(LSTM._replace(framework="tensors on mps", device="mps", cudnn="not NVIDIA's"))
    assert found.engine.name == "scan"
    assert "tensors on mps" in found.why_not("fused")
    assert "not NVIDIA's" in found.why_not("cudnn")


def test_on_the_cpu_nothing_is_said_of_cudnn():
    found = plan(LSTM._replace(activations=(OWN,)))
    assert found.engine.name == "scan"
    assert not found.why_not("cudnn")
    assert engine_of(LSTM._replace(activations=(OWN,), native="not built", cudnn="none")) == "scan"


# What layers ask.

WHY_NOT = native.why_not() or (forced_engine() == "scan" and "OSTINATO_ENGINE is set")
needs_native = pytest.mark.skipif(bool(WHY_NOT), reason=str(WHY_NOT))
X = keras.ops.zeros((2, 3, 4))


def chosen(cell, xs=X):
    return plan(question_about(cell, xs))


@needs_native
@pytest.mark.parametrize("name", native.activation_names() if native.why_not() is None else [])
def test_every_function_of_the_kernel_is_known_by_its_name_and_itself(name):
    for function in (name, getattr(keras.activations, name)):
        assert engine_of(question_about(layers.LSTMCell(3, activation=function), X)) == "fused"
        assert (
            engine_of(question_about(layers.GRUCell(3, recurrent_activation=function), X))
            == "fused"
        )


@needs_native
def test_a_function_of_the_same_name_is_another_function():
    def tanh(x):
        return x

    assert "recurrent_activation is a function" in chosen(
        layers.LSTMCell(3, recurrent_activation=tanh)
    ).why_not("fused")


class Overriding(layers.LSTMCell):
    def _cell_recurrence(self, *args):
        return super()._cell_recurrence(*args)


class Named(layers.LSTMCell):
    def build(self, input_shape):
        super().build(input_shape)
        self.note = "more of the same"


@needs_native
def test_a_subclass_runs_on_the_kernel_if_its_mathematics_is_the_base_s():
    assert "Overriding has its own '_cell_recurrence'" in chosen(Overriding(3)).why_not()
    assert engine_of(question_about(Named(3), X)) == "fused"


@needs_native
def test_keras_s_own_cell_is_scanned():
    assert "Keras's own LSTMCell" in chosen(keras.layers.LSTMCell(3)).why_not()


# Forcing one.


def test_a_forced_engine_that_cant_run_raises_and_says_why():
    layer = layers.RNN(Overriding(3), name="mine")
    with (
        ostinato.use_engine("fused"),
        pytest.raises(ValueError, match=r"RNN layer 'mine': .*'fused'.*Overriding"),
    ):
        layer(np.zeros((2, 3, 4), "float32"))
