"""The gated recurrent unit (Cho et al., 2014, https://arxiv.org/abs/1406.1078)."""

from collections.abc import Callable, Sequence
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
from ostinato.layers.cell import NO_DROPOUT, Cell, DropoutMasks, masked_products
from ostinato.tensors import Tensor

RESET_AFTER = flag(
    "reset_after",
    "Whether the reset gate applies after the matrix multiplication (cuDNN's convention, with a "
    "bias of its own for the state) or before it (the paper's).",
    True,
)


@keras.saving.register_keras_serializable(package="ostinato")
class GRUCell(Cell):
    """One timestep of GRU; gates in Keras's order z (update), r (reset), h (candidate).

    Weights: kernel (D, 3U), recurrent_kernel (U, 3U), bias (2, 3U) with `reset_after` (of the
    inputs, of the state), else (3U,). One state, (B, U).
    """

    gates = 3
    arguments = (
        *(UNITS, ACTIVATION, RECURRENT_ACTIVATION, USE_BIAS, *INITIALIZERS, *REGULARIZERS),
        *(*CONSTRAINTS, *RATES, RESET_AFTER, SEED, IMPLEMENTATION),
    )

    @property
    def kind(self) -> str:
        """The native engine's name for the mathematics that `reset_after` chooses."""
        return "gru" if self.reset_after else "gru_reset_before"

    def _bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def _input_bias(self) -> Tensor | None:
        if self.bias is None or not self.reset_after:
            return super()._input_bias()
        return self._weight(self.bias)[0]

    def _state_bias(self) -> Tensor | None:
        """The bias of the state with `reset_after`, (3U,)."""
        return None if self.bias is None else self._weight(self.bias)[1]

    def recurrence(self, masks: DropoutMasks = NO_DROPOUT) -> Step:
        """One timestep: h' = u h + (1 - u) act(candidate(z, r, h)), u and r gates of z + h U."""
        activation, gate = map(door.consuming, (self.activation, self.recurrent_activation))
        split = door.lean(ops.split)
        project_gates, candidate = self._state_projections(masks)

        def step(z: Tensor, states: Any) -> tuple[Tensor, Any]:
            h = states[0]
            z_update, z_reset, z_candidate = split(z, 3, -1)
            h_update, h_reset, *h_candidate = project_gates(h)
            update = gate(z_update + h_update)
            reset = gate(z_reset + h_reset)
            new = activation(candidate(z_candidate, reset, h, *h_candidate))
            h = door.blend(new, h, update)
            return h, (h,)

        return step

    def _state_projections(self, masks: DropoutMasks) -> tuple[Any, Any]:
        """The state's part of the gates; and the candidate, given its z and the reset gate."""
        kernel = self._weight(self.recurrent_kernel)
        *gates, candidate = ops.split(kernel, 3, axis=-1)
        if self.reset_after:
            project = _projection(kernel, [*gates, candidate], masks.recurrent, self._state_bias())
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
    """

    cell_class = GRUCell
    cell_name = "gru_cell"
    arguments = (
        *(UNITS, ACTIVATION, RECURRENT_ACTIVATION, USE_BIAS, *INITIALIZERS, *REGULARIZERS),
        *(ACTIVITY_REGULARIZER, *CONSTRAINTS, *RATES, SEED, *LOOP, RESET_AFTER, USE_CUDNN),
        IMPLEMENTATION,
    )
