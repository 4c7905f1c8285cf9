"""What SimpleRNN, GRU and LSTM share: each is an RNN around its own cell."""

from typing import Any, ClassVar

import keras

from ostinato.layers.arguments import ACTIVITY_REGULARIZER, ZERO_OUTPUT_FOR_MASK, Argument
from ostinato.layers.cell import Cell
from ostinato.layers.rnn import RNN


class _OfCell:
    """A layer's attribute that is its cell's."""

    def __init__(self, argument: Argument) -> None:
        self.__doc__ = argument.doc
        self._name = argument.name

    def __get__(self, layer: Any, owner: type) -> Any:
        return self if layer is None else getattr(layer.cell, self._name)

    def __set__(self, layer: Any, value: Any) -> None:
        setattr(layer.cell, self._name, value)


class BuiltinRNN(RNN):
    """Base of SimpleRNN, GRU and LSTM: takes its cell's arguments, and shows them as its own."""

    cell_class: ClassVar[type[Cell]]
    cell_name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for argument in cls.cell_class.arguments:
            setattr(cls, argument.name, _OfCell(argument))

    def _construct(self, values: dict[str, Any], rest: dict[str, Any]) -> None:
        of_cell = {a.name: values.pop(a.name) for a in self.cell_class.arguments}
        cell = self.cell_class(
            **of_cell,
            dtype=rest.get("dtype"),
            trainable=rest.get("trainable", True),
            name=self.cell_name,
        )
        name = ACTIVITY_REGULARIZER.name
        rest[name] = self._read(ACTIVITY_REGULARIZER, values.pop(name))
        zero_output_for_mask = self._read(
            ZERO_OUTPUT_FOR_MASK, rest.pop(ZERO_OUTPUT_FOR_MASK.name, False)
        )
        super()._construct({"cell": cell, **values}, rest)
        self.zero_output_for_mask = zero_output_for_mask
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's layer: its arguments, without the cell's own config."""
        return {**self.loop_config(), **self._written(self.arguments)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BuiltinRNN":
        """Builds the layer from its config or from that of Keras's layer of the same name."""
        return cls(**config)
