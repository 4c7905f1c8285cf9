"""Saved Keras models with our layers in them: `load_model`."""

import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py  # Keras depends on it, so it's here wherever Keras is
import keras
import numpy as np

from ostinato.conversion import accelerate
from ostinato.conversion.directions import ACCELERATE
from ostinato.conversion.keras2_configs import translated, translated_training
from ostinato.conversion.layers_within import layers_within

_H5 = (".h5", ".hdf5")
_TRANSLATIONS = {"model_config": translated, "training_config": translated_training}


def load_model(
    filepath: Any,
    custom_objects: Any = None,
    compile: bool = True,  # noqa: A002 - as in keras.saving.load_model
    safe_mode: bool = True,
) -> Any:
    """Loads a saved Keras model, with our recurrent layers in place of Keras's.

    It reads what `keras.saving.load_model` reads, and the files of Keras 2 (tf_keras, or Keras up
    to 2.15) with recurrent layers, which Keras 3 refuses: `.h5` and `.keras`. What Keras 2
    computed, the model computes: initial states that were inputs, `hard_sigmoid` as it was then,
    cuDNN's layers.

    Args:
        filepath: A `.keras` or `.h5` file.
        custom_objects: The classes and functions of yours that aren't registered, by name.
        compile: Whether to compile it as it was. A file of Keras 2 says that in Keras 2's words;
            where Keras 3 doesn't understand them, pass False. The state of a Keras 2 optimizer
            isn't read.
        safe_mode: Whether to refuse lambdas, which are code.

    Returns:
        The model. Layers that stay Keras's are listed in a warning, as by `accelerate`.

    Raises:
        OSError: if there's no such .h5 file.
        ValueError: if it can't be read, or a layer of Keras 2 is `time_major`.
    """
    model = load_unchanged(filepath, custom_objects, compile, safe_mode)
    inside = [layer for _, layer in layers_within(model, ACCELERATE)]
    return accelerate(model) if any(map(ACCELERATE.concerns, inside)) else model


def load_unchanged(
    filepath: Any,
    custom_objects: Any = None,
    compile: bool = True,  # noqa: A002 - as in keras.saving.load_model
    safe_mode: bool = True,
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
    options = {"custom_objects": custom_objects, "compile": compile, "safe_mode": safe_mode}
    _check_kind(path)
    if not _is_of_keras_2(path):
        return keras.saving.load_model(filepath, **options)
    with tempfile.TemporaryDirectory() as folder:
        renewed = Path(folder, path.name)
        (_renew_h5 if path.suffix in _H5 else _renew_zip)(path, renewed)
        return keras.saving.load_model(renewed, **options)


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
    config = _json(path, name, content)
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


def _renew_h5(path: Path, renewed: Path) -> None:
    shutil.copyfile(path, renewed)
    renewed.chmod(0o600)
    with h5py.File(renewed, "r+") as file:
        for name, translate in _TRANSLATIONS.items():
            if name in file.attrs:
                file.attrs[name] = _in_new_words(translate, path, name, file.attrs[name])
        file.pop("optimizer_weights", None)
        groups: list[Any] = []
        file["model_weights"].visititems(lambda _, item: groups.append(item))
        for group in groups:
            if isinstance(group, h5py.Group):
                _renew_cudnn(group)


def _renew_cudnn(group: Any) -> None:
    """Brings the weights of a layer on cuDNN into the order of the others.

    They are told by their bias, (2 * gates * units,): no other layer's is like that. Of the input
    kernel each gate is stored transposed, row by row; of the recurrent kernel transposed.
    """
    names = ("kernel:0", "recurrent_kernel:0", "bias:0")
    if not all(name in group for name in names):
        return
    kernel, recurrent, bias = (group[name][()] for name in names)
    if bias.shape != (2 * recurrent.shape[1],):
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


def _renew_zip(path: Path, renewed: Path) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(renewed, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename == "config.json":
                content = _in_new_words(translated, path, item.filename, content).encode()
            new.writestr(item, content)
