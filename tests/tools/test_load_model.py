"""load_model: files of Keras 3 come with our layers, and what isn't a model's file is refused."""

import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato import layers, load_model
from support import on_one_backend


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


@on_one_backend
def test_json_of_keras_3_and_what_is_none(tmp_path):
    model, path = keras_model(), tmp_path / "model.json"
    path.write_text(model.to_json())
    model.save_weights(tmp_path / "model.weights.h5")
    fast, x = load_model(path, weights=tmp_path / "model.weights.h5"), np.ones((2, 7, 3), "float32")
    assert type(fast.layers[0]) is layers.Bidirectional
    got, expected = (ops.convert_to_numpy(each(x)) for each in (fast, model))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    (tmp_path / "text.h5").write_text("no weights")
    for name in ("checkpoint", "none.h5", "text.h5", "model.json"):
        with pytest.raises(ValueError, match=r"load_model: expected `weights` to be an .h5 file"):
            load_model(path, weights=tmp_path / name)
    with pytest.raises(ValueError, match=r"load_model: `weights` goes with a .json file"):
        load_model(whole(tmp_path / "model.h5"), weights=tmp_path / "model.h5")
    for text in ("{}", '{"class_name": "Sequential"}', '{"config": {}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"load_model: .*: expected what a model's `to_json`"):
            load_model(path)
    with pytest.raises(ValueError, match=r"load_model: .*: expected a .json file, found none"):
        load_model(tmp_path / "none.json")


@on_one_backend
def test_json_with_code_in_it(tmp_path):
    double = keras.layers.Lambda(lambda x: 2 * x)
    path = tmp_path / "model.json"
    path.write_text(keras.Sequential([keras.Input((7, 3)), double]).to_json())
    with pytest.raises(ValueError, match="safe_mode=False"):
        load_model(path)
    assert ops.convert_to_numpy(load_model(path, safe_mode=False)(np.ones((1, 7, 3)))).all() == 1
    for weights in (5, b"weights.h5"):
        with pytest.raises(ValueError, match=r"load_model: expected `weights` to be .* path"):
            load_model(path, weights=weights)


@on_one_backend
def test_a_layer_of_keras_2_that_runs_backwards_over_masked_inputs(tmp_path):
    gru = {"units": 2, "go_backwards": True, "return_sequences": True, "name": "back"}
    parts = [("Masking", {"name": "mask", "batch_input_shape": [None, 7, 3]}), ("GRU", gru)]
    config = {
        "name": "model",
        "layers": [{"class_name": name, "config": own} for name, own in parts],
    }
    old = {"class_name": "Sequential", "keras_version": "2.15.0", "config": config}
    (tmp_path / "model.json").write_text(json.dumps(old))
    with pytest.warns(UserWarning, match="load_model: run backwards.*: 'back'. Keras 2 passes"):
        load_model(tmp_path / "model.json")


@on_one_backend
def test_json_is_in_the_words_of_the_keras_that_wrote_it(tmp_path):
    """`hard_sigmoid` was another function; Keras 1, like Keras 3, says no version."""
    path, own = tmp_path / "model.json", {"recurrent_activation": "hard_sigmoid"}
    gates = []
    shape = {"batch_input_shape": [None, 7, 3], "dtype": "float32"}
    layer = {"class_name": "LSTM", "config": {"name": "lstm", "units": 4, **own, **shape}}
    old = json.dumps({"class_name": "Sequential", "config": [layer]})
    new = keras.Sequential([keras.Input((7, 3)), keras.layers.LSTM(4, **own)]).to_json()
    for text in (old, new):
        path.write_text(text)
        gates.append(load_model(path).layers[0].recurrent_activation)
    x = np.linspace(-4, 4, 65, dtype="float32")
    for gate, slope in zip(gates, (1 / 5, 1 / 6), strict=True):
        got = ops.convert_to_numpy(gate(ops.convert_to_tensor(x)))
        np.testing.assert_allclose(got, np.clip(slope * x + 0.5, 0, 1), rtol=0, atol=1e-6)


@on_one_backend
def test_a_model_of_ours_is_not_copied(tmp_path):
    model = ostinato.accelerate(keras_model())
    model.save(tmp_path / "model.keras")
    assert type(load_model(tmp_path / "model.keras").layers[0]) is layers.Bidirectional


@on_one_backend
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


@on_one_backend
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


@on_one_backend
def test_an_archive_without_metadata_is_kerass_to_read(tmp_path):
    path = with_entries(tmp_path / "model.keras", **{"metadata.json": None})
    assert type(load_model(path).layers[0]) is layers.Bidirectional


@on_one_backend
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


@on_one_backend
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


@on_one_backend
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


@on_one_backend
@pytest.mark.parametrize("given", [5, "LSTM", [keras.layers.LSTM]])
def test_what_isnt_a_dict_of_custom_objects(tmp_path, given):
    path = whole(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="load_model: expected `custom_objects` to be a dict"):
        load_model(path, custom_objects=given)


@on_one_backend
@pytest.mark.parametrize("given", [None, 3, open])
def test_what_isnt_a_path(given):
    with pytest.raises(ValueError, match=r"load_model: expected the path of a \.keras or \.h5"):
        load_model(given)
