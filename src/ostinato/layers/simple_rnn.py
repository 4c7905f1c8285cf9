"""The fully connected recurrent layer: h' = act(x W + h U + b) (Elman, 1990)."""

from typing import Any

import keras

from ostinato.cells.builtin import Step
from ostinato.layers.arguments import (
    Activation,
    Constraint,
    Initializer,
    Regularizer,
    own_arguments,
)
from ostinato.layers.builtin import BuiltinRNN, OfCell
from ostinato.layers.cell import Cell, gates_of
from ostinato.layers.gated_cell import NO_DROPOUT, DropoutMasks
from ostinato.tensors import CellStepped, Tensor


@keras.saving.register_keras_serializable(package="ostinato")
class SimpleRNNCell(Cell):
    """One timestep of SimpleRNN.

    Weights: kernel (D, U), recurrent_kernel (U, U), bias (U,). One state, (B, U).

    Args:
        units: Positive int, the size of the output and of each state.
        activation: Activation of the output or candidate; None is linear.
        use_bias: Whether there is a bias.
        kernel_initializer: Initializer of `kernel`.
        recurrent_initializer: Initializer of `recurrent_kernel`.
        bias_initializer: Initializer of `bias`.
        kernel_regularizer: Regularizer of `kernel`.
        recurrent_regularizer: Regularizer of `recurrent_kernel`.
        bias_regularizer: Regularizer of `bias`.
        kernel_constraint: Constraint of `kernel`.
        recurrent_constraint: Constraint of `recurrent_kernel`.
        bias_constraint: Constraint of `bias`.
        dropout: Fraction of the inputs dropped in training.
        recurrent_dropout: Fraction of the state dropped in training.
        seed: Int, seed of the dropout masks; None draws one.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...
    """

    _cell_gates, _cell_kind = 1, "simple_rnn"
    _cell_seeds_first = True

    def __init__(
        self,
        units: int,
        activation: Activation = "tanh",
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        recurrent_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        recurrent_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(own_arguments(locals()), kwargs)

    def call(self, sequence: Tensor, states: Any, training: bool = False) -> tuple[Tensor, Any]:
        """Runs one timestep; Keras calls the inputs (B, D) `sequence` here."""
        return super().call(sequence, states, training)

    def _cell_recurrence(self, masks: DropoutMasks = NO_DROPOUT) -> Step:
        """One timestep: h' = act(z + h U), where z = x W + b."""
        gates = gates_of(self, (self.activation,), masks)

        def step(z: Tensor, states: Any) -> CellStepped:
            (h,) = gates(z, states[0])
            return h, (h,)

        return step


@keras.saving.register_keras_serializable(package="ostinato")
class SimpleRNN(BuiltinRNN):
    """Fully connected recurrent layer whose output is fed back (Elman, 1990).

    Input (B, T, D). Output (B, U), or (B, T, U) with `return_sequences`; with `return_state`
    followed by the final state (B, U).

    Args:
        units: Positive int, the size of the output and of each state.
        activation: Activation of the output or candidate; None is linear.
        use_bias: Whether there is a bias.
        kernel_initializer: Initializer of `kernel`.
        recurrent_initializer: Initializer of `recurrent_kernel`.
        bias_initializer: Initializer of `bias`.
        kernel_regularizer: Regularizer of `kernel`.
        recurrent_regularizer: Regularizer of `recurrent_kernel`.
        bias_regularizer: Regularizer of `bias`.
        activity_regularizer: Regularizer of the layer's output.
        kernel_constraint: Constraint of `kernel`.
        recurrent_constraint: Constraint of `recurrent_kernel`.
        bias_constraint: Constraint of `bias`.
        dropout: Fraction of the inputs dropped in training.
        recurrent_dropout: Fraction of the state dropped in training.
        return_sequences: Whether to return the output of every timestep.
        return_state: Whether to return the final states after the output.
        go_backwards: Whether to run from the last timestep to the first.
        stateful: Whether a batch starts from the states the last one ended with.
        unroll: Whether to unroll the loop over time; it changes no result.
        seed: Int, seed of the dropout masks; None draws one.
        zero_output_for_mask: Whether the output of a masked timestep is zero, not the previous
            output.
        truncate: Timesteps between which gradients stop: none of a state crosses a multiple of
            them, as if the sequence came in pieces to a stateful layer; results stay as they are.
            Then it keeps no more than the states between pieces, and computes the rest again.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...
    """

    _rnn_cell_class = SimpleRNNCell
    _rnn_cell_name = "simple_rnn_cell"
    units = OfCell()

    def __init__(
        self,
        units: int,
        activation: Activation = "tanh",
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        recurrent_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        recurrent_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        seed: int | None = None,
        *,
        zero_output_for_mask: bool = False,
        truncate: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(own_arguments(locals()), kwargs)

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's layer, which writes no seed; ours does where there is one."""
        config = super().get_config()
        if config["seed"] is None:
            del config["seed"]
        return config
