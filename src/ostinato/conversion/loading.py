"""Saved Keras models with our layers in them: `load_model`."""

import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py  # Keras depends on it, so it's here wherever Keras is
import keras
import numpy as np

from ostinato.conversion import accelerate, warn_of_turned_masks
from ostinato.conversion.keras2_configs import names_in, translated, translated_training
from ostinato.models.directions import ACCELERATE, RESTORE
from ostinato.models.layers_within import layers_within

_H5 = (".h5", ".hdf5")
_JSON = ".json"
_MOST_NUMBERS = 100_000  # a name may end in a date


def load_model(
    filepath: Any,
    custom_objects: Any = None,
    compile: bool = True,  # noqa: A002 - as in keras.saving.load_model
    safe_mode: bool = True,
    weights: Any = None,
) -> Any:
    """Loads a saved Keras model, with our recurrent layers in place of Keras's.

    It reads what `keras.saving.load_model` reads, and the files of Keras 2 (tf_keras, or Keras up
    to 2.15) with recurrent layers, which Keras 3 refuses: `.h5`, `.keras`, and `.json` with the
    weights in another file. What Keras 2 computed, the model computes: initial states that were
    inputs, `hard_sigmoid` as it was then, cuDNN's layers, masks by Keras 2's rules where layers
    merge inputs or are called at each timestep. A layer that can't be translated is refused.

    Args:
        filepath: A `.keras` or `.h5` file, or the `.json` file of a model's `to_json`.
        custom_objects: The classes and functions of yours that aren't registered, by name.
        compile: Whether to compile it as it was. A file of Keras 2 says that in Keras 2's words;
            where Keras 3 doesn't understand them, pass False. The state of a Keras 2 optimizer
            isn't read.
        safe_mode: Whether to refuse lambdas, which are code.
        weights: With a `.json` file, the `.h5` file of the model's `save_weights`. Without one the
            model has new weights.

    Returns:
        The model. Layers that stay Keras's are listed in a warning, as by `accelerate`; in another
        those that run backwards over masked inputs, whose masks Keras 2 didn't turn.

    Raises:
        OSError: if there's no such .h5 file.
        ValueError: if it can't be read, or a layer of Keras 2 is `time_major`, or isn't in Keras 3.
    """
    model = load_unchanged(filepath, custom_objects, compile, safe_mode, weights)
    inside = [layer for _, layer in layers_within(model, ACCELERATE)]
    return accelerate(model) if any(map(ACCELERATE.concerns, inside)) else model


def load_unchanged(
    filepath: Any,
    custom_objects: Any = None,
    compile: bool = True,  # noqa: A002 - as in keras.saving.load_model
    safe_mode: bool = True,
    weights: Any = None,
) -> Any:
    """Loads what `load_model` loads, and leaves Keras 3's recurrent layers as they are.

    Those of Keras 2 are ours all the same. Arguments and errors are `load_model`'s.
    """
    if not isinstance(filepath, (str, os.PathLike)):
        raise ValueError(
            f"load_model: expected the path of a .keras or .h5 file, got {filepath!r}."
        )
    if not isinstance(custom_objects, (Mapping, type(None))):
        raise ValueError(
            "load_model: expected `custom_objects` to be a dict of classes and functions by their "
            f"names, got {custom_objects!r}."
        )
    path = Path(filepath)
    if weights is not None and path.suffix != _JSON:
        raise ValueError(
            f"load_model: `weights` goes with a .json file, got {path}, which has its own."
        )
    if path.suffix == _JSON:
        return _from_json(path, custom_objects or {}, weights, safe_mode)
    options = {"custom_objects": custom_objects, "compile": compile, "safe_mode": safe_mode}
    _check_kind(path)
    if not _is_of_keras_2(path):
        return keras.saving.load_model(filepath, **options)
    with tempfile.TemporaryDirectory() as folder:
        renewed = Path(folder, path.name)
        (_renew_h5 if path.suffix in _H5 else _renew_zip)(path, renewed, custom_objects or {})
        model = keras.saving.load_model(renewed, **options)
        _warn_of_masks(model, stacklevel=5)
        return model


def _warn_of_masks(model: Any, stacklevel: int) -> None:
    """Says which masks aren't what they were in a model of Keras 2."""
    inside = [layer for _, layer in layers_within(model, RESTORE)]
    warn_of_turned_masks("load_model", "Keras 2", inside, stacklevel)


def _from_json(path: Path, custom_objects: Mapping[str, Any], weights: Any, safe_mode: bool) -> Any:
    """A model by what `to_json` said of it, of Keras 2 or 3, and its weights."""
    if not isinstance(weights, (str, os.PathLike, type(None))):
        raise ValueError(
            f"load_model: expected `weights` to be the path of a file, got {weights!r}."
        )
    if not path.is_file():
        raise ValueError(f"load_model: {path}: expected a .json file, found none.")
    config = _json(path, "to_json", path.read_bytes())
    if "class_name" not in config or not isinstance(config.get("config"), (dict, list)):
        raise ValueError(
            f"load_model: {path}: expected what a model's `to_json` gives, got an object with "
            f"{sorted(config)[:6]}."
        )
    if not _is_old(config.get("keras_version", "3" if "module" in config else "1")):
        model = keras.saving.deserialize_keras_object(config, custom_objects, safe_mode=safe_mode)
    else:
        new = json.loads(_in_new_words(_translation(custom_objects), path, "to_json", config))
        with keras.saving.custom_object_scope(custom_objects):
            own = keras.saving.get_registered_object(config["class_name"])
            if own is not None:
                model = own.from_config(new["config"])
            else:
                kind = "Sequential" if new["class_name"] == "Sequential" else "Model"
                known = {"module": "keras", "class_name": kind, "config": new["config"]}
                model = keras.saving.deserialize_keras_object(known, safe_mode=safe_mode)
        _warn_of_masks(model, stacklevel=6)
    if weights is not None:
        _read_weights(model, Path(weights))
    return model


def _read_weights(model: Any, path: Path) -> None:
    if path.suffix not in _H5 or not path.is_file() or not h5py.is_hdf5(path):
        raise ValueError(
            "load_model: expected `weights` to be an .h5 file, as of `save_weights('weights.h5')`, "
            f"got {path}. Save what Keras 2 wrote as a TensorFlow checkpoint in that way first."
        )
    with tempfile.TemporaryDirectory() as folder:
        renewed = Path(folder, path.name)
        _copy(path, renewed)
        with h5py.File(renewed, "r+") as file:
            _renew_all_cudnn(file)
        model.load_weights(renewed)


def _check_kind(path: Path) -> None:
    """Refuses a file that isn't what its name says: Keras would say that it isn't there."""
    if path.suffix == ".keras" and path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError(
            f"load_model: {path}: expected a .keras file, which is a zip archive, got a file that "
            "is none, or isn't whole."
        )
    if path.suffix in _H5 and path.is_file() and not h5py.is_hdf5(path):
        raise ValueError(
            f"load_model: {path}: expected an HDF5 file, got a file that is none, or isn't whole."
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"load_model: {path}: expected a .keras or .h5 file, got a folder.")


def _is_of_keras_2(path: Path) -> bool:
    """Whether a file is of Keras 2; refuses one that isn't whole, whose errors wouldn't name it."""
    try:
        if path.suffix in _H5 and h5py.is_hdf5(path):
            with h5py.File(path) as file:
                return "model_config" in file.attrs and _is_old(_version_of_h5(path, file))
        if path.suffix == ".keras" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _is_old(_version_of_zip(path, archive))
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"load_model: {path}: expected a whole file, got {error}.") from error
    return False  # Keras's to read or to refuse


def _version_of_h5(path: Path, file: Any) -> Any:
    for name in ("model_config", "training_config"):
        if name in file.attrs:
            _json(path, name, file.attrs[name])
    if "model_weights" not in file:
        raise ValueError(
            f"load_model: {path}: expected a group 'model_weights', got {sorted(file)[:6]}."
        )
    return file.attrs.get("keras_version", "1")


def _version_of_zip(path: Path, archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    if "config.json" not in names:
        raise ValueError(
            f"load_model: {path}: expected an archive with a 'config.json', got {names[:6]}."
        )
    _json(path, "config.json", archive.read("config.json"))
    if "metadata.json" not in names:
        return ""  # Keras 3 reads it without
    return _json(path, "metadata.json", archive.read("metadata.json")).get("keras_version", "")


def _json(path: Path, name: str, content: Any) -> dict[str, Any]:
    try:
        found = json.loads(_text(content))
    except ValueError as error:
        raise ValueError(f"load_model: {path}: expected JSON in {name!r}: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"load_model: {path}: expected a JSON object in {name!r}, got {type(found).__name__}."
        )
    return found


def _in_new_words(translate: Callable[[Any], Any], path: Path, name: str, content: Any) -> str:
    """A config in JSON, translated."""
    config = content if isinstance(content, dict) else _json(path, name, content)
    _reserve(names_in(config))
    try:
        return json.dumps(translate(config))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"load_model: {path}: expected a config of Keras 2 in {name!r}, got one that can't be "
            f"read: {error!r}."
        ) from error


def _is_old(version: Any) -> bool:
    return _text(version).startswith(("1", "2"))


def _text(attribute: Any) -> str:
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def _translation(custom_objects: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda config: translated(config, custom=custom_objects.keys())


def _reserve(names: Iterable[str]) -> None:
    """Keeps Keras from giving an operation a name that a layer of a file has.

    Masks are operations of a graph, and a name twice in one is an error.
    """
    for name in names:
        prefix, _, number = name.rpartition("_")
        prefix, last = (prefix, int(number)) if prefix and number.isdecimal() else (name, 0)
        while last < _MOST_NUMBERS and keras.backend.get_uid(prefix) <= last:
            pass


def _copy(path: Path, renewed: Path) -> None:
    shutil.copyfile(path, renewed)
    renewed.chmod(0o600)


def _renew_h5(path: Path, renewed: Path, custom_objects: Mapping[str, Any]) -> None:
    _copy(path, renewed)
    translations = {
        "model_config": _translation(custom_objects),
        "training_config": translated_training,
    }
    with h5py.File(renewed, "r+") as file:
        for name, translate in translations.items():
            if name in file.attrs:
                file.attrs[name] = _in_new_words(translate, path, name, file.attrs[name])
        file.pop("optimizer_weights", None)
        _renew_all_cudnn(file["model_weights"])


def _renew_all_cudnn(weights: Any) -> None:
    groups: list[Any] = []
    weights.visititems(lambda _, item: groups.append(item))
    for group in groups:
        if isinstance(group, h5py.Group):
            _renew_cudnn(group)


def _renew_cudnn(group: Any) -> None:
    """Brings the weights of a layer on cuDNN into the order of the others.

    They are told by their bias, (2 * gates * units,), beside a recurrent kernel (units, gates *
    units): no other layer's are like that. (A ConvLSTM's kernel has more axes.) Of the input kernel
    each gate is stored transposed, row by row; of the recurrent kernel transposed.
    """
    names = ("kernel:0", "recurrent_kernel:0", "bias:0")
    if not all(name in group for name in names):
        return
    kernel, recurrent, bias = (group[name][()] for name in names)
    if recurrent.ndim != 2 or bias.shape != (2 * recurrent.shape[1],):
        return
    gates = recurrent.shape[1] // recurrent.shape[0]
    pair = bias.reshape(2, -1)
    new = (
        np.hstack([g.T.reshape(g.shape, order="F") for g in np.hsplit(kernel, gates)]),
        np.hstack([g.T for g in np.hsplit(recurrent, gates)]),
        pair if gates == 3 else pair.sum(axis=0),
    )
    for name, value in zip(names, new, strict=True):
        del group[name]
        group[name] = value


def _renew_zip(path: Path, renewed: Path, custom_objects: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(renewed, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename == "config.json":
                translate = _translation(custom_objects)
                content = _in_new_words(translate, path, item.filename, content).encode()
            new.writestr(item, content)
