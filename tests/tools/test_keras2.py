"""load_model: files of Keras 2 with recurrent layers compute here what they did there."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato import layers, load_model
from ostinato.cli import main
from ostinato.conversion import loading
from ostinato.conversion.keras2_configs import translated
from support import IS_OLDEST_KERAS, CellOfUnits, on_one_backend, one_in

# Importing it would bring TensorFlow into the tests of every backend.
if importlib.util.find_spec("tf_keras") is None:
    pytest.skip("could not find 'tf_keras'", allow_module_level=True)

MODELS = (
    *("simple_rnn", "lstm", "gru_reset_after", "gru_reset_before", "no_bias", "hard_sigmoid"),
    *("bidirectional", "cell", "stacked_cells", "masking", "embedding", "ragged", "stateful"),
    *("time_distributed", "encoder_decoder", "bidirectional_states", "nested_twice", "several"),
    *("mask_by_keyword", "constants", "masked_directions", "beside", "by_sentence"),
)


OTHER_OPTIMIZER = "Skipping variable loading for optimizer"  # it has other variables in Keras 3
WRITER = Path(__file__).with_name("keras2_files.py")


@pytest.fixture(scope="session")
def files():
    """The folder of the files; written once a machine for each state of what writes them."""
    version = importlib.metadata.version("tf_keras")
    digest = hashlib.sha256(WRITER.read_bytes() + version.encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir(), f"ostinato-keras2-{digest}")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            done = subprocess.run(
                [sys.executable, str(WRITER), made],
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            # By one move, so that another process of pytest finds all files or none.
            shutil.copytree(made, whole := Path(f"{folder}.{os.getpid()}"))
            if folder.exists():
                shutil.rmtree(whole)
            else:
                whole.rename(folder)
    return folder


def inputs_of(files, name):
    with np.load(files / "inputs.npz") as arrays:
        prefix = f"{name}/" if any(key.startswith(f"{name}/") for key in arrays) else "lstm/"
        found = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    return found.get("x", found)


def skip_attention_on_the_oldest(name):
    if IS_OLDEST_KERAS and name == "beside":
        pytest.skip("Keras 3.10's Attention fails at a mask of its values")


def assert_computes_the_same(files, model, name):
    skip_attention_on_the_oldest(name)
    with np.load(files / "results.npz") as results:
        output = ops.convert_to_numpy(model(inputs_of(files, name)))
        np.testing.assert_allclose(output, results[name], rtol=1e-5, atol=1e-5)


def loaded(path, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OTHER_OPTIMIZER)
        return load_model(path, **options)


class Gated(CellOfUnits):
    """The cell of the same name in keras2_files.py."""

    def call(self, inputs, states, constants):
        h = states[0] * constants[0] + ops.tanh(ops.matmul(inputs, self.kernel))
        return h, [h]


def recurrent(model):
    """The classes of all recurrent layers, inside of other layers too."""
    return [
        type(layer)
        for layer in model._flatten_layers()
        if type(layer).__name__ in ("SimpleRNN", "GRU", "LSTM", "RNN", "Bidirectional")
    ]


@on_one_backend
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_keras_2(files, name, suffix):
    model = loaded(files / f"{name}{suffix}", custom_objects={"Gated": Gated})
    found = recurrent(model)
    assert found
    assert all(cls.__module__.startswith("ostinato.") for cls in found)
    assert_computes_the_same(files, model, name)


@pytest.mark.parametrize("name", ["lstm", "hard_sigmoid", "beside", "by_sentence"])
def test_on_every_backend(files, name):
    model = loaded(files / f"{name}.h5")
    assert_computes_the_same(files, model, name)
    if name == "hard_sigmoid":
        cut = model.layers[-1].activation(np.array([-4, -1, 0, 1, 4], "float32"))
        cut = ops.convert_to_numpy(cut)
        np.testing.assert_allclose(cut, [0, 0.3, 0.5, 0.7, 1], atol=1e-6)


@on_one_backend
@pytest.mark.parametrize("name", ["cudnn_lstm_gru", "cudnn_gru_lstm"])
def test_layers_on_cudnn(files, name):
    assert_computes_the_same(files, loaded(files / f"{name}.h5"), name)


@on_one_backend
def test_kernels_of_a_conv_lstm_arent_those_of_cudnn(tmp_path):
    """Of one filter and a kernel of two its bias has the size of theirs."""
    arrays = {
        "kernel:0": np.ones((2, 2, 3, 4)),
        "recurrent_kernel:0": np.arange(16.0).reshape(2, 2, 1, 4),
        "bias:0": np.ones(4),
    }
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in arrays.items():
            file[f"layer/{name}"] = array
        loading._renew_all_cudnn(file)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[f"layer/{name}"], array)


@on_one_backend
@pytest.mark.parametrize("name", ["lstm", "gru_reset_after", "bidirectional", "stacked_cells"])
@pytest.mark.parametrize("ending", [".weights.h5", "_weights.h5", ".h5"])
def test_weights_alone(files, name, ending):
    model = loaded(files / f"{name}.keras")
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OTHER_OPTIMIZER)
        model.load_weights(files / f"{name}{ending}")
    assert_computes_the_same(files, model, name)


@on_one_backend
@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("lstm", "_weights.h5"),
        ("beside", ".weights.h5"),
        ("nested_twice", "_weights.h5"),
        ("cell", ".h5"),
        ("cudnn_gru_lstm", "_weights.h5"),
    ],
)
def test_json_with_weights_in_another_file(files, name, ending):
    model = loaded(files / f"{name}.json", weights=files / f"{name}{ending}")
    assert_computes_the_same(files, model, name)
    if not name.startswith("cudnn"):
        model = loaded(files / f"{name}.json")
        model.load_weights(files / f"{name}{ending}")
        assert_computes_the_same(files, model, name)


@on_one_backend
@pytest.mark.parametrize("suffix", one_in(2, [".keras", ".h5"]))
def test_masks_by_keras_2s_rules_survive_a_file_and_a_restore(files, tmp_path, suffix):
    skip_attention_on_the_oldest("beside")
    model = loaded(files / f"beside{suffix}")
    model.save(tmp_path / "new.keras")
    again = keras.saving.load_model(tmp_path / "new.keras")
    assert_computes_the_same(files, again, "beside")
    assert_computes_the_same(
        files, ostinato.restore(loaded(files / f"by_sentence{suffix}")), "by_sentence"
    )


@on_one_backend
@pytest.mark.parametrize(
    ("class_name", "own", "message"),
    [
        (
            "ThresholdedReLU",
            {"theta": 1.0},
            "ThresholdedReLU layer 'one': Keras 3 has no such layer",
        ),
        (
            "TFOpLambda",
            {"function": "math.add"},
            "TFOpLambda layer 'one': Keras 3 has no such layer",
        ),
        (
            "SpatialDropout1D",
            {"rate": 0.1, "noise_shape": [1]},
            "layer 'one': .* argument 'noise_shape'",
        ),
        (
            "Lambda",
            {"function": "f", "function_type": "function", "mask": "g", "mask_type": "function"},
            "Lambda layer 'one': it makes a mask",
        ),
    ],
)
def test_a_layer_that_cant_be_translated_is_refused_by_name(class_name, own, message):
    layer = {"class_name": class_name, "config": {"name": "one", "trainable": True, **own}}
    with pytest.raises(ValueError, match=f"load_model: .*{message}"):
        translated({"class_name": "Sequential", "config": {"name": "all", "layers": [layer]}})


@on_one_backend
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_it_trains_on_as_it_was_compiled(files, suffix):
    model = loaded(files / f"lstm{suffix}")
    assert isinstance(model.loss, keras.losses.Huber)
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert model.optimizer.clipnorm == 1.0
    x = inputs_of(files, "lstm")
    history = model.fit(x, np.zeros((len(x), 4)), verbose=0).history
    assert {"loss", "root_mean_squared_error"} <= history.keys()
    assert loaded(files / f"lstm{suffix}", compile=False).compiled is False
    assert isinstance(loaded(files / f"no_bias{suffix}").optimizer, keras.optimizers.RMSprop)


@on_one_backend
def test_it_can_be_saved_anew(files, tmp_path):
    loaded(files / "hard_sigmoid.h5").save(tmp_path / "new.keras")
    assert_computes_the_same(files, loaded(tmp_path / "new.keras"), "hard_sigmoid")


@on_one_backend
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_time_major_is_refused(files, suffix):
    with pytest.raises(ValueError, match=r"load_model: LSTM layer 'lstm_\d+' has time_major=True"):
        loaded(files / f"time_major{suffix}")


@on_one_backend
def test_the_file_stays_as_it_is(files):
    path = files / "cudnn_lstm_gru.h5"
    before = path.read_bytes()
    loaded(path)
    assert path.read_bytes() == before


@on_one_backend
def test_configs_of_the_first_keras_2():
    """A Sequential is a list, its first layer has the shape, and GRU has no `reset_after`."""
    gru = {"name": "gru", "units": 4, "batch_input_shape": [None, 7, 3], "dtype": "float32"}
    config = translated(
        {"class_name": "Sequential", "config": [{"class_name": "GRU", "config": gru}]}
    )
    config = json.loads(json.dumps(config))
    model = keras.Sequential.from_config(config["config"])
    assert model.input_shape == (None, 7, 3)
    assert type(model.layers[0]) is layers.GRU
    assert not model.layers[0].reset_after


@on_one_backend
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_the_command_explains_a_file_of_keras_2(files, capsys, suffix):
    assert main(["explain", str(files / f"stacked_cells{suffix}")]) == 0
    shown = capsys.readouterr().out
    assert "LSTMCell" in shown
    assert "After `ostinato.accelerate(model)`" not in shown  # it comes with our layers
    assert main(["explain", str(files / f"time_major{suffix}")]) == 2
    said = capsys.readouterr().err
    assert "time_major" in said
    assert said.count("\n") == 1


@on_one_backend
@pytest.mark.filterwarnings("ignore:Argument `decay` is no longer supported")
def test_optimizers_of_before_keras_2_11():
    sgd = {"name": "SGD", "learning_rate": 0.05, "decay": 0.0, "momentum": 0.9, "nesterov": True}
    for package in ("keras", "tf_keras"):
        module = f"{package}.optimizers.legacy"
        optimizer = {"module": module, "class_name": "SGD", "config": sgd, "registered_name": None}
        config = translated({"compile_config": {"optimizer": optimizer, "loss": "mse"}})
        made = keras.saving.deserialize_keras_object(config["compile_config"]["optimizer"])
        assert isinstance(made, keras.optimizers.SGD)  # on PyTorch a subclass
        assert made.momentum == 0.9
