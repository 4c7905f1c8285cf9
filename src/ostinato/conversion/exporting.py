"""Models as files that run without Keras and without Ostinato: `export`."""

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import tree

from ostinato.cells.checks import name_of
from ostinato.engines.table import PORTABLE
from ostinato.layers.exporting import NO_STATES_IN_ONNX, ONNX
from ostinato.models.attributes import functional_class
from ostinato.models.directions import RESTORE
from ostinato.models.layers_within import layers_within
from ostinato.settings import use_engine

SAVED_MODEL = "tf_saved_model"
_FORMATS = {
    ".onnx": ONNX,
    ".tflite": "litert",
    ".pt2": "torch",
    ".xml": "openvino",
}  # by the end of a file's name
# Other kinds of files have these ends, and who writes them.
_NOT_EXPORTED = {
    **dict.fromkeys((".keras", ".h5"), " `model.save` writes Keras's files."),
    **dict.fromkeys((".c", ".json", ".stream"), " A stream writes such: `ostinato.stream(model)`."),
    **dict.fromkeys((".hdf5", ".pt", ".pth", ".pb", ".npz", ".safetensors"), ""),
}


def export(
    model: Any,
    filepath: Any,
    format: str | None = None,  # noqa: A002 - as in model.export
    input_signature: Any = None,
    verbose: bool = False,
    **kwargs: Any,
) -> None:
    """Exports a model for inference, by Keras's own `model.export`.

    That works by itself for models with our layers, too. This prepares for it what it needs: a
    model that was never called, a stateful one's fixed batch size; and says beforehand what can't
    be done on this backend, and where it can.

    Args:
        model: A Keras model, built.
        filepath: The folder of a SavedModel, or the file.
        format: "tf_saved_model", "onnx", or another one of Keras's. By default what the name says:
            ONNX of one that ends in ".onnx", LiteRT of ".tflite", torch.export's of ".pt2",
            OpenVINO's of ".xml", else a SavedModel; a name of other files (".keras") is refused.
        input_signature: As in `model.export`: one `keras.InputSpec` an argument of the model, with
            shape and dtype, None for sizes that may vary. By default of the model's inputs.
        verbose: Whether Keras reports on it.
        **kwargs: As in `model.export`.

    Raises:
        ImportError: if a package is missing that Keras's exporter needs; it names it.
        ValueError: if it isn't a model that's built, `filepath` isn't a path or has another
            format's name, `input_signature` has other things than specs, or the backend can't.
    """
    _check_arguments(model, filepath, input_signature)
    format = _format_of(filepath, format)  # noqa: A001
    inside = [layer for _, layer in layers_within(model, RESTORE)]
    stateful = [layer for layer in inside if getattr(layer, "stateful", False)]
    if reason := _why_not(format, stateful):
        raise ValueError(f"export: {reason}")
    if input_signature is None:
        input_signature = _signature_of(model, keeps_batch=bool(stateful))
    # What is exported runs where the native engine isn't. And PyTorch warns of each size that it
    # takes for a constant, as all are but the batch's.
    with use_engine(PORTABLE), warnings.catch_warnings():
        for known in ("Converting a tensor to a Python", "Iterating over a tensor", "Using len to"):
            warnings.filterwarnings("ignore", message=known)
        if format == ONNX and input_signature is not None:
            model(*tree.map_structure(_zeros, input_signature))  # Keras wants it called
        try:
            model.export(
                filepath,
                format=format,
                input_signature=input_signature,
                verbose=verbose,
                **kwargs,
            )
        except ImportError as error:
            raise ImportError(
                f"export: Keras's exporter of {format!r} on {keras.config.backend()} needs a "
                f"package that isn't installed. {error}"
            ) from error


def _check_arguments(model: Any, filepath: Any, signature: Any) -> None:
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "export: expected a Keras model that is built, by an Input or a call, got "
            f"{name_of(model)}."
        )
    if not isinstance(filepath, (str, os.PathLike)):
        raise ValueError(f"export: expected the path of a file or folder, got {filepath!r}.")
    specs = [] if signature is None else tree.flatten(signature)
    if signature is not None and not (
        specs and all(getattr(spec, "shape", None) is not None for spec in specs)
    ):
        raise ValueError(
            "export: expected `input_signature` to be a list of one keras.InputSpec(shape=..., "
            f"dtype=...) an argument of the model, got {signature!r}."
        )


def _format_of(filepath: Any, given: str | None) -> str:
    """The format: what is asked for, which the name mustn't gainsay, or what the name says."""
    suffix = Path(filepath).suffix.lower()
    named = _FORMATS.get(suffix)
    if given is not None and named is not None and given != named:
        raise ValueError(
            f"export: expected a name that goes with format={given!r}, got "
            f"{os.fspath(filepath)!r}, whose {suffix!r} says {named!r}."
        )
    if given is None and suffix in _NOT_EXPORTED:
        raise ValueError(
            "export: expected the name of a folder, for a SavedModel, or of a file that ends in "
            f"{', '.join(_FORMATS)}, got {os.fspath(filepath)!r}."
            f"{_NOT_EXPORTED[suffix]}"
        )
    return given or named or SAVED_MODEL


def _why_not(kind: str, stateful: list[Any]) -> str | None:
    if stateful and kind == ONNX:
        return f"{name_of(stateful[0])}: {NO_STATES_IN_ONNX}"
    on_torch = keras.config.backend() == "torch"
    if on_torch and kind == SAVED_MODEL and importlib.util.find_spec("torch_xla") is None:
        return (
            "on PyTorch Keras's exporter of SavedModels needs torch_xla, which isn't installed. "
            "Save the model as a .keras file, and export it in a process on JAX or TensorFlow "
            "(KERAS_BACKEND=tensorflow), or export to ONNX here."
        )
    return None


def _signature_of(model: Any, keeps_batch: bool) -> Any:
    """The model's inputs as specs, for any batch size or for the model's."""

    def spec(tensor: Any) -> Any:
        batch = tensor.shape[0] if keeps_batch else None
        return keras.layers.InputSpec(
            shape=(batch, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name
        )

    if isinstance(model, keras.Sequential) and model.inputs:
        return tree.map_structure(spec, model.inputs)
    if isinstance(model, functional_class()):
        return [tree.map_structure(spec, model.input)]
    return None  # Keras remembers what a subclassed model was called with


def _zeros(spec: Any) -> Any:
    shape = [1 if size is None else size for size in spec.shape]
    return keras.ops.convert_to_tensor(np.zeros(shape), dtype=spec.dtype)
