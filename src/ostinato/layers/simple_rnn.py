"""The fully connected recurrent layer: h' = act(x W + h U + b) (Elman, 1990)."""

from dataclasses import replace
from typing import Any

import keras

from ostinato.cells.builtin import Step
from ostinato.layers.arguments import (
    ACTIVATION,
    ACTIVITY_REGULARIZER,
    CONSTRAINTS,
    INITIALIZERS,
    LOOP,
    RATES,
    REGULARIZERS,
    SEED,
    UNITS,
    USE_BIAS,
)
from ostinato.layers.builtin import BuiltinRNN
from ostinato.layers.cell import NO_DROPOUT, Cell, DropoutMasks
from ostinato.tensors import Tensor


@keras.saving.register_keras_serializable(package="ostinato")
class SimpleRNNCell(Cell):
    """One timestep of SimpleRNN.

    Weights: kernel (D, U), recurrent_kernel (U, U), bias (U,). One state, (B, U).
    """

    gates, kind = 1, "simple_rnn"
    seeds_first = True
    arguments = (
        *(UNITS, ACTIVATION, USE_BIAS, *INITIALIZERS, *REGULARIZERS, *CONSTRAINTS),
        *(*RATES, SEED),
    )

    def call(self, sequence: Tensor, states: Any, training: bool = False) -> tuple[Tensor, Any]:
        """Runs one timestep; Keras calls the inputs (B, D) `sequence` here."""
        return super().call(sequence, states, training)

    implementation = 2  # Keras's cell takes none: one mask for the inputs, one for the state

    def recurrence(self, masks: DropoutMasks = NO_DROPOUT) -> Step:
        """One timestep: h' = act(z + h U), where z = x W + b."""
        gates = self._gates((self.activation,), masks)

        def step(z: Tensor, states: Any) -> tuple[Tensor, Any]:
            (h,) = gates(z, states[0])
            return h, (h,)

        return step


@keras.saving.register_keras_serializable(package="ostinato")
class SimpleRNN(BuiltinRNN):
    """Fully connected recurrent layer whose output is fed back (Elman, 1990).

    Input (B, T, D). Output (B, U), or (B, T, U) with `return_sequences`; with `return_state`
    followed by the final state (B, U).
    """

    cell_class = SimpleRNNCell
    cell_name = "simple_rnn_cell"
    arguments = (
        *(UNITS, ACTIVATION, USE_BIAS, *INITIALIZERS, *REGULARIZERS, ACTIVITY_REGULARIZER),
        *(*CONSTRAINTS, *RATES, *LOOP, replace(SEED, config_if_changed=True)),
    )
