"""Layers of the Keras kind, ours and theirs, with a case's weights."""

import importlib
from typing import Any

from ostinato.bench.cases import Case
from ostinato.bench.contenders import Contender


def library_of(contender: Contender) -> Any:
    """The module that holds Sequential, layers and losses: `keras`, or `tf_keras`."""
    return importlib.import_module("tf_keras" if contender.library == "tf_keras" else "keras")


def layer_for(contender: Contender, case: Case, *, return_sequences: bool) -> Any:
    """The contender's layer, with a Keras layer's defaults but for `return_sequences`."""
    if contender.library == "ostinato":
        layers = importlib.import_module("ostinato.layers")
    else:
        layers = library_of(contender).layers
    B, T, D, U = case.shape
    layer = getattr(layers, case.kind)(U, return_sequences=return_sequences)
    layer.build((B, T, D))
    layer.set_weights(case.weights())
    return layer


def engine_of(contender: Contender, layer: Any) -> str:
    """Which of our engines runs a layer, and on which instruction set; "" of other libraries'."""
    if contender.library != "ostinato":
        return ""
    row = next(iter(importlib.import_module("ostinato").explain(layer)))
    threads = f", {row.threads} threads" if row.threads else ""
    return f"{row.engine} ({row.target}{threads})"
