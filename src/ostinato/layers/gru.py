"""The gated recurrent unit (Cho et al., 2014, https://arxiv.org/abs/1406.1078)."""

from collections.abc import Callable, Sequence
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
from ostinato.layers.cell import Cell, masked_products, value_of
from ostinato.layers.gated_cell import NO_DROPOUT, DropoutMasks
from ostinato.tensors import CellStepped, Tensor


@keras.saving.register_keras_serializable(package="ostinato")
class GRUCell(Cell):
    """One timestep of GRU; gates in Keras's order z (update), r (reset), h (candidate).

    Weights: kernel (D, 3U), recurrent_kernel (U, 3U), bias (2, 3U) with `reset_after` (of the
    inputs, of the state), else (3U,). One state, (B, U).

    Args:
        units: Positive int, the size of the output and of each state.
        activation: Activation of the output or candidate; None is linear.
        recurrent_activation: Activation of the gates; None is linear.
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
        reset_after: Whether the reset gate applies after the matrix multiplication (cuDNN's
            convention, with a bias of its own for the state) or before it (the paper's).
        seed: Int, seed of the dropout masks; None draws one.
        implementation: Accepted for Keras's sake: 1 draws one input dropout mask a gate, 2 one for
            all. It chooses no other mathematics.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...
    """

    _cell_gates = 3

    def __init__(
        self,
        units: int,
        activation: Activation = "tanh",
        recurrent_activation: Activation = "sigmoid",
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
        reset_after: bool = True,
        seed: int | None = None,
        *,
        implementation: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(own_arguments(locals()), kwargs)

    @property
    def _cell_kind(self) -> str:
        """The native engine's name for the mathematics that `reset_after` chooses."""
        return "gru" if self.reset_after else "gru_reset_before"

    def _cell_bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def _cell_recurrence(self, masks: DropoutMasks = NO_DROPOUT) -> Step:
        """One timestep: h' = u h + (1 - u) act(candidate(z, r, h)), u and r gates of z + h U."""
        activation, gate = map(door.consuming, (self.activation, self.recurrent_activation))
        split = door.lean(ops.split)
        project_gates, candidate = _state_projections(self, masks)

        def step(z: Tensor, states: Any) -> CellStepped:
            h = states[0]
            z_update, z_reset, z_candidate = split(z, 3, -1)
            h_update, h_reset, *h_candidate = project_gates(h)
            update = gate(z_update + h_update)
            reset = gate(z_reset + h_reset)
            new = activation(candidate(z_candidate, reset, h, *h_candidate))
            h = door.blend(new, h, update)
            return h, (h,)

        return step


def _state_projections(cell: GRUCell, masks: DropoutMasks) -> tuple[Any, Any]:
    """The state's part of the gates; and the candidate, given its z and the reset gate."""
    kernel = value_of(cell, cell.recurrent_kernel)
    *gates, candidate = ops.split(kernel, 3, axis=-1)
    if cell.reset_after:
        bias = None if cell.bias is None else value_of(cell, cell.bias)[1]
        project = _projection(kernel, [*gates, candidate], masks.recurrent, bias)
        return project, lambda z, reset, h, projected: door.multiply_add(z, reset, projected)
    if not masks.recurrent:
        project = _projection(ops.concatenate(gates, axis=-1), gates, ())
        return project, lambda z, reset, h: door.affine(reset * h, candidate, z)
    *gate_masks, mask = masks.recurrent
    project = _projection(kernel, gates, gate_masks)
    return project, lambda z, reset, h: door.affine(reset * (h * mask), candidate, z)


def _projection(
    kernel: Tensor, parts: list[Tensor], masks: Sequence[Tensor], bias: Tensor | None = None
) -> Callable[[Tensor], list[Tensor]]:
    """H -> h U + b by gate: one product and a split, or a product a gate where each has a mask."""
    split, count = door.lean(ops.split), len(parts)
    if not masks:
        kernel = door.packed(kernel)
        return lambda h: split(door.affine(h, kernel, bias), count, -1)
    return masked_products(masks, parts, bias)


@keras.saving.register_keras_serializable(package="ostinato")
class GRU(BuiltinRNN):
    """Gated recurrent unit (Cho et al., 2014, https://arxiv.org/abs/1406.1078).

    Input (B, T, D). Output (B, U), or (B, T, U) with `return_sequences`; with `return_state`
    followed by the final state (B, U).

    Args:
        units: Positive int, the size of the output and of each state.
        activation: Activation of the output or candidate; None is linear.
        recurrent_activation: Activation of the gates; None is linear.
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
        seed: Int, seed of the dropout masks; None draws one.
        return_sequences: Whether to return the output of every timestep.
        return_state: Whether to return the final states after the output.
        go_backwards: Whether to run from the last timestep to the first.
        stateful: Whether a batch starts from the states the last one ended with.
        unroll: Whether to unroll the loop over time; it changes no result.
        reset_after: Whether the reset gate applies after the matrix multiplication (cuDNN's
            convention, with a bias of its own for the state) or before it (the paper's).
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

    _rnn_cell_class = GRUCell
    _rnn_cell_name = "gru_cell"
    units = OfCell()
    recurrent_activation = OfCell()
    reset_after = OfCell()

    def __init__(
        self,
        units: int,
        activation: Activation = "tanh",
        recurrent_activation: Activation = "sigmoid",
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
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        reset_after: bool = True,
        use_cudnn: bool | str = "auto",
        *,
        zero_output_for_mask: bool = False,
        truncate: int | None = None,
        implementation: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(own_arguments(locals()), kwargs)
