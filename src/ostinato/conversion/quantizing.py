"""Copies of models whose recurrent layers have weights in int8."""

from typing import Any

import keras
from keras import ops

from ostinato.cells.builtin import is_int8
from ostinato.conversion import copied
from ostinato.conversion.copying import Copier
from ostinato.conversion.values import seeds_of, states_of
from ostinato.int8 import rounded
from ostinato.models.directions import QUANTIZE
from ostinato.models.layers_within import layers_within


def quantized(model: Any) -> Any:
    """The copy; see `ostinato.quantize`.

    Raises:
        ValueError: if there's no layer that could be in int8, or a weight is no number.
    """
    if not any(QUANTIZE.holds_quantized(layer) for _, layer in layers_within(model, QUANTIZE)):
        raise ValueError(
            f"quantize: {model.name}: expected a model with an LSTM, GRU or SimpleRNN of "
            "ostinato.layers that computes in float32, got none."
        )
    return copied(model, QUANTIZE, _Quantizer(QUANTIZE))


class _Quantizer(Copier):
    """A copier that rounds the kernels of cells to int8."""

    def __init__(self, direction: Any) -> None:
        super().__init__(direction)
        self._cells: dict[int, tuple[Any, Any]] = {}

    def settle(self) -> None:
        """Gives all values to the copies, the kernels' rounded.

        Raises:
            ValueError: if one is no number.
        """
        super().settle()
        for old, new in self._cells.values():
            for name in ("kernel", "recurrent_kernel"):
                value = ops.convert_to_numpy(getattr(old, name).value)
                try:
                    whole, scales = rounded(value)
                except ValueError as error:
                    path = getattr(old, name).path
                    raise ValueError(f"quantize: {path}: {error}") from error
                getattr(new, name).assign(whole)
                getattr(new, f"{name}_scale").assign(scales)
            if old.bias is not None:
                new.bias.assign(ops.copy(old.bias.value))

    def _pair_variables(self, old: Any, new: Any) -> None:
        if _dtypes(old) == _dtypes(new):
            super()._pair_variables(old, new)
            return
        # Its weights, or those of the layers in it, are those of cells, which come next.
        if is_int8(new) and hasattr(new, "kernel_scale"):
            self._cells[id(old)] = (old, new)
        for of in (seeds_of, states_of):
            self.variables.pair(old.name, of(old), of(new))


def _dtypes(layer: keras.layers.Layer) -> list[str]:
    return [weight.dtype for weight in layer.weights]
