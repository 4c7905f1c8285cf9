"""Configs: Keras's recurrent classes read as ours, and copies of a layer made by its config."""

import copy
from typing import Any

import keras

from ostinato.layers.arguments import LOOP, written

# The module where each of our classes stands in for Keras's class of the same name.
_OURS = {
    "SimpleRNNCell": "simple_rnn",
    "SimpleRNN": "simple_rnn",
    "GRUCell": "gru",
    "GRU": "gru",
    "LSTMCell": "lstm",
    "LSTM": "lstm",
    "ConvLSTM1D": "conv_lstm",
    "ConvLSTM2D": "conv_lstm",
    "ConvLSTM3D": "conv_lstm",
    "RNN": "rnn",
    "StackedRNNCells": "stacked",
    "Bidirectional": "bidirectional",
    "TimeDistributed": "time_distributed",
}


def of_ours(config: Any) -> Any:
    """A serialised object's config, with our class in place of Keras's recurrent one."""
    if not isinstance(config, dict) or config.get("class_name") not in _OURS:
        return config
    if str(config.get("module") or "keras").partition(".")[0] != "keras":
        return config
    if ">" in str(config.get("registered_name") or ""):
        return config  # somebody else's class of the same name
    name = config["class_name"]
    module = f"{__package__}.{_OURS[name]}"
    return {**config, "module": module, "registered_name": f"ostinato>{name}"}


def loop_config(layer: Any) -> dict[str, Any]:
    """The config of an RNN without its cell."""
    return {**keras.layers.Layer.get_config(layer), **written(layer, LOOP)}


def copy_layer(layer: Any, **changes: Any) -> Any:
    """A fresh, unbuilt layer like another one.

    Args:
        layer: A layer with a config.
        **changes: Config entries that differ in the copy.
    """
    cell = getattr(layer, "cell", None)
    if cell is not None and not hasattr(cell, "get_config"):
        # A plain object as the cell can't go through a config; its layer's arguments can.
        return type(layer)(copy.deepcopy(cell), **{**loop_config(layer), **changes})
    # Classes of cells are looked up by name; they needn't be registered to be copied.
    classes = {type(part).__name__: type(part) for part in _cells_within(cell)}
    with keras.saving.custom_object_scope(classes):
        return type(layer).from_config({**layer.get_config(), **changes})


def _cells_within(cell: Any) -> list[Any]:
    if cell is None:
        return []
    cells = getattr(cell, "cells", None)  # a stack's, or anything of a user's cell
    inner = cells if isinstance(cells, (list, tuple)) else ()
    return [cell, *(part for each in inner for part in _cells_within(each))]
