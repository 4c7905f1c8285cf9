"""Keras's own recurrent tests, read from the installed wheel and pointed at our classes.

A test module's source is compiled as it stands, except that the `layers` it imports is a namespace
with our recurrent classes in place of Keras's, and so is each such class it imports by name.
"""

import ast
import sys
import types
import unittest
from pathlib import Path

import keras

from ostinato import layers as ours

FOLDER = Path(keras.__file__).parent / "src" / "layers" / "rnn"
SHIPPED = (FOLDER / "rnn_test.py").exists()  # wheels of older versions come without tests
FILES = (
    "rnn",
    "lstm",
    "gru",
    "simple_rnn",
    "stacked_rnn_cells",
    "bidirectional",
    "dropout_rnn_cell",
    *("conv_lstm", "conv_lstm1d", "conv_lstm2d", "conv_lstm3d"),
    "time_distributed",
)
RECURRENT = (
    *("RNN", "SimpleRNN", "GRU", "LSTM", "SimpleRNNCell", "GRUCell", "LSTMCell"),
    *("StackedRNNCells", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
    "TimeDistributed",
)


def _by_rank(suffix):
    """Ours for a class that Keras doesn't export, and that takes the rank as an argument."""
    return lambda rank, **arguments: getattr(ours, f"ConvLSTM{rank}D{suffix}")(**arguments)


BY_RANK = {"ConvLSTM": _by_rank(""), "ConvLSTMCell": _by_rank("Cell")}


class _Layers(types.ModuleType):
    """`keras.layers` with our recurrent classes."""

    def __getattr__(self, name):
        return getattr(ours if name in RECURRENT else keras.layers, name)


LAYERS = _Layers("keras_layers_with_ostinato")


class _Substitute(ast.NodeTransformer):
    """Drops the imports of what `replacements` then provides."""

    def __init__(self):
        self.replacements = {}

    def visit_ImportFrom(self, node):
        kept = []
        for alias in node.names:
            name = alias.asname or alias.name
            if alias.name == "layers" and node.module in ("keras", "keras.src"):
                self.replacements[name] = LAYERS
            elif alias.name in RECURRENT and node.module.startswith("keras"):
                self.replacements[name] = getattr(ours, alias.name)
            elif alias.name in BY_RANK:
                self.replacements[name] = BY_RANK[alias.name]
            else:
                kept.append(alias)
        node.names = kept
        return node if kept else None


def load(stem: str) -> types.ModuleType:
    """The module `<stem>_test` of Keras's wheel, about our classes."""
    path = FOLDER / f"{stem}_test.py"
    substitute = _Substitute()
    tree = ast.fix_missing_locations(substitute.visit(ast.parse(path.read_text())))
    if not substitute.replacements:
        raise AssertionError(f"{path} imports no recurrent layer: it would test Keras alone.")
    # Under the module's own name, where Keras's loading finds the cells that the tests define.
    module = types.ModuleType(f"keras.src.layers.rnn.{stem}_test")
    sys.modules[module.__name__] = module
    vars(module).update(substitute.replacements)
    exec(compile(tree, str(path), "exec"), vars(module))
    return module


def test_classes(stem: str) -> dict[str, type[unittest.TestCase]]:
    """The test classes of a module, by name."""
    module = load(stem)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, unittest.TestCase)
        and value.__module__ == module.__name__
    }


test_classes.__test__ = False
