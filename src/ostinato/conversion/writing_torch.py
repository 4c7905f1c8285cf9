"""Our recurrent layers as PyTorch's modules: `to_torch`."""

import warnings
from dataclasses import dataclass
from typing import Any

import keras

from ostinato import layers
from ostinato.cells.builtin import is_int8
from ostinato.cells.checks import name_of
from ostinato.conversion.torch_chain import chain_in
from ostinato.conversion.torch_names import torch_weights

_KINDS = {layers.LSTM: "LSTM", layers.GRU: "GRU", layers.SimpleRNN: "RNN"}
_CELLS = {layers.LSTMCell: "LSTM", layers.GRUCell: "GRU", layers.SimpleRNNCell: "RNN"}
_ACTIVATIONS = {"LSTM": ("tanh",), "GRU": ("tanh",), "RNN": ("tanh", "relu")}


@dataclass(frozen=True)
class _Settings:
    """What all layers of a PyTorch module have in common."""

    kind: str
    units: int
    activation: str
    bias: bool
    bidirectional: bool
    dtype: str


def to_torch(layer: Any) -> Any:
    """Makes a PyTorch module of our layers; `from_torch` the other way. Needs PyTorch.

    Args:
        layer: A built LSTM, GRU or SimpleRNN, a Bidirectional of one, a built cell, or a model that
            is a stack of such layers, with Dropout in between: what `from_torch` gives, for
            instance.

    Returns:
        An nn.LSTM, GRU or RNN with `batch_first=True`, or an nn.LSTMCell, GRUCell or RNNCell, on
        the CPU, in the layers' dtype. It returns all outputs and the final states, as PyTorch's
        modules do, whatever `return_sequences` and `return_state` were. A `dropout` or
        `recurrent_dropout` of the layers themselves has no counterpart: a warning says so.

    Raises:
        ImportError: if PyTorch isn't installed.
        ValueError: if it's something else, isn't built, or does what PyTorch's modules don't: other
            activations, a GRU with `reset_after=False`, `go_backwards`, another merge mode,
            a graph in which a state goes from layer to layer.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "to_torch: expected PyTorch to be installed: pip install torch"
        ) from error
    if type(layer) in _CELLS:
        return _cell(layer, torch)
    stack, rate = _stack_in(layer)
    settings = [_settings(each) for each in stack]
    if len(set(settings)) > 1:
        raise ValueError(
            f"to_torch: expected layers of one kind, with the same settings, got {settings}."
        )
    one = settings[0]
    module = getattr(torch.nn, one.kind)(
        input_size=_parts(stack[0])[0].cell.kernel.shape[0],
        hidden_size=one.units,
        num_layers=len(stack),
        bias=one.bias,
        batch_first=True,
        dropout=rate,
        bidirectional=one.bidirectional,
        dtype=getattr(torch, one.dtype),
        **({"nonlinearity": one.activation} if one.kind == "RNN" else {}),
    )
    entries = {
        f"{role}_l{index}{suffix}": array
        for index, each in enumerate(stack)
        for suffix, part in zip(("", "_reverse"), _parts(each), strict=False)
        for role, array in torch_weights(one.kind, _arrays(part.cell)).items()
    }
    return _loaded(module, entries, torch)


def _cell(cell: Any, torch: Any) -> Any:
    kind = _CELLS[type(cell)]
    settings = _settings_of_cell(cell, cell, kind, bidirectional=False)
    module = getattr(torch.nn, f"{kind}Cell")(
        cell.kernel.shape[0],
        cell.units,
        bias=cell.use_bias,
        dtype=getattr(torch, settings.dtype),
        **({"nonlinearity": settings.activation} if kind == "RNN" else {}),
    )
    return _loaded(module, torch_weights(kind, _arrays(cell)), torch)


def _stack_in(layer: Any) -> tuple[list[Any], float]:
    """The recurrent layers, bottom to top, and the dropout rate between them."""
    if not isinstance(layer, keras.Model):
        return [layer], 0.0
    inside = chain_in(layer)
    stack = [each for each in inside if not isinstance(each, keras.layers.Dropout)]
    rates = [each.rate for each in inside if isinstance(each, keras.layers.Dropout)]
    pattern = [isinstance(each, keras.layers.Dropout) for each in inside]
    between = [False, *[True, False] * (len(stack) - 1)]
    if not stack or (rates and pattern != between) or len(set(rates)) > 1:
        raise ValueError(
            "to_torch: expected recurrent layers, one after the other, with the same Dropout "
            f"between any two or none, got {[type(each).__name__ for each in inside]}"
            f"{f' with the rates {rates}' if rates else ''}. Layers can be converted one by one."
        )
    return stack, float(rates[0]) if rates else 0.0


def _parts(layer: Any) -> tuple[Any, ...]:
    """The layer, or the two directions of a Bidirectional."""
    if type(layer) is layers.Bidirectional:
        return layer.forward_layer, layer.backward_layer
    return (layer,)


def _settings(layer: Any) -> _Settings:
    parts = _parts(layer)
    bidirectional = len(parts) == 2
    for part, backwards in zip(parts, (False, True), strict=False):
        if type(part) not in _KINDS:
            raise ValueError(
                "to_torch: expected a layer of ostinato.layers (LSTM, GRU, SimpleRNN, or "
                f"Bidirectional of one), got {name_of(part)} of {type(part).__module__}."
            )
        if part.go_backwards != backwards:
            raise ValueError(
                f"to_torch: {name_of(part)}: go_backwards={part.go_backwards}, but a PyTorch "
                "module runs backwards only as the second direction of a bidirectional one."
            )
    if bidirectional and layer.merge_mode != "concat":
        raise ValueError(
            f"to_torch: {name_of(layer)}: expected merge_mode 'concat', the only one that PyTorch "
            f"has, got {layer.merge_mode!r}."
        )
    found = [
        _settings_of_cell(part, part.cell, _KINDS[type(part)], bidirectional) for part in parts
    ]
    if found[0] != found[-1]:
        raise ValueError(
            f"to_torch: {name_of(layer)}: expected two directions with the same settings, got "
            f"{found[0]} and {found[1]}."
        )
    return found[0]


def _settings_of_cell(layer: Any, cell: Any, kind: str, bidirectional: bool) -> _Settings:
    if not cell.built:
        raise ValueError(f"to_torch: {name_of(layer)}: expected a built layer, with weights.")
    if is_int8(cell):
        raise ValueError(
            f"to_torch: {name_of(layer)}: expected weights in floats, as nn.{kind} has them, got "
            "int8. Convert the model that was quantized."
        )
    activation, gate = cell.activation, getattr(cell, "recurrent_activation", None)
    known = [name for name in _ACTIVATIONS[kind] if activation is keras.activations.get(name)]
    if not known or gate not in (None, keras.activations.sigmoid):
        raise ValueError(
            f"to_torch: {name_of(layer)}: expected the activation "
            f"{' or '.join(map(repr, _ACTIVATIONS[kind]))}"
            f"{'' if gate is None else ' and the recurrent activation sigmoid'}, which nn.{kind} "
            f"has, got {_shown(activation)}{'' if gate is None else f' and {_shown(gate)}'}."
        )
    if kind == "GRU" and not cell.reset_after:
        raise ValueError(
            f"to_torch: {name_of(layer)}: expected reset_after=True: nn.GRU applies the reset gate "
            "after the matrix product."
        )
    if cell.dropout or cell.recurrent_dropout:
        warnings.warn(
            f"to_torch: {name_of(layer)}: dropout={cell.dropout} and recurrent_dropout="
            f"{cell.recurrent_dropout} are left out: nn.{kind} has no dropout within a layer.",
            stacklevel=4,
        )
    return _Settings(
        kind, cell.units, known[0], bool(cell.use_bias), bidirectional, str(cell.variable_dtype)
    )


def _shown(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _arrays(cell: Any) -> list[Any]:
    weights = [cell.kernel, cell.recurrent_kernel, cell.bias]
    return [keras.ops.convert_to_numpy(w.value) for w in weights if w is not None]


def _loaded(module: Any, entries: dict[str, Any], torch: Any) -> Any:
    # The module's own tensors give the dtype: NumPy has no bfloat16.
    state = {name: torch.tensor(array.astype("float64")) for name, array in entries.items()}
    module.load_state_dict(state)
    return module
