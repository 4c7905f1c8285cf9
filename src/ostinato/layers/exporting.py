"""Refuses to export what would be wrong in the file, without a word.

`model.export` is Keras's, and only Python's stack tells what it's writing.
"""

from typing import Any

import keras
from keras import tree

from ostinato.doors import door
from ostinato.doors.tracing import callers

ONNX = "onnx"
NO_STATES_IN_ONNX = (
    "a stateful layer can't be exported to ONNX, whose files keep no state from call to call. "
    "Export a model that takes `initial_state` as an input and returns the final states by "
    "`return_state`, or a TensorFlow SavedModel, which keeps them."
)


def check_stateful_export(owner: str, batch_size: Any) -> None:
    """Refuses a stateful layer where an exported file would do without its states.

    Args:
        owner: The layer.
        batch_size: Of its inputs; an int, None, or what JAX has for an unknown size.

    Raises:
        ValueError: if ONNX is being written, or JAX exports it for any batch size.
    """
    kind = _model_export().get("format")
    if kind == ONNX:
        raise ValueError(f"{owner}: {NO_STATES_IN_ONNX}")
    if kind is not None and not isinstance(batch_size, (int, type(None))):
        raise ValueError(
            f"{owner}: a stateful layer is exported for its own batch size. Give it by "
            "`input_signature`; of a Sequential or functional model, whose Input says it "
            "(`batch_size=`), `ostinato.export` does."
        )


def refuse_unknown_timesteps_in_onnx(owner: str) -> None:
    """Refuses an unknown number of timesteps where the loop is written out step by step.

    Raises:
        ValueError: if PyTorch writes ONNX, of a model with unknown sizes besides the batch's.
    """
    if keras.config.backend() != "torch":
        return
    export = _model_export()
    if export.get("format") != ONNX:
        return
    signature = export.get("input_signature")
    signature = getattr(export["self"], "inputs", None) if signature is None else signature
    if has_unknown_sizes(signature):
        raise ValueError(
            f"{owner}: can't be exported to ONNX with an unknown number of timesteps: on PyTorch "
            "Keras's exporter writes the loop out for as many as it sees, which would be one. Give "
            "the number, by `Input(shape=(timesteps, ...))` or `input_signature`, or export on "
            "JAX or TensorFlow, where the loop stays one."
        )


def has_unknown_sizes(signature: Any) -> bool:
    """Whether any input's shape has an unknown size after the batch's."""
    shapes = [getattr(spec, "shape", ()) for spec in tree.flatten(signature)]
    return any(size is None for shape in shapes for size in tuple(shape)[1:])


def _model_export() -> dict[str, Any]:
    """The arguments of the innermost `model.export` that is running; empty where none is."""
    for frame in callers() if door.is_exporting() else ():
        if frame.f_code.co_name == "export":
            found = dict(frame.f_locals)
            if isinstance(found.get("self"), keras.Model):
                return found
    return {}
