"""Exported models give the same in a process where neither Keras nor Ostinato is imported."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops, tree

import ostinato
from ostinato import layers, native
from support import CellOfUnits, sample

BACKEND = keras.config.backend()
D, U = 3, 5
# On PyTorch Keras writes the loop out: for a fixed number of timesteps.
T = 6 if BACKEND == "torch" else None
FORMATS = {
    "jax": ("tf_saved_model", "onnx"),
    "tensorflow": ("tf_saved_model", "onnx"),
    "torch": ("onnx",),
}
pytestmark = pytest.mark.slow


def missing(kind):
    """What Keras's exporter needs and isn't installed."""
    needs = {"tf_saved_model": ["tensorflow"], "onnx": ["onnx", "onnxruntime"]}[kind]
    if kind == "onnx":
        needs += {"jax": ["jax2onnx"], "tensorflow": ["tf2onnx"], "torch": ["onnxscript"]}[BACKEND]
    return [name for name in needs if importlib.util.find_spec(name) is None]


class Leaky(CellOfUnits):
    """A cell of one's own."""

    def call(self, inputs, states):
        h = 0.9 * states[0] + ops.tanh(ops.matmul(inputs, self.kernel))
        return h, [h]


def masked():
    return keras.Sequential(
        [
            keras.Input((T,), dtype="int32"),
            keras.layers.Embedding(11, D, mask_zero=True),
            layers.GRU(U, reset_after=False, return_sequences=True),
            layers.LSTM(U, activation="relu", use_bias=False),
        ]
    )


def bidirectional():
    return keras.Sequential(
        [
            keras.Input((T, D)),
            keras.layers.Masking(),
            layers.Bidirectional(layers.LSTM(U, return_sequences=True), merge_mode="sum"),
            layers.Bidirectional(layers.GRU(U, return_sequences=True)),
        ]
    )


def cells():
    return keras.Sequential(
        [
            keras.Input((T, D)),
            layers.RNN(Leaky(U), return_sequences=True),
            layers.RNN([layers.LSTMCell(U), layers.SimpleRNNCell(4)], return_sequences=True),
        ]
    )


def states():
    """States as inputs and as outputs, and several inputs by name."""
    x, h, c = keras.Input((T, D), name="x"), *(keras.Input((U,), name=name) for name in "hc")
    lstm = layers.LSTM(U, return_sequences=True, return_state=True, go_backwards=True)
    return keras.Model({"x": x, "h": h, "c": c}, lstm(x, initial_state=[h, c]))


def stateful():
    return keras.Sequential([keras.Input(batch_shape=(2, 6, D)), layers.GRU(U, stateful=True)])


MODELS = {"masked": masked, "bidirectional": bidirectional, "cells": cells, "states": states}


def inputs_for(name, call):
    """Other batch sizes and, where they're free, other numbers of timesteps at each call."""
    random = np.random.default_rng(call)
    if name == "stateful":
        return {"x": np.ones((2, 6, D), "float32")}
    batch, timesteps = ((3, T or 4), (1, T or 9))[call]
    if name.startswith("masked"):
        ids = random.integers(1, 11, (batch, timesteps))
        return {"ids": np.where(np.arange(timesteps) < 3 + call, ids, 0).astype("int32")}
    x = random.normal(size=(batch, timesteps, D)).astype("float32")
    if name.startswith("bidirectional"):
        x[:, 3:] = 0
    if not name.startswith("states"):
        return {"x": x}
    return {"x": x, **{key: random.normal(size=(batch, U)).astype("float32") for key in "hc"}}


def outputs_of(model, inputs):
    tensors = {name: ops.convert_to_tensor(x) for name, x in inputs.items()}
    outputs = model(tensors if len(tensors) > 1 else next(iter(tensors.values())))
    return [ops.convert_to_numpy(y) for y in tree.flatten(outputs)]


def run_bare(folder, calls):
    """What the files in a folder give for inputs by name, each in its calls."""
    flat = {
        f"{name}/{call}/{key}": array
        for (name, call), inputs in calls.items()
        for key, array in inputs.items()
    }
    np.savez(folder / "inputs.npz", **flat)
    script = Path(__file__).with_name("exported.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "outputs.npz") as arrays:
        return dict(arrays)


def assert_same(found, name, call, expected):
    for index, output in enumerate(expected):
        np.testing.assert_allclose(
            found[f"{name}/{call}/{index}"], output, rtol=1e-5, atol=1e-5, err_msg=f"{name} {call}"
        )


# ONNX of one model is below.
@pytest.mark.parametrize("kind", sample(FORMATS[BACKEND], FORMATS[BACKEND][0]))
def test_the_same_in_a_bare_process(tmp_path, kind):
    if missing(kind):
        pytest.skip(f"Keras's exporter needs {missing(kind)}")
    made = {}
    for name in sample(MODELS, "masked", "states"):
        model, file = MODELS[name](), f"{name}{'.onnx' if kind == 'onnx' else ''}"
        outputs_of(model, inputs_for(name, 0))  # Keras exports no model that was never called
        model.export(tmp_path / file, format=kind, verbose=False)
        made[file] = model
    if kind == "tf_saved_model":  # which keeps states from call to call
        made["stateful"] = stateful()
        ostinato.export(made["stateful"], tmp_path / "stateful")
    calls = {(file, call): inputs_for(file, call) for file in made for call in (0, 1)}
    found = run_bare(tmp_path, calls)
    for (file, call), inputs in calls.items():
        assert_same(found, file, call, outputs_of(made[file], inputs))


@pytest.mark.skipif(bool(missing("onnx")), reason=f"Keras's exporter needs {missing('onnx')}")
def test_a_model_that_was_never_called(tmp_path):
    model = keras.Sequential([keras.Input((6, D)), layers.LSTM(U)])
    ostinato.export(model, tmp_path / "model.onnx", format="onnx")
    found = run_bare(tmp_path, {("model.onnx", 0): {"x": np.ones((2, 6, D), "float32")}})
    assert_same(found, "model.onnx", 0, outputs_of(model, {"x": np.ones((2, 6, D), "float32")}))


# --- what is refused ------------------------------------------------------------------------


def test_a_stateful_onnx_file_is_refused(tmp_path):
    model = stateful()
    with pytest.raises(ValueError, match=r"export: GRU layer '.*': a stateful layer can't be"):
        ostinato.export(model, tmp_path / "model.onnx", format="onnx")
    if missing("onnx"):
        return
    outputs_of(model, {"x": np.ones((2, 6, D), "float32")})
    with pytest.raises(ValueError, match="a stateful layer can't be exported to ONNX"):
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)


class Holds(keras.layers.Layer):
    """A layer of a user's with a stateful one as an attribute."""

    def __init__(self):
        super().__init__(name="holds")
        self.inner = layers.LSTM(U, stateful=True, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def compute_output_shape(self, shape):
        return (shape[0], U)


def holding():
    return keras.Sequential([keras.Input(batch_shape=(2, 6, D)), Holds()])


def test_a_stateful_layer_within_a_layer_is_refused_in_onnx(tmp_path):
    with pytest.raises(ValueError, match="export: LSTM layer 'inner': a stateful layer can't be"):
        ostinato.export(holding(), tmp_path / "model.onnx", format="onnx")


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow's states take any batch by themselves")
def test_a_stateful_layer_within_a_layer_keeps_its_batch_size(tmp_path):
    model, inputs = holding(), {"x": np.ones((2, 6, D), "float32")}
    ostinato.export(model, tmp_path / "model")
    found = run_bare(tmp_path, {("model", 0): inputs, ("model", 1): inputs})
    for call in (0, 1):
        assert_same(found, "model", call, outputs_of(model, inputs))


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow's states take any batch by themselves")
def test_a_stateful_saved_model_for_any_batch_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a stateful layer is exported for its own batch size"):
        stateful().export(tmp_path / "model", verbose=False)


@pytest.mark.skipif(BACKEND != "torch", reason="the loop stays one on the other backends")
def test_unknown_timesteps_are_refused_on_torch(tmp_path):
    model = keras.Sequential([keras.Input((None, D)), layers.RNN(Leaky(U)), keras.layers.Dense(1)])
    outputs_of(model, inputs_for("x", 0))
    with pytest.raises(ValueError, match=r"RNN layer '.*': can't be exported to ONNX with an unk"):
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    fixed = [keras.InputSpec(shape=(None, 4, D), dtype="float32")]
    ostinato.export(model, tmp_path / "model.onnx", format="onnx", input_signature=fixed)
    found = run_bare(tmp_path, {("model.onnx", 0): {"x": np.ones((3, 4, D), "float32")}})
    assert_same(found, "model.onnx", 0, outputs_of(model, {"x": np.ones((3, 4, D), "float32")}))


@pytest.mark.skipif(BACKEND != "torch", reason="torch.compile")
@pytest.mark.skipif(bool(native.why_not()), reason=str(native.why_not()))
def test_what_is_refused_doesnt_break_a_compiled_graph():
    """How it's told that ONNX is being written, torch.compile has to understand."""
    torch = pytest.importorskip("torch")
    layer = layers.GRU(U, stateful=True)
    x = torch.ones((2, 6, D))
    with ostinato.use_engine("fused"), torch.no_grad():
        layer(x)
        layer.reset_state()
        expected = layer(x)
        layer.reset_state()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), expected)


@pytest.mark.skipif(BACKEND != "torch", reason="Keras exports SavedModels on JAX and TensorFlow")
@pytest.mark.skipif(bool(importlib.util.find_spec("torch_xla")), reason="torch_xla is installed")
def test_a_saved_model_is_refused_on_torch(tmp_path):
    with pytest.raises(ValueError, match=r"export: on PyTorch .* needs torch_xla.*KERAS_BACKEND"):
        ostinato.export(states(), tmp_path / "model")


@pytest.mark.skipif(BACKEND != "jax", reason="on JAX both formats need other packages than JAX")
def test_a_missing_package_is_named(tmp_path):
    code = """
import sys
sys.modules["tensorflow"] = sys.modules["jax2onnx"] = sys.modules["tf2onnx"] = None
import keras, ostinato
model = keras.Sequential([keras.Input((6, 3)), ostinato.layers.LSTM(5)])
for kind, name in (("tf_saved_model", "model"), ("onnx", "model.onnx")):
    try:
        ostinato.export(model, f"{sys.argv[1]}/{name}", kind)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert re.fullmatch(
        r"export: Keras's exporter of 'tf_saved_model' on jax needs a package .* tensorflow .*\n"
        r"export: Keras's exporter of 'onnx' on jax needs a package that isn't installed\. .*\n",
        done.stdout,
    ), done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("path", [5, None, ["model"]])
def test_what_isnt_a_path(path):
    with pytest.raises(ValueError, match="export: expected the path of a file or folder, got"):
        ostinato.export(stateful(), path)


@pytest.mark.parametrize("signature", [5, [], "x", [(None, 6, D)], [keras.InputSpec(ndim=3)]])
def test_what_isnt_a_signature(tmp_path, signature):
    model = keras.Sequential([keras.Input((6, D)), layers.LSTM(U)])
    with pytest.raises(ValueError, match="export: expected `input_signature` to be a list of one"):
        ostinato.export(model, tmp_path / "model", "onnx", input_signature=signature)


@pytest.mark.parametrize("thing", [keras.Sequential([layers.LSTM(5)]), layers.LSTM(5), 7])
def test_what_isnt_a_built_model(tmp_path, thing):
    with pytest.raises(ValueError, match="export: expected a Keras model that is built"):
        ostinato.export(thing, tmp_path / "model")


def test_the_format_is_what_the_name_says(tmp_path):
    model = keras.Sequential([keras.Input((3, 2)), ostinato.layers.GRU(2)])
    with pytest.raises(ValueError, match=r"export: .*format='tf_saved_model', got .*'\.onnx' says"):
        ostinato.export(model, tmp_path / "x.onnx", format="tf_saved_model")
    for name in ("x.onnx", "X.ONNX"):
        ostinato.export(model, tmp_path / name)
        assert (tmp_path / name).is_file()
    for name in ("x.keras", "x.h5", "x.pt", "x.c", "x.JSON", "x.stream", "x.pb"):
        with pytest.raises(ValueError, match=rf"export: expected the name of a folder.*'.*{name}'"):
            ostinato.export(model, tmp_path / name)
        assert not (tmp_path / name).exists()
