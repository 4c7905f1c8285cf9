"""load_model: files of Keras 2 with recurrent layers compute here what they did there."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato import layers, load_model
from ostinato.cli import main
from ostinato.conversion.keras2_configs import translated
from support import IS_OLDEST_KERAS, CellOfUnits

pytest.importorskip("tf_keras")
BACKEND = keras.config.backend()
on_jax_only = pytest.mark.skipif(
    BACKEND != "jax", reason="what is read from a file depends on no backend"
)

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


@on_jax_only
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
    assert_computes_the_same(files, loaded(files / f"{name}.h5"), name)


@on_jax_only
@pytest.mark.parametrize("name", ["cudnn_lstm_gru", "cudnn_gru_lstm"])
def test_layers_on_cudnn(files, name):
    assert_computes_the_same(files, loaded(files / f"{name}.h5"), name)


@on_jax_only
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


@on_jax_only
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


@on_jax_only
def test_json_of_keras_3_and_what_is_none(files, tmp_path):
    model, path = keras_model(), tmp_path / "model.json"
    path.write_text(model.to_json())
    model.save_weights(tmp_path / "model.weights.h5")
    fast, x = load_model(path, weights=tmp_path / "model.weights.h5"), np.ones((2, 7, 3), "float32")
    assert type(fast.layers[0]) is layers.Bidirectional
    np.testing.assert_allclose(np.asarray(fast(x)), np.asarray(model(x)), atol=1e-6)
    with pytest.raises(ValueError, match=r"load_model: expected `weights` to be an .h5 file"):
        load_model(path, weights=tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"load_model: `weights` goes with a .json file"):
        load_model(files / "lstm.h5", weights=files / "lstm.h5")
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"load_model: .*: expected what a model's `to_json`"):
        load_model(path)
    with pytest.raises(ValueError, match=r"load_model: .*: expected a .json file, found none"):
        load_model(tmp_path / "none.json")


@on_jax_only
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_masks_by_keras_2s_rules_survive_a_file_and_a_restore(files, tmp_path, suffix):
    skip_attention_on_the_oldest("beside")
    model = loaded(files / f"beside{suffix}")
    model.save(tmp_path / "new.keras")
    again = keras.saving.load_model(tmp_path / "new.keras")
    assert_computes_the_same(files, again, "beside")
    assert_computes_the_same(
        files, ostinato.restore(loaded(files / f"by_sentence{suffix}")), "by_sentence"
    )


@on_jax_only
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
    ],
)
def test_a_layer_that_cant_be_translated_is_refused_by_name(class_name, own, message):
    layer = {"class_name": class_name, "config": {"name": "one", "trainable": True, **own}}
    with pytest.raises(ValueError, match=f"load_model: .*{message}"):
        translated({"class_name": "Sequential", "config": {"name": "all", "layers": [layer]}})


@on_jax_only
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


@on_jax_only
def test_it_can_be_saved_anew(files, tmp_path):
    loaded(files / "hard_sigmoid.h5").save(tmp_path / "new.keras")
    assert_computes_the_same(files, loaded(tmp_path / "new.keras"), "hard_sigmoid")


@on_jax_only
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_time_major_is_refused(files, suffix):
    with pytest.raises(ValueError, match=r"load_model: LSTM layer 'lstm_\d+' has time_major=True"):
        loaded(files / f"time_major{suffix}")


@on_jax_only
def test_the_file_stays_as_it_is(files):
    path = files / "cudnn_lstm_gru.h5"
    before = path.read_bytes()
    loaded(path)
    assert path.read_bytes() == before


@on_jax_only
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


# --- files of Keras 3 -----------------------------------------------------------------------


def keras_model():
    return keras.Sequential(
        [
            keras.Input((7, 3)),
            keras.layers.Bidirectional(keras.layers.GRU(4)),
            keras.layers.Dense(1),
        ]
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_of_keras_3(tmp_path, suffix):
    model, x = keras_model(), np.ones((2, 7, 3), "float32")
    model.compile("adam", "mean_squared_error")
    model.fit(x, np.zeros((2, 1)), verbose=0)
    model.save(tmp_path / f"model{suffix}")
    with warnings.catch_warnings():
        # Keras 3 doesn't read the optimizer's state from .h5, and `accelerate` says so.
        warnings.filterwarnings("ignore", message=".*was built for other variables")
        fast = load_model(tmp_path / f"model{suffix}")
    assert type(fast.layers[0]) is layers.Bidirectional
    np.testing.assert_allclose(
        ops.convert_to_numpy(fast(x)), ops.convert_to_numpy(model(x)), atol=1e-6
    )
    assert fast.optimizer.iterations == (1 if suffix == ".keras" else 0)


@on_jax_only
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


@on_jax_only
def test_a_model_of_ours_is_not_copied(tmp_path):
    model = ostinato.accelerate(keras_model())
    model.save(tmp_path / "model.keras")
    assert type(load_model(tmp_path / "model.keras").layers[0]) is layers.Bidirectional


@on_jax_only
def test_what_isnt_a_model(tmp_path):
    with pytest.raises(ValueError, match="File not found"):
        load_model(tmp_path / "none.keras")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["keras_version"] = "2.15.0"
    with pytest.raises(ValueError, match="No model config found"):
        load_model(tmp_path / "weights.h5")


def whole(path):
    """A file of a model of Keras 3."""
    keras_model().save(path)
    return path


def with_entries(path, **changes):
    """A .keras file with entries replaced, or left out where they're None."""
    with zipfile.ZipFile(whole(path)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**entries, **changes}.items():
            if content is not None:
                archive.writestr(name, content)
    return path


OF_KERAS_2 = json.dumps({"keras_version": "2.15.0"})


@on_jax_only
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config.json": None}, "an archive with a 'config.json', got .*'metadata.json'"),
        ({"config.json": "{"}, "expected JSON in 'config.json': "),
        ({"config.json": "[]"}, "a JSON object in 'config.json', got list"),
        ({"metadata.json": "{"}, "expected JSON in 'metadata.json': "),
        ({"metadata.json": b"\xff"}, "expected JSON in 'metadata.json': "),
        ({"metadata.json": "[]"}, "a JSON object in 'metadata.json', got list"),
        (
            {
                "metadata.json": OF_KERAS_2,
                "config.json": json.dumps({"class_name": "Sequential", "config": {}}),
            },
            "a config of Keras 2 in 'config.json', got .*: KeyError",
        ),
    ],
)
def test_archives_that_are_refused(tmp_path, changes, message):
    path = with_entries(tmp_path / "model.keras", **changes)
    with pytest.raises(ValueError, match=rf"load_model: .*model\.keras: .*{message}"):
        load_model(path)


@on_jax_only
def test_an_archive_without_metadata_is_kerass_to_read(tmp_path):
    path = with_entries(tmp_path / "model.keras", **{"metadata.json": None})
    assert type(load_model(path).layers[0]) is layers.Bidirectional


@on_jax_only
@pytest.mark.parametrize(
    ("version", "attributes", "message"),
    [
        ("2.15.0", {}, "expected a group 'model_weights', got "),
        ("3.10.0", {}, "expected a group 'model_weights', got "),
        ("2.15.0", {"model_config": "{"}, "expected JSON in 'model_config': "),
        ("3.10.0", {"model_config": "[]"}, "a JSON object in 'model_config', got list"),
        ("2.15.0", {"training_config": "{"}, "expected JSON in 'training_config': "),
    ],
)
def test_h5_files_that_are_refused(tmp_path, version, attributes, message):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs.update({"keras_version": version, "model_config": "{}", **attributes})
    with pytest.raises(ValueError, match=rf"load_model: .*model\.h5: .*{message}"):
        load_model(tmp_path / "model.h5")


@on_jax_only
@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".h5", lambda content: content[: len(content) // 2]),
        (".keras", lambda content: content[:60] + bytes(40) + content[100:]),
    ],
)
def test_a_file_that_is_damaged(tmp_path, suffix, damage):
    path = whole(tmp_path / f"model{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"load_model: .*model{suffix}: expected a whole file"):
        load_model(path)


@on_jax_only
@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".keras"])
def test_a_file_of_another_kind_than_its_name_says(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"garbage")
    with pytest.raises(
        ValueError, match=rf"load_model: .*model{suffix}: expected .* file.*, or is"
    ):
        load_model(path)
    if suffix == ".keras":
        path.write_bytes(whole(path).read_bytes()[:-30])
        with pytest.raises(ValueError, match="a zip archive, got a file that is none, or isn't wh"):
            load_model(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=rf"load_model: .*model{suffix}: .*, got a folder"):
        load_model(path)


@on_jax_only
@pytest.mark.parametrize("given", [5, "LSTM", [keras.layers.LSTM]])
def test_what_isnt_a_dict_of_custom_objects(tmp_path, given):
    path = whole(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="load_model: expected `custom_objects` to be a dict"):
        load_model(path, custom_objects=given)


@on_jax_only
@pytest.mark.parametrize("given", [None, 3, open])
def test_what_isnt_a_path(given):
    with pytest.raises(ValueError, match=r"load_model: expected the path of a \.keras or \.h5"):
        load_model(given)


@on_jax_only
@pytest.mark.filterwarnings("ignore:Argument `decay` is no longer supported")
def test_optimizers_of_before_keras_2_11():
    sgd = {"name": "SGD", "learning_rate": 0.05, "decay": 0.0, "momentum": 0.9, "nesterov": True}
    for package in ("keras", "tf_keras"):
        module = f"{package}.optimizers.legacy"
        optimizer = {"module": module, "class_name": "SGD", "config": sgd, "registered_name": None}
        config = translated({"compile_config": {"optimizer": optimizer, "loss": "mse"}})
        made = keras.saving.deserialize_keras_object(config["compile_config"]["optimizer"])
        assert type(made) is keras.optimizers.SGD
        assert made.momentum == 0.9
