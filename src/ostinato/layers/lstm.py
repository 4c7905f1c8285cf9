"""Long short-term memory (Hochreiter & Schmidhuber, 1997)."""

from typing import Any

import keras
from keras import ops

from ostinato.cells.builtin import Step
from ostinato.doors import door
from ostinato.layers.arguments import (
    ACTIVATION,
    ACTIVITY_REGULARIZER,
    CONSTRAINTS,
    IMPLEMENTATION,
    INITIALIZERS,
    LOOP,
    RATES,
    RECURRENT_ACTIVATION,
    REGULARIZERS,
    SEED,
    UNITS,
    USE_BIAS,
    USE_CUDNN,
    flag,
)
from ostinato.layers.builtin import BuiltinRNN
from ostinato.layers.cell import NO_DROPOUT, Cell, DropoutMasks
from ostinato.tensors import Tensor

UNIT_FORGET_BIAS = flag(
    "unit_forget_bias",
    "Whether the forget gate's bias starts at one (Jozefowicz et al., 2015).",
    True,
)


@keras.saving.register_keras_serializable(package="ostinato")
class LSTMCell(Cell):
    """One timestep of LSTM; gates in Keras's order: input i, forget f, candidate g, output o.

    Weights: kernel (D, 4U), recurrent_kernel (U, 4U), bias (4U,). Two states, h and the carry c,
    each (B, U).
    """

    gates, kind = 4, "lstm"
    arguments = (
        *(UNITS, ACTIVATION, RECURRENT_ACTIVATION, USE_BIAS, *INITIALIZERS, UNIT_FORGET_BIAS),
        *(*REGULARIZERS, *CONSTRAINTS, *RATES, SEED, IMPLEMENTATION),
    )

    def _construct(self, values: dict[str, Any], rest: dict[str, Any]) -> None:
        super()._construct(values, rest)
        self.state_size = [self.units, self.units]

    def _bias_initializer(self) -> Any:
        if not self.unit_forget_bias:
            return self.bias_initializer

        def initialize(shape: Any, *args: Any, **kwargs: Any) -> Tensor:
            gates = [
                self.bias_initializer((self.units,), *args, **kwargs),
                keras.initializers.get("ones")((self.units,), *args, **kwargs),
                self.bias_initializer((2 * self.units,), *args, **kwargs),
            ]
            return ops.concatenate(gates)

        return initialize

    def recurrence(self, masks: DropoutMasks = NO_DROPOUT) -> Step:
        """One timestep: c' = f c + i act(g); h' = o act(c'), with i, f, g, o = z + h U by gate."""
        activation, gate = self.activation, self.recurrent_activation
        gates = self._gates((gate, gate, activation, gate), masks)
        activation = door.lean(activation)

        def step(z: Tensor, states: Any) -> tuple[Tensor, Any]:
            h, c = states
            i, f, g, o = gates(z, h)
            c = door.multiply_add(f * c, i, g)
            h = o * activation(c)
            return h, (h, c)

        return step


@keras.saving.register_keras_serializable(package="ostinato")
class LSTM(BuiltinRNN):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997).

    Input (B, T, D). Output (B, U), or (B, T, U) with `return_sequences`; with `return_state`
    followed by the final state h and carry c, each (B, U).
    """

    cell_class = LSTMCell
    cell_name = "lstm_cell"
    arguments = (
        *(UNITS, ACTIVATION, RECURRENT_ACTIVATION, USE_BIAS, *INITIALIZERS, UNIT_FORGET_BIAS),
        *(*REGULARIZERS, ACTIVITY_REGULARIZER, *CONSTRAINTS, *RATES, SEED, *LOOP, USE_CUDNN),
        IMPLEMENTATION,
    )
