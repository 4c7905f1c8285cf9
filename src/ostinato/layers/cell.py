"""What the built-in cells share: weights, dropout masks, the input projection, the config."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ostinato.cells.builtin import BuiltinCell, Step
from ostinato.cells.checks import name_of, need_batch_size, read_states
from ostinato.doors import door
from ostinato.layers.arguments import SEED, UNITS, Declared, RefusedArgument
from ostinato.structure import sizes, spread
from ostinato.tensors import Tensor

_read = door.lean(ops.convert_to_tensor)


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


class Cell(Declared, BuiltinCell, keras.layers.Layer):
    """Base of SimpleRNNCell, GRUCell and LSTMCell.

    A subclass states its number of gates and its `recurrence`, the part of the mathematics that
    needs the state. The other part, the projection of the inputs, is the same for all and may be
    done for all timesteps at once.
    """

    gates: ClassVar[int]
    kind: Any  # the native engine's name for this mathematics, of ostinato.engines.fused.KINDS
    # Whether Keras creates the seed generator before the initializers: with keras.utils.
    # set_random_seed both draw from one stream, so the order decides the initial weights.
    seeds_first: ClassVar[bool] = False

    def _construct(self, values: dict[str, Any], rest: dict[str, Any]) -> None:
        units, seed = self._read(UNITS, values["units"]), self._read(SEED, values["seed"])
        keras.layers.Layer.__init__(self, **rest)
        if "float" not in self.compute_dtype:
            raise RefusedArgument(
                type(self).__name__,
                f"`dtype`: expected floats to compute in, got {self.compute_dtype!r}.",
            )
        if self.seeds_first:
            self.seed_generator = keras.random.SeedGenerator(seed)
        for argument in self.arguments:
            setattr(self, argument.name, self._read(argument, values[argument.name]))
        if not self.seeds_first:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.state_size: Any = units
        self.output_size = units

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates kernel (D, G*U), recurrent_kernel (U, G*U) and bias, for inputs (B, D)."""
        self._add("kernel", (input_shape[-1], self.gates * self.units), "kernel")
        self._add("recurrent_kernel", (self.units, self.gates * self.units), "recurrent")
        self.bias = None
        if self.use_bias:
            self._add("bias", self._bias_shape(), "bias", self._bias_initializer())

    def _add(
        self, name: str, shape: tuple[int | None, ...], role: str, initializer: Any = None
    ) -> None:
        weight = self.add_weight(
            shape=shape,
            name=name,
            initializer=initializer or getattr(self, f"{role}_initializer"),
            regularizer=getattr(self, f"{role}_regularizer"),
            constraint=getattr(self, f"{role}_constraint"),
        )
        setattr(self, name, weight)

    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def _bias_initializer(self) -> Any:
        return self.bias_initializer

    def _input_bias(self) -> Tensor | None:
        """The bias that the projection adds, (G*U,)."""
        return None if self.bias is None else self._weight(self.bias)

    def _weight(self, variable: keras.Variable) -> Tensor:
        """A weight's value in the compute dtype, read once a call and not once a timestep."""
        return _read(variable, dtype=self.compute_dtype)

    def kernel_weights(self) -> tuple[Tensor, ...]:
        """The values of kernel, recurrent_kernel and, where there is one, bias."""
        weights = [self.kernel, self.recurrent_kernel, self.bias]
        return tuple(self._weight(weight) for weight in weights if weight is not None)

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
        masks = self.draw_masks(ops.shape(inputs)[0], inputs.shape[-1], training)
        projected = self.projection(masks)(inputs)
        output, new_states = self.recurrence(masks)(projected, spread(states))
        if isinstance(states, (list, tuple)):
            return output, list(new_states)
        return output, new_states[0]

    def draw_masks(self, batch_size: Any, features: int, training: bool) -> DropoutMasks:
        """Draws one call's dropout masks, in Keras's order and number.

        Args:
            batch_size: B.
            features: D.
            training: Outside training the masks are drawn and dropped, as in Keras: the random
                numbers of a later call depend on it (evaluation between two epochs).

        Returns:
            The masks; without any where there's no dropout.
        """
        inputs = self._draw(
            self.dropout, self._input_mask_count(), (batch_size, features), training
        )
        recurrent = self._draw(
            self.recurrent_dropout, self.gates, (batch_size, self.units), training
        )
        return DropoutMasks(inputs, recurrent)

    def _input_mask_count(self) -> int:
        by_gate = self.implementation == 1 or self.recurrent_dropout  # as in Keras
        return self.gates if by_gate else 1

    def _draw(
        self, rate: float, count: int, shape: tuple[Any, ...], training: bool
    ) -> tuple[Tensor, ...]:
        if not rate:
            return ()
        if rate == 1.0:  # Keras's dropout divides by 1 - rate, and refuses it on some backends
            for _ in range(count):
                self.seed_generator.next()
            return (ops.zeros(shape, dtype=self.compute_dtype),) * count if training else ()
        # Outside training too: on torch an unseeded generator draws from torch's global stream, so
        # that advancing its own state wouldn't do.
        ones = ops.ones(shape, dtype=self.compute_dtype)
        masks = tuple(
            keras.random.dropout(ones, rate=rate, seed=self.seed_generator) for _ in range(count)
        )
        return masks if training else ()

    def projection(self, masks: DropoutMasks = NO_DROPOUT) -> Callable[[Tensor], Tensor]:
        """The part of a timestep that needs only the inputs: x W + b, masked by `masks.inputs`.

        Returns:
            A function of the inputs (B, D), or time-major (T, B, D) for all timesteps at once,
            that returns (..., B, G*U).
        """
        kernel, bias = self._weight(self.kernel), self._input_bias()
        if not masks.inputs:
            return lambda inputs: door.affine(inputs, kernel, bias)
        if len(masks.inputs) == 1:
            return lambda inputs: door.affine(inputs * masks.inputs[0], kernel, bias)
        products = masked_products(masks.inputs, ops.split(kernel, self.gates, axis=-1), bias)
        return lambda inputs: ops.concatenate(products(inputs), axis=-1)

    def recurrence(self, masks: DropoutMasks = NO_DROPOUT) -> Step:
        """The part of a timestep that needs the state.

        Args:
            masks: This call's masks.

        Returns:
            A function of a timestep's projected inputs (B, G*U) and the tuple of states, each
            (B, U), that returns the output and the tuple of new states. The output is the first
            of them.
        """
        raise TypeError(f"{type(self).__name__} has no recurrence.")

    def _gates(
        self, functions: Sequence[Callable[..., Any]], masks: DropoutMasks
    ) -> Callable[[Tensor, Tensor], list[Tensor]]:
        """z, h -> each gate's function of its part of z + h U, (B, U) each, with `masks` on h."""
        kernel, functions = self._weight(self.recurrent_kernel), list(map(door.lean, functions))
        if not masks.recurrent:
            gates: Callable[[Tensor, Tensor], list[Tensor]] = door.gates(functions, kernel)
            return gates
        kernels = ops.split(kernel, self.gates, axis=-1)
        parts = list(zip(map(door.consuming, functions), masks.recurrent, kernels, strict=True))
        split = door.lean(ops.split)
        return lambda z, h: [
            function(door.affine(h * mask, weight, part))
            for part, (function, mask, weight) in zip(split(z, len(parts), -1), parts, strict=True)
        ]

    def get_initial_state(self, batch_size: int | None = None) -> list[Tensor]:
        """Zeros (B, U) in the compute dtype for each state."""
        need_batch_size(self, batch_size)
        return [
            ops.zeros((batch_size, size), dtype=self.compute_dtype)
            for size in spread(self.state_size)
        ]

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's cell."""
        config: dict[str, Any] = keras.layers.Layer.get_config(self)
        return {**config, **self._written(self.arguments)}
