"""What the layers that make their cell themselves share: SimpleRNN, GRU, LSTM and ConvLSTM."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras

from ostinato.layers.arguments import (
    LOOP,
    RefusedArgument,
    argument_names,
    set_arguments,
    written,
)
from ostinato.layers.gated_cell import GatedCell
from ostinato.layers.rnn import RNN


class OfCell:
    """An attribute of a layer that reads and writes its cell's attribute of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self.__doc__ = f"The cell's `{name}`."

    def __get__(self, layer: Any, owner: type) -> Any:
        return self if layer is None else getattr(layer.cell, self._name)

    def __set__(self, layer: Any, value: Any) -> None:
        setattr(layer.cell, self._name, value)


class BuiltinRNN(RNN):
    """Makes its cell, and shows the cell's arguments as its own.

    Args:
        arguments: The layer's own arguments by name, and its cell's.
        layer_arguments: Those for `keras.layers.Layer`.
    """

    _rnn_cell_class: ClassVar[Callable[..., GatedCell]]
    _rnn_cell_name: ClassVar[str]
    _rnn_input_spec = keras.layers.InputSpec(ndim=3)

    activation = OfCell()
    use_bias = OfCell()
    kernel_initializer = OfCell()
    recurrent_initializer = OfCell()
    bias_initializer = OfCell()
    kernel_regularizer = OfCell()
    recurrent_regularizer = OfCell()
    bias_regularizer = OfCell()
    kernel_constraint = OfCell()
    recurrent_constraint = OfCell()
    bias_constraint = OfCell()
    dropout = OfCell()
    recurrent_dropout = OfCell()

    def __init__(self, arguments: dict[str, Any], layer_arguments: dict[str, Any]) -> None:
        if "cell" in layer_arguments:
            raise RefusedArgument(type(self).__name__, "Unknown argument `cell`: it makes its own.")
        of_cell = {name: arguments.pop(name) for name in argument_names(self._rnn_cell_class)}
        of_loop = {name: arguments.pop(name) for name in LOOP}
        try:
            cell = self._rnn_cell_class(
                **of_cell,
                dtype=layer_arguments.get("dtype"),
                trainable=layer_arguments.get("trainable", True),
                name=self._rnn_cell_name,
            )
        except RefusedArgument as error:
            raise RefusedArgument(type(self).__name__, error.detail) from error.__cause__
        super().__init__(cell, **of_loop, **layer_arguments)
        set_arguments(self, arguments)

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's layer: its arguments, without the cell's own config."""
        of_cell = argument_names(self._rnn_cell_class)
        of_layer = [name for name in argument_names(type(self)) if name not in of_cell]
        config: dict[str, Any] = keras.layers.Layer.get_config(self)
        return {**config, **written(self.cell, of_cell), **written(self, of_layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BuiltinRNN":
        """Builds the layer from its config or from that of Keras's layer of the same name."""
        return cls(**config)
