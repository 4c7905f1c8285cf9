"""What the built-in cells share: weights, dropout masks, the input projection, the config."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ostinato.cells.builtin import BuiltinCell
from ostinato.cells.checks import STACKED, name_of, need_batch_size, read_states
from ostinato.doors import door
from ostinato.layers.arguments import (
    RefusedArgument,
    argument_names,
    read,
    set_arguments,
    start_layer,
    written,
)
from ostinato.layers.dropout_protocol import MaskHolder
from ostinato.structure import sizes, spread
from ostinato.tensors import Tensor

_HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class DropoutMasks:
    """The dropout masks of one call, each (B, D) or (B, U), already scaled by 1 / (1 - rate).

    Attributes:
        inputs: One mask for all gates, or one a gate; empty without dropout.
        recurrent: One mask a gate; empty without recurrent dropout.
    """

    inputs: tuple[Tensor, ...] = ()
    recurrent: tuple[Tensor, ...] = ()


NO_DROPOUT = DropoutMasks()


def masked_products(
    masks: Sequence[Tensor], kernels: Sequence[Tensor], bias: Tensor | None
) -> Callable[[Tensor], list[Tensor]]:
    """X -> x W + b by gate, where each gate masks x for itself; W comes split, b doesn't."""
    biases = [None] * len(kernels) if bias is None else ops.split(bias, len(kernels))
    gates = list(zip(masks, kernels, biases, strict=True))
    return lambda x: [door.affine(x * mask, kernel, b) for mask, kernel, b in gates]


def _rounded(initializer: Any) -> Callable[..., Tensor]:
    """An initializer of half-precision weights: the float32 values of another, rounded.

    Not every initializer can work in half precision (orthogonal's QR decomposition can't), and a
    seed should give the same weights in every precision.
    """
    return lambda shape, dtype: ops.cast(initializer(shape, dtype="float32"), dtype)


class Cell(BuiltinCell, keras.layers.Layer, MaskHolder):
    """Base of SimpleRNNCell, GRUCell and LSTMCell.

    A subclass states its number of gates and its `_cell_recurrence`, the part of the mathematics
    that needs the state. The other part, the projection of the inputs, is the same for all and may
    be done for all timesteps at once.

    Args:
        arguments: The cell's own arguments by name.
        layer_arguments: Those for `keras.layers.Layer`.
    """

    _cell_gates: ClassVar[int]
    # Whether Keras creates the seed generator before the initializers: with keras.utils.
    # set_random_seed both draw from one stream, so the order decides the initial weights.
    _cell_seeds_first: ClassVar[bool] = False

    def __init__(self, arguments: dict[str, Any], layer_arguments: dict[str, Any]) -> None:
        start_layer(self, layer_arguments)
        self._cell_held_mask: Any = None
        self._cell_held_recurrent_mask: Any = None
        owner = type(self).__name__
        if "float" not in self.compute_dtype:
            raise RefusedArgument(
                owner, f"`dtype`: expected floats to compute in, got {self.compute_dtype!r}."
            )
        seed = read(owner, "seed", arguments["seed"])
        if self._cell_seeds_first:
            self.seed_generator = keras.random.SeedGenerator(seed)
        set_arguments(self, arguments)
        if not self._cell_seeds_first:
            self.seed_generator = keras.random.SeedGenerator(seed)
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
        columns = self._cell_gates * self.units
        self.kernel = _add_weight(self, "kernel", (input_shape[-1], columns))
        self.recurrent_kernel = _add_weight(self, "recurrent_kernel", (self.units, columns))
        self.bias = None
        if self.use_bias:
            initializer = self._cell_bias_initializer()
            self.bias = _add_weight(self, "bias", self._cell_bias_shape(), initializer)

    def _cell_bias_shape(self) -> tuple[int, ...]:
        return (self._cell_gates * self.units,)

    def _cell_bias_initializer(self) -> Any:
        return self.bias_initializer

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
        if len(inputs.shape) != 2:
            raise ValueError(
                f"{owner}: expected one timestep's inputs, (batch, features), got a tensor of "
                f"shape {tuple(inputs.shape)}."
            )
        read_states(owner, "states", states, expected, inputs.shape[0])
        inputs = ops.cast(inputs, self.compute_dtype)
        if self._cell_held_mask is None and self._cell_held_recurrent_mask is None:
            masks = self._cell_masks(ops.shape(inputs)[0], inputs.shape[-1], training)
        else:
            held = map(_as_tuple, (self._cell_held_mask, self._cell_held_recurrent_mask))
            masks = DropoutMasks(*held) if training else NO_DROPOUT
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
        """The values of kernel, recurrent_kernel and, where there is one, bias."""
        dtype, weights = self.compute_dtype, (self.kernel, self.recurrent_kernel, self.bias)
        return tuple(door.read(weight, dtype) for weight in weights if weight is not None)

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
        if not (self.dropout or self.recurrent_dropout):
            return NO_DROPOUT
        inputs = _draw(
            self, self.dropout, self._cell_mask_count(), (batch_size, features), training
        )
        shape = (batch_size, self.units)
        recurrent = _draw(self, self.recurrent_dropout, self._cell_gates, shape, training)
        return DropoutMasks(inputs, recurrent)

    def _cell_mask_count(self) -> int:
        """How many masks the inputs have, as in Keras: one a gate, or one for all."""
        takes_implementation = "implementation" in argument_names(type(self))
        by_gate = self.recurrent_dropout or (takes_implementation and self.implementation == 1)
        return self._cell_gates if by_gate else 1

    def get_dropout_mask(self, step_input: Tensor) -> Any:
        """Draws the masks of the inputs, and holds them for every `call` until they're reset.

        Keras's RNN asks for them before its loop; the layers of Ostinato don't need it.

        Args:
            step_input: The inputs of a timestep, (B, D).

        Returns:
            The held masks: a tensor (B, D), or a tuple of one a gate; None without dropout.
        """
        if self._cell_held_mask is None:
            shape = (ops.shape(step_input)[0], step_input.shape[-1])
            drawn = _draw(self, self.dropout, self._cell_mask_count(), shape, training=True)
            self._cell_held_mask = drawn[0] if len(drawn) == 1 else drawn or None
        return self._cell_held_mask

    def get_recurrent_dropout_mask(self, step_input: Tensor) -> Any:
        """The same of the state, (B, U)."""
        if self._cell_held_recurrent_mask is None:
            shape = (ops.shape(step_input)[0], self.units)
            drawn = _draw(self, self.recurrent_dropout, self._cell_gates, shape, training=True)
            self._cell_held_recurrent_mask = drawn[0] if len(drawn) == 1 else drawn or None
        return self._cell_held_recurrent_mask

    def reset_dropout_mask(self) -> None:
        """Forgets the masks of the inputs."""
        self._cell_held_mask = None

    def reset_recurrent_dropout_mask(self) -> None:
        """Forgets the masks of the state."""
        self._cell_held_recurrent_mask = None

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

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's cell."""
        config: dict[str, Any] = keras.layers.Layer.get_config(self)
        return {**config, **written(self, argument_names(type(self)))}


def _add_weight(
    cell: Cell, name: str, shape: tuple[int | None, ...], initializer: Any = None
) -> keras.Variable:
    role = name.removesuffix("_kernel")  # of the recurrent kernel
    initializer = initializer or getattr(cell, f"{role}_initializer")
    return cell.add_weight(
        shape=shape,
        name=name,
        initializer=_rounded(initializer) if cell.variable_dtype in _HALF else initializer,
        regularizer=getattr(cell, f"{role}_regularizer"),
        constraint=getattr(cell, f"{role}_constraint"),
    )


def value_of(cell: Cell, weight: keras.Variable) -> Tensor:
    """A weight's value in the compute dtype, read once a call and not once a timestep."""
    return door.read(weight, cell.compute_dtype)


def _as_tuple(masks: Any) -> tuple[Tensor, ...]:
    """Held masks as `_draw` gave them."""
    if masks is None:
        return ()
    return masks if isinstance(masks, tuple) else (masks,)


def _draw(
    cell: Cell, rate: float, count: int, shape: tuple[Any, ...], training: bool
) -> tuple[Tensor, ...]:
    if not rate:
        return ()
    if rate == 1.0:  # Keras's dropout divides by 1 - rate, and refuses it on some backends
        for _ in range(count):
            cell.seed_generator.next()
        return (ops.zeros(shape, dtype=cell.compute_dtype),) * count if training else ()
    # Outside training too: on torch an unseeded generator draws from torch's global stream, so
    # that advancing its own state wouldn't do.
    ones = ops.ones(shape, dtype=cell.compute_dtype)
    masks = tuple(
        keras.random.dropout(ones, rate=rate, seed=cell.seed_generator) for _ in range(count)
    )
    return masks if training else ()


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
