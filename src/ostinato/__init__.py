"""Keras's recurrent layers, whole, for Keras 3 on JAX, PyTorch and TensorFlow."""

import difflib
import importlib
import sys
from typing import TYPE_CHECKING, Any

from ostinato import backend
from ostinato.registering import once_keras_is_imported

if TYPE_CHECKING:
    from ostinato import layers
    from ostinato.conversion import accelerate, restore
    from ostinato.conversion.exporting import export
    from ostinato.conversion.loading import load_model
    from ostinato.conversion.reading_torch import from_torch
    from ostinato.conversion.writing_torch import to_torch
    from ostinato.explanation import explain
    from ostinato.layers import Shape
    from ostinato.layers.states import saving_states
    from ostinato.quantizing import quantize
    from ostinato.recordings import chunks
    from ostinato.settings import use_checkpoints, use_engine, use_precision
    from ostinato.streaming.opening import stream
    from ostinato.streaming.stream import Stream

__version__ = "0.1.0"
__all__ = [
    "Shape",
    "Stream",
    "__version__",
    "accelerate",
    "chunks",
    "explain",
    "export",
    "from_torch",
    "layers",
    "load_model",
    "quantize",
    "restore",
    "saving_states",
    "stream",
    "to_torch",
    "use_checkpoints",
    "use_engine",
    "use_precision",
]


# Where each public name is at home.
_HOMES = {
    "Shape": "ostinato.layers",
    "Stream": "ostinato.streaming.stream",
    "accelerate": "ostinato.conversion",
    "chunks": "ostinato.recordings",
    "explain": "ostinato.explanation",
    "export": "ostinato.conversion.exporting",
    "from_torch": "ostinato.conversion.reading_torch",
    "layers": "ostinato.layers",
    "load_model": "ostinato.conversion.loading",
    "quantize": "ostinato.quantizing",
    "restore": "ostinato.conversion",
    "saving_states": "ostinato.layers.states",
    "stream": "ostinato.streaming.opening",
    "to_torch": "ostinato.conversion.writing_torch",
    "use_checkpoints": "ostinato.settings",
    "use_engine": "ostinato.settings",
    "use_precision": "ostinato.settings",
}
_WITHOUT_KERAS = ("Stream", "quantize")
# Not here but in ostinato.layers, which needs Keras to say so itself.
_LAYERS = (
    *("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "TimeDistributed"),
    *("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
    *("ConvLSTM1DCell", "ConvLSTM2DCell", "ConvLSTM3DCell"),
    *("LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells"),
)


def __getattr__(name: str) -> Any:
    """Imports a public name when it's first asked for."""
    if name not in _HOMES:
        hint = _alike(name)
        message = f"module 'ostinato' has no attribute {name!r}{hint}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
    if name not in _WITHOUT_KERAS:
        backend.require()  # before Keras fails somewhere inside
    home = importlib.import_module(_HOMES[name])
    value = home if name == "layers" else getattr(home, name)
    globals()[name] = value
    return value


def _alike(name: str) -> str:
    """What was meant by a name that isn't here: a layer, or a slip of the keyboard."""
    public = {each.lower(): each for each in __all__}
    public |= {each.lower(): f"layers.{each}" for each in _LAYERS}
    alike = difflib.get_close_matches(name.lower(), public, n=1, cutoff=0.75)
    return f"; did you mean `ostinato.{public[alike[0]]}`?" if alike else ""


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def _register() -> None:
    """Imports the layers, and so registers them with Keras."""
    # Not amid one of our own modules that imports Keras, where they'd find it half imported. (Those
    # that have a use for the layers import them next.)
    ours = [module for name, module in sys.modules.items() if name.startswith("ostinato.")]
    specs = [getattr(module, "__spec__", None) for module in ours]
    amid = any(getattr(spec, "_initializing", False) for spec in specs)
    # Nor where Keras runs on a backend that isn't ours: other layers than ours are welcome to it.
    if not amid and backend.configured().name in backend.BACKENDS:
        __getattr__("layers")


once_keras_is_imported(_register)
