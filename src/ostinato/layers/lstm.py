"""Long short-term memory (Hochreiter & Schmidhuber, 1997)."""

from typing import Any

import keras
from keras import ops

from ostinato.cells.builtin import Step
from ostinato.doors import door
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


def forgetting_by_one(initializer: Any, units: int) -> Any:
    """An initializer of the biases of four gates, i f g o, with ones for the forget gate's."""

    def initialize(shape: Any, *args: Any, **kwargs: Any) -> Tensor:
        gates = [
            initializer((units,), *args, **kwargs),
            keras.initializers.get("ones")((units,), *args, **kwargs),
            initializer((2 * units,), *args, **kwargs),
        ]
        return ops.concatenate(gates)

    return initialize


@keras.saving.register_keras_serializable(package="ostinato")
class LSTMCell(Cell):
    """One timestep of LSTM; gates in Keras's order: input i, forget f, candidate g, output o.

    Weights: kernel (D, 4U), recurrent_kernel (U, 4U), bias (4U,). Two states, h and the carry c,
    each (B, U).

    Args:
        units: Positive int, the size of the output and of each state.
        activation: Activation of the output or candidate; None is linear.
        recurrent_activation: Activation of the gates; None is linear.
        use_bias: Whether there is a bias.
        kernel_initializer: Initializer of `kernel`.
        recurrent_initializer: Initializer of `recurrent_kernel`.
        bias_initializer: Initializer of `bias`.
        unit_forget_bias: Whether the forget gate's bias starts at one (Jozefowicz et al., 2015).
        kernel_regularizer: Regularizer of `kernel`.
        recurrent_regularizer: Regularizer of `recurrent_kernel`.
        bias_regularizer: Regularizer of `bias`.
        kernel_constraint: Constraint of `kernel`.
        recurrent_constraint: Constraint of `recurrent_kernel`.
        bias_constraint: Constraint of `bias`.
        dropout: Fraction of the inputs dropped in training.
        recurrent_dropout: Fraction of the state dropped in training.
        seed: Int, seed of the dropout masks; None draws one.
        implementation: Accepted for Keras's sake: 1 draws one input dropout mask a gate, 2 one for
            all. It chooses no other mathematics.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...
    """

    _cell_gates, _cell_kind = 4, "lstm"

    def __init__(
        self,
        units: int,
        activation: Activation = "tanh",
        recurrent_activation: Activation = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Regularizer = None,
        recurrent_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        recurrent_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        *,
        implementation: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(own_arguments(locals()), kwargs)
        self.state_size = [self.units, self.units]

    def _cell_bias_initializer(self) -> Any:
        initializer = self.bias_initializer
        return forgetting_by_one(initializer, self.units) if self.unit_forget_bias else initializer

    def _cell_recurrence(self, masks: DropoutMasks = NO_DROPOUT) -> Step:
        """One timestep: c' = f c + i act(g); h' = o act(c'), with i, f, g, o = z + h U by gate."""
        activation, gate = self.activation, self.recurrent_activation
        gates = gates_of(self, (gate, gate, activation, gate), masks)
        activation = door.lean(activation)

        def step(z: Tensor, states: Any) -> CellStepped:
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

    Args:
        units: Positive int, the size of the output and of each state.
        activation: Activation of the output or candidate; None is linear.
        recurrent_activation: Activation of the gates; None is linear.
        use_bias: Whether there is a bias.
        kernel_initializer: Initializer of `kernel`.
        recurrent_initializer: Initializer of `recurrent_kernel`.
        bias_initializer: Initializer of `bias`.
        unit_forget_bias: Whether the forget gate's bias starts at one (Jozefowicz et al., 2015).
        kernel_regularizer: Regularizer of `kernel`.
        recurrent_regularizer: Regularizer of `recurrent_kernel`.
        bias_regularizer: Regularizer of `bias`.
        activity_regularizer: Regularizer of the layer's output.
        kernel_constraint: Constraint of `kernel`.
        recurrent_constraint: Constraint of `recurrent_kernel`.
        bias_constraint: Constraint of `bias`.
        dropout: Fraction of the inputs dropped in training.
        recurrent_dropout: Fraction of the state dropped in training.
        seed: Int, seed of the dropout masks; None draws one.
        return_sequences: Whether to return the output of every timestep.
        return_state: Whether to return the final states after the output.
        go_backwards: Whether to run from the last timestep to the first.
        stateful: Whether a batch starts from the states the last one ended with.
        unroll: Whether to unroll the loop over time; it changes no result.
        use_cudnn: Accepted for Keras's sake ("auto", True or False); it chooses no mathematics.
        zero_output_for_mask: Whether the output of a masked timestep is zero, not the previous
            output.
        truncate: Timesteps between which gradients stop: none of a state crosses a multiple of
            them, as if the sequence came in pieces to a stateful layer; results stay as they are.
            Then it keeps no more than the states between pieces, and computes the rest again.
        implementation: Accepted for Keras's sake: 1 draws one input dropout mask a gate, 2 one for
            all. It chooses no other mathematics.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...
    """

    _rnn_cell_class = LSTMCell
    _rnn_cell_name = "lstm_cell"
    units = OfCell()
    recurrent_activation = OfCell()
    unit_forget_bias = OfCell()

    def __init__(
        self,
        units: int,
        activation: Activation = "tanh",
        recurrent_activation: Activation = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Regularizer = None,
        recurrent_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        recurrent_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: bool | str = "auto",
        *,
        zero_output_for_mask: bool = False,
        truncate: int | None = None,
        implementation: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(own_arguments(locals()), kwargs)
