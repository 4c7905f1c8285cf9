"""PyTorch's recurrent modules as ours: `from_torch`."""

import numbers
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from ostinato import layers
from ostinato.conversion.torch_names import (
    TorchWeights,
    has_recurrent_weights,
    keras_weights,
    read_weights,
    some,
)

_OURS = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "SimpleRNN"}
_NONLINEARITIES = ("tanh", "relu")


def from_torch(
    source: Any,
    *,
    prefix: str | None = None,
    nonlinearity: str | None = None,
    dropout: float | None = None,
    return_sequences: bool = True,
    return_state: bool = False,
    initial_state: bool = False,
) -> Any:
    """Makes our layers of a PyTorch module: nn.LSTM, GRU, RNN, LSTMCell, GRUCell or RNNCell.

    The result is batch-major, whatever the module's `batch_first` was: it takes (B, T, D). It has
    the module's weights and dtype; outputs are equal.

    Args:
        source: The module; a module that holds one; or a state dict, also of NumPy arrays, in
            which case PyTorch needn't be installed. A state dict's shapes tell kind, units, layers,
            directions and biases.
        prefix: Where in the module or state dict it is: "encoder.lstm". By default wherever there
            is exactly one, and no other layer or weight.
        nonlinearity: "tanh" or "relu", of an nn.RNN's or nn.RNNCell's state dict, which doesn't
            say; a module does, and of the other kinds it's "tanh".
        dropout: Rate of the `Dropout` between the layers, 0 to 1; by default the module's, and of
            a state dict none.
        return_sequences: Whether the last layer returns the output of every timestep, as PyTorch
            does, or that of the last.
        return_state: Whether to return the final states too. The result is then a model that
            gives `output, h_n`, and of an LSTM `output, h_n, c_n`, each of them
            (B, layers * directions, U): PyTorch's, with the batch axis first.
        initial_state: Whether to take initial states, as `model([x, h_0])` or
            `model([x, h_0, c_0])`, of the same shapes as the final ones. A model, too.

    Returns:
        A layer, built, a `Bidirectional` where the module is bidirectional; for several layers a
        `keras.Sequential` of such; with states a functional model; for a cell module a cell.

    Raises:
        ValueError: if `source` is something else, has `proj_size`, entries are missing, unknown or
            misshapen, or another argument isn't as above.
    """
    _check_options(prefix, nonlinearity, dropout)
    _check_flags(
        return_sequences=return_sequences, return_state=return_state, initial_state=initial_state
    )
    module = _module_in(source, prefix)
    # What else a module has in it, as a subclass of nn.LSTM may, isn't looked at.
    weights = read_weights(source, prefix) if module is None else _weights_of(module)
    activation = _activation(weights, module, nonlinearity)
    if weights.is_cell:
        return _cell(weights, activation, with_states=return_state or initial_state)
    rate = getattr(module, "dropout", 0.0) if dropout is None else dropout
    stack = _Stack(weights, activation, rate, return_sequences)
    if return_state or initial_state:
        return stack.with_states(return_state, initial_state)
    return stack.alone()


def _check_options(prefix: Any, nonlinearity: Any, dropout: Any) -> None:
    if not isinstance(prefix, (str, type(None))):
        raise ValueError(f"from_torch: expected `prefix` to be a string, got {prefix!r}.")
    if nonlinearity not in (None, *_NONLINEARITIES):
        raise ValueError(
            f"from_torch: expected `nonlinearity` to be 'tanh' or 'relu', got {nonlinearity!r}."
        )
    is_rate = isinstance(dropout, numbers.Real) and not isinstance(dropout, bool)
    if dropout is not None and not (is_rate and 0 <= dropout <= 1):
        raise ValueError(
            f"from_torch: expected `dropout` to be a number from 0 to 1, got {dropout!r}."
        )


def _check_flags(**flags: Any) -> None:
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_, type(None))):
            raise ValueError(f"from_torch: expected `{name}` to be True or False, got {value!r}.")


def _module_in(source: Any, prefix: str | None) -> Any:
    """The recurrent module that `source` is or holds; None for a state dict."""
    if isinstance(source, Mapping):
        _refuse_checkpoint(source)
        return None
    if isinstance(source, type) or not hasattr(source, "named_modules"):
        got = f"the class {source.__name__}" if isinstance(source, type) else type(source).__name__
        raise ValueError(f"from_torch: expected a torch.nn module or a state dict, got {got}.")
    found = {path: module for path, module in source.named_modules() if _is_recurrent(module)}
    wanted = None if prefix is None else prefix.removesuffix(".")
    if wanted is not None and wanted in found:
        return found[wanted]
    if wanted is None and len(found) == 1:
        _refuse_others(source, *found)
        return next(iter(found.values()))
    name, kinds = type(source).__name__, "(nn.LSTM, nn.GRU, nn.RNN or a cell)"
    itself = f" ('' is the {name} itself)" if "" in found else ""
    if wanted is None:
        raise ValueError(
            f"from_torch: expected one recurrent module {kinds} in the {name}, got {len(found)}: "
            f"{some(sorted(found))}{itself}." + (" Choose one by `prefix`." if found else "")
        )
    raise ValueError(
        f"from_torch: expected `prefix` to say where in the {name} a recurrent module {kinds} is, "
        f"one of {some(sorted(found))}{itself}, got {prefix!r}."
    )


def _refuse_checkpoint(source: Mapping[Any, Any]) -> None:
    """Refuses a dict that holds a state dict among other things of a training, say."""
    inner = [key for key, value in source.items() if isinstance(value, Mapping) and value]
    if inner:
        # Not by its key: the optimizer's is a state dict, too, and may come first.
        likely = [key for key in inner if has_recurrent_weights(source[key])]
        raise ValueError(
            "from_torch: expected a module or a state dict, got a dict with state dicts in it, a "
            f"checkpoint: its keys are {some(sorted(map(str, source)))}. Give the one of the model"
            + (f", from_torch(checkpoint[{likely[0]!r}])." if likely else ".")
        )


def _refuse_others(source: Any, recurrent: str) -> None:
    """Refuses a module with layers beside the recurrent one, which the result wouldn't have."""
    if not recurrent:
        return  # it's the source itself
    others = [
        f"{path} ({type(module).__name__})"
        for path, module in source.named_modules()
        if not any(module.children()) and not f"{path}.".startswith(f"{recurrent}.")
    ]
    layers_of_others = tuple(path.partition(" ")[0] + "." for path in others)
    others += [
        f"{path} (a {what})"
        for what, tensors in (
            ("parameter", source.named_parameters()),
            ("buffer", source.named_buffers()),
        )
        for path, _ in tensors
        if not path.startswith((f"{recurrent}.", *layers_of_others))
    ]
    if others:
        raise ValueError(
            f"from_torch: {type(source).__name__} has other layers than the recurrent one, which "
            f"aren't converted: {some(others)}. Say prefix={recurrent!r} to have the "
            f"{recurrent!r} alone."
        )


def _is_recurrent(module: Any) -> bool:
    # Told by name, so that PyTorch is imported only by those who have it imported.
    names = {
        cls.__name__ for cls in type(module).__mro__ if cls.__module__ == "torch.nn.modules.rnn"
    }
    return bool(names & {"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"})


def _warn_of_own_forward(module: Any) -> None:
    """Says that a subclass computes something else than PyTorch's class, which is left out."""
    classes = type(module).__mro__
    own = next(cls for cls in classes if "forward" in vars(cls))
    if own.__module__.partition(".")[0] != "torch":
        warnings.warn(
            f"from_torch: {own.__name__} has a `forward` of its own, which isn't converted: the "
            "result computes what PyTorch's class does with these weights.",
            stacklevel=4,
        )


def _weights_of(module: Any) -> TorchWeights:
    _warn_of_own_forward(module)
    return read_weights(module.state_dict(), prefix="")


def _activation(weights: TorchWeights, module: Any, given: str | None) -> str:
    own = getattr(module, "nonlinearity", None) if weights.kind == "RNN" else "tanh"
    if own is None and given is None:
        raise ValueError(
            "from_torch: expected `nonlinearity`, 'tanh' or 'relu': an RNN's state dict doesn't "
            "say which it is."
        )
    if None not in (own, given) and own != given:
        raise ValueError(
            f"from_torch: expected no `nonlinearity` or {own!r}, which the {weights.kind} has, got "
            f"{given!r}."
        )
    return str(own or given)


def _cell(weights: TorchWeights, activation: str, with_states: bool) -> Any:
    if with_states:
        raise ValueError(
            "from_torch: expected no `return_state` and no `initial_state` for a cell, which takes "
            "and returns its states at every call."
        )
    cls = getattr(layers, f"{_OURS[weights.kind]}Cell")
    cell = cls(weights.units, activation=activation, use_bias=weights.bias, dtype=weights.dtype)
    with _zeros_at_first(cell):
        cell.build((None, weights.features))
    cell.set_weights(keras_weights(weights.kind, weights.layers[0][0]))
    return cell


@contextmanager
def _zeros_at_first(*cells: Any) -> Iterator[None]:
    """Has cells built with zeros, which cost nothing and exist in every dtype.

    Orthogonal matrices don't exist in half precision. The initializers stay the cells' own.
    """
    names = ("kernel_initializer", "recurrent_initializer")
    own = [(cell, name, getattr(cell, name)) for cell in cells for name in names]
    for cell, name, _ in own:
        setattr(cell, name, keras.initializers.get("zeros"))
    try:
        yield
    finally:
        for cell, name, initializer in own:
            setattr(cell, name, initializer)


@dataclass(frozen=True)
class _Stack:
    """A module's layers, to be made.

    Attributes:
        weights: What the module holds.
        activation: "tanh" or "relu".
        rate: Of the dropout between layers.
        return_sequences: Whether the last layer returns all its outputs.
    """

    weights: TorchWeights
    activation: str
    rate: float
    return_sequences: bool

    @property
    def _count(self) -> int:
        return len(self.weights.layers)

    @property
    def _directions(self) -> int:
        return len(self.weights.layers[0])

    def alone(self) -> Any:
        """The one layer, or all of them in a Sequential; built."""
        if self._count == 1:
            return self._layer(0)
        weights = self.weights
        inputs = keras.Input((None, weights.features), dtype=weights.dtype)
        made = [self._layer(index) for index in range(self._count)]
        return keras.Sequential([inputs, *self._with_dropout(made)])

    def with_states(self, return_state: bool, initial_state: bool) -> Any:
        """A model of the layers that takes or gives their states."""
        weights, places = self.weights, self._count * self._directions
        names = ("h", "c") if weights.kind == "LSTM" else ("h",)
        x = keras.Input((None, weights.features), name="sequences", dtype=weights.dtype)
        given = [
            keras.Input((places, weights.units), name=f"{name}_0", dtype=weights.dtype)
            for name in names
            if initial_state
        ]
        output, final = x, list[Any]()
        for layer in self._with_dropout(
            [self._layer(index, return_state=True) for index in range(self._count)]
        ):
            if isinstance(layer, keras.layers.Dropout):
                output = layer(output)
                continue
            first = len(final) // len(names)
            start = [s[:, first + d] for d in range(self._directions) for s in given]
            output, *states = layer(output, initial_state=start or None)
            final += states
        stacked = [ops.stack(final[i :: len(names)], axis=1) for i in range(len(names))]
        outputs = [output, *stacked] if return_state else output
        return keras.Model([x, *given] if given else x, outputs)

    def _layer(self, index: int, return_state: bool = False) -> Any:
        weights, parts = self.weights, self.weights.layers[index]
        last = index == self._count - 1
        layer = getattr(layers, _OURS[weights.kind])(
            weights.units,
            activation=self.activation,
            use_bias=weights.bias,
            return_sequences=self.return_sequences or not last,
            return_state=return_state,
            dtype=weights.dtype,
        )
        ways = [layer]
        if len(parts) == 2:
            layer = layers.Bidirectional(layer, dtype=weights.dtype)
            ways = [layer.forward_layer, layer.backward_layer]
        with _zeros_at_first(*(way.cell for way in ways)):
            layer.build((None, None, parts[0]["weight_ih"].shape[1]))
        layer.set_weights([w for part in parts for w in keras_weights(weights.kind, part)])
        return layer

    def _with_dropout(self, made: list[Any]) -> list[Any]:
        """The layers, with a Dropout after each but the last, where there is one."""
        if not self.rate:
            return made
        dtype = self.weights.dtype
        pairs = [[layer, keras.layers.Dropout(self.rate, dtype=dtype)] for layer in made]
        return [each for pair in pairs for each in pair][:-1]
