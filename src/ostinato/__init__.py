"""Keras's recurrent layers, whole, for Keras 3 on JAX, PyTorch and TensorFlow."""

import importlib
from typing import TYPE_CHECKING, Any

from ostinato import backend

if TYPE_CHECKING:
    from ostinato import layers
    from ostinato.conversion import accelerate, restore
    from ostinato.conversion.reading_torch import from_torch
    from ostinato.conversion.writing_torch import to_torch
    from ostinato.explanation import explain
    from ostinato.forced import use_engine
    from ostinato.layers import Shape

__version__ = "0.1.0"
__all__ = [
    "Shape",
    "__version__",
    "accelerate",
    "explain",
    "from_torch",
    "layers",
    "restore",
    "to_torch",
    "use_engine",
]


# Where each public name is at home.
_HOMES = {
    "Shape": "ostinato.layers",
    "accelerate": "ostinato.conversion",
    "explain": "ostinato.explanation",
    "from_torch": "ostinato.conversion.reading_torch",
    "layers": "ostinato.layers",
    "restore": "ostinato.conversion",
    "to_torch": "ostinato.conversion.writing_torch",
    "use_engine": "ostinato.forced",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it's first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ostinato' has no attribute {name!r}")
    backend.require()
    home = importlib.import_module(_HOMES[name])
    value = home if name == "layers" else getattr(home, name)
    globals()[name] = value
    return value


# Importing the layers imports Keras, which settles the backend for good and registers our classes,
# so that saved models load. A program must have chosen its backend by now. The command line hasn't:
# Python imports this package before cli.main runs, which chooses; there the layers wait for it.
if not backend.started_as_command():
    __getattr__("layers")
