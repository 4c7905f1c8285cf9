"""Keras's recurrent layers, whole, for Keras 3 on JAX, PyTorch and TensorFlow."""

import importlib
from typing import TYPE_CHECKING, Any

from ostinato import backend

if TYPE_CHECKING:
    from ostinato import layers
    from ostinato.layers import Shape

__version__ = "0.1.0"
__all__ = ["Shape", "__version__", "layers"]


def __getattr__(name: str) -> Any:
    """Imports `layers` when it's first asked for, and with it what it holds for this package."""
    if name not in __all__:
        raise AttributeError(f"module 'ostinato' has no attribute {name!r}")
    backend.require()
    layers = importlib.import_module("ostinato.layers")
    globals().update(layers=layers, Shape=layers.Shape)
    return globals()[name]


# Importing the layers imports Keras, which settles the backend for good and registers our classes,
# so that saved models load. A program must have chosen its backend by now. The command line hasn't:
# Python imports this package before cli.main runs, which chooses; there the layers wait for it.
if not backend.started_as_command():
    __getattr__("layers")
