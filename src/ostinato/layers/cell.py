"""What the built-in cells share: weights for the kernels, and the projection of the inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from ostinato.cells.builtin import BuiltinCell, is_int8
from ostinato.cells.checks import STACKED, name_of, need_batch_size, read_states
from ostinato.doors import door
from ostinato.layers.arguments import argument_names
from ostinato.layers.gated_cell import NO_DROPOUT, DropoutMasks, GatedCell
from ostinato.layers.quantized import INT8, add_int8_weights, refuse_training, why_not_in_place
from ostinato.structure import sizes, spread
from ostinato.tensors import Tensor, dequantized


def masked_products(
    masks: Sequence[Tensor], kernels: Sequence[Tensor], bias: Tensor | None
) -> Callable[[Tensor], list[Tensor]]:
    """X -> x W + b by gate, where each gate masks x for itself; W comes split, b doesn't."""
    biases = [None] * len(kernels) if bias is None else ops.split(bias, len(kernels))
    gates = list(zip(masks, kernels, biases, strict=True))
    return lambda x: [door.affine(x * mask, kernel, b) for mask, kernel, b in gates]


class Cell(BuiltinCell, GatedCell):
    """Base of SimpleRNNCell, GRUCell and LSTMCell.

    A subclass states its number of gates and its `_cell_recurrence`, the part of the mathematics
    that needs the state. The other part, the projection of the inputs, is the same for all and may
    be done for all timesteps at once.

    Args:
        arguments: The cell's own arguments by name.
        layer_arguments: Those for `keras.layers.Layer`.
    """

    _cell_quantized_dtypes = (INT8,)

    def __init__(self, arguments: dict[str, Any], layer_arguments: dict[str, Any]) -> None:
        super().__init__(arguments, layer_arguments)
        self.state_size: Any = self.units
        self.output_size = self.units

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates kernel (D, G*U), recurrent_kernel (U, G*U) and bias, for inputs (B, D)."""
        if len(input_shape) != 2:
            raise ValueError(
                f"{name_of(self)}: expected inputs of shape (batch, features) at a timestep, and "
                f"(batch, timesteps, features) for a layer around it, got {input_shape} at a "
                f"timestep. {STACKED}"
            )
        if input_shape[-1] is None:
            raise ValueError(
                f"{name_of(self)}: expected a known number of features, got {tuple(input_shape)} "
                "at a timestep. Give it in `Input(shape=(timesteps, features))`, where only "
                "`timesteps` may be None."
            )
        columns = self._cell_gates * self.units
        shapes = (input_shape[-1], columns), (self.units, columns)
        if is_int8(self):
            add_int8_weights(self, *shapes)
            self._cell_add_bias(trainable=False)
        else:
            self._cell_add_weights(*shapes)

    def quantize(self, mode: Any = None, **kwargs: Any) -> None:
        """Refuses to change the cell in place, as Keras's `model.quantize` would have it.

        Raises:
            NotImplementedError: unless it's in int8 already. Keras's `model.quantize` makes a
                warning of it, and goes on.
        """
        if not (mode == "int8" and is_int8(self)):
            raise NotImplementedError(why_not_in_place(self, mode))

    def quantized_call(self, *args: Any, **kwargs: Any) -> Any:
        """What Keras calls in place of `call` where weights are in int8: the same."""
        return self.call(*args, **kwargs)

    def call(self, inputs: Tensor, states: Any, training: bool = False) -> tuple[Tensor, Any]:
        """Runs one timestep.

        Args:
            inputs: Tensor (B, D).
            states: The states, each (B, U), as a list or tuple, or one bare.
            training: Whether to apply dropout; the masks are drawn anew in every call.

        Returns:
            The output (B, U) and the new states, in a list where `states` came in one.
        """
        owner, expected = name_of(self), sizes(self.state_size, "state_size")
        if training:
            refuse_training(owner, self)
        if len(inputs.shape) != 2:
            raise ValueError(
                f"{owner}: expected one timestep's inputs, (batch, features), got a tensor of "
                f"shape {tuple(inputs.shape)}."
            )
        read_states(owner, "states", states, expected, inputs.shape[0])
        inputs = ops.cast(inputs, self.compute_dtype)
        shape = (ops.shape(inputs)[0], inputs.shape[-1])
        masks = self._cell_masks_of_call(shape, (shape[0], self.units), training)
        projected = self._cell_projection(masks)(inputs)
        output, new_states = self._cell_recurrence(masks)(projected, spread(states))
        if isinstance(states, (list, tuple)):
            return output, list(new_states)
        return output, new_states[0]

    def _cell_activations(self) -> dict[str, Any]:
        """A cell's activations by the names of the arguments; SimpleRNN has one, no gates."""
        taken = argument_names(type(self))
        names = ("activation", "recurrent_activation")
        return {name: getattr(self, name) for name in names if name in taken}

    def _cell_weights(self) -> tuple[Tensor, ...]:
        """The values of kernel, recurrent_kernel and, where there is one, bias.

        A kernel in int8 is followed by its scales.
        """
        dtype = self.compute_dtype
        bias = () if self.bias is None else (door.read(self.bias, dtype),)
        if not is_int8(self):
            return (door.read(self.kernel, dtype), door.read(self.recurrent_kernel, dtype), *bias)
        return (
            door.read(self.kernel, "int8"),
            door.read(self.kernel_scale, dtype),
            door.read(self.recurrent_kernel, "int8"),
            door.read(self.recurrent_kernel_scale, dtype),
            *bias,
        )

    def _cell_masks(self, batch_size: Any, features: int, training: bool) -> DropoutMasks:
        """Draws one call's dropout masks, in Keras's order and number.

        Args:
            batch_size: B.
            features: D.
            training: Outside training the masks are drawn and dropped, as in Keras: the random
                numbers of a later call depend on it (evaluation between two epochs).

        Returns:
            The masks; without any where there's no dropout.
        """
        return self._cell_drawn((batch_size, features), (batch_size, self.units), training)

    def _cell_mask_count(self) -> int:
        """How many masks the inputs have, as in Keras: one a gate, or one for all."""
        takes_implementation = "implementation" in argument_names(type(self))
        by_gate = self.recurrent_dropout or (takes_implementation and self.implementation == 1)
        return self._cell_gates if by_gate else 1

    def _cell_projection(self, masks: DropoutMasks = NO_DROPOUT) -> Callable[[Tensor], Tensor]:
        """The part of a timestep that needs only the inputs: x W + b, masked by `masks.inputs`.

        Returns:
            A function of the inputs (B, D), or time-major (T, B, D) for all timesteps at once,
            that returns (..., B, G*U).
        """
        kernel = value_of(self, self.kernel)
        bias = None if self.bias is None else value_of(self, self.bias)
        if bias is not None and len(bias.shape) == 2:
            bias = bias[0]  # the other is of the state
        if not masks.inputs:
            return lambda inputs: door.affine(inputs, kernel, bias)
        if len(masks.inputs) == 1:
            return lambda inputs: door.affine(inputs * masks.inputs[0], kernel, bias)
        products = masked_products(masks.inputs, ops.split(kernel, self._cell_gates, axis=-1), bias)
        return lambda inputs: ops.concatenate(products(inputs), axis=-1)

    def get_initial_state(self, batch_size: int | None = None) -> list[Tensor]:
        """Zeros (B, U) in the compute dtype for each state."""
        need_batch_size(self, batch_size)
        dtype = self.compute_dtype
        return [ops.zeros((batch_size, size), dtype) for size in spread(self.state_size)]


def value_of(cell: Cell, weight: keras.Variable) -> Tensor:
    """A weight's value in the compute dtype, read once a call and not once a timestep."""
    value = door.read(weight, cell.compute_dtype)
    if is_int8(cell) and weight is not cell.bias:
        scale = cell.kernel_scale if weight is cell.kernel else cell.recurrent_kernel_scale
        return dequantized(value, door.read(scale, cell.compute_dtype))
    return value


def gates_of(
    cell: Cell, functions: Sequence[Callable[..., Any]], masks: DropoutMasks
) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """z, h -> each gate's function of its part of z + h U, (B, U) each, with `masks` on h."""
    kernel, functions = value_of(cell, cell.recurrent_kernel), list(map(door.lean, functions))
    if not masks.recurrent:
        gates: Callable[[Tensor, Tensor], list[Tensor]] = door.gates(functions, kernel)
        return gates
    kernels = ops.split(kernel, cell._cell_gates, axis=-1)
    parts = list(zip(map(door.consuming, functions), masks.recurrent, kernels, strict=True))
    split = door.lean(ops.split)
    return lambda z, h: [
        function(door.affine(h * mask, weight, part))
        for part, (function, mask, weight) in zip(split(z, len(parts), -1), parts, strict=True)
    ]
