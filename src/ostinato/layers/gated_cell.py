"""What all cells of ours share: arguments, weights by their roles, dropout masks, the config."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ostinato import native
from ostinato.doors import door
from ostinato.engines.table import PORTABLE
from ostinato.layers.arguments import (
    RefusedArgument,
    argument_names,
    read,
    set_arguments,
    start_layer,
    written,
)
from ostinato.layers.dropout_protocol import MaskHolder
from ostinato.settings import forced_engine
from ostinato.tensors import Tensor

_HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class DropoutMasks:
    """The dropout masks of one call, already scaled by 1 / (1 - rate).

    Attributes:
        inputs: One mask of a timestep's inputs, (B, ...), for all gates, or one a gate; empty
            without dropout.
        recurrent: One mask of the state, (B, ...), a gate; empty without recurrent dropout.
    """

    inputs: tuple[Tensor, ...] = ()
    recurrent: tuple[Tensor, ...] = ()


NO_DROPOUT = DropoutMasks()


class GatedCell(keras.layers.Layer, MaskHolder):
    """Base of every cell of ours: a kernel for the inputs, one for the state, a bias; by gates.

    A subclass states its number of gates, builds its weights by `_cell_add_weights`, and is
    called with the masks that `_cell_masks_of_call` gives.

    Args:
        arguments: The cell's own arguments by name.
        layer_arguments: Those for `keras.layers.Layer`.
    """

    _cell_gates: ClassVar[int]
    # Whether Keras creates the seed generator before the initializers: with keras.utils.
    # set_random_seed both draw from one stream, so the order decides the initial weights.
    _cell_seeds_first: ClassVar[bool] = False
    # Names of dtype policies that keep weights in fewer bits.
    _cell_quantized_dtypes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, arguments: dict[str, Any], layer_arguments: dict[str, Any]) -> None:
        start_layer(self, layer_arguments)
        self._cell_held_mask: Any = None
        self._cell_held_recurrent_mask: Any = None
        owner = type(self).__name__
        if "float" not in self.compute_dtype:
            raise RefusedArgument(
                owner, f"`dtype`: expected floats to compute in, got {self.compute_dtype!r}."
            )
        policy = self.dtype_policy
        if policy.quantization_mode is not None and policy.name not in self._cell_quantized_dtypes:
            allowed = "".join(f"{name!r}, or " for name in self._cell_quantized_dtypes)
            raise RefusedArgument(
                owner,
                f"`dtype`: expected {allowed}one that isn't quantized, got {policy.name!r}.",
            )
        seed = read(owner, "seed", arguments["seed"])
        if self._cell_seeds_first:
            self.seed_generator = keras.random.SeedGenerator(seed)
        set_arguments(self, arguments)
        if not self._cell_seeds_first:
            self.seed_generator = keras.random.SeedGenerator(seed)

    # --- weights ----------------------------------------------------------------------------

    def _cell_add_weights(self, kernel: tuple[Any, ...], recurrent: tuple[Any, ...]) -> None:
        """Creates kernel and recurrent_kernel of these shapes, and the bias if there is one."""
        self.kernel = self._cell_add_weight("kernel", kernel)
        self.recurrent_kernel = self._cell_add_weight("recurrent_kernel", recurrent)
        self._cell_add_bias()

    def _cell_add_bias(self, trainable: bool = True) -> None:
        self.bias = None
        if self.use_bias:
            initializer, shape = self._cell_bias_initializer(), self._cell_bias_shape()
            self.bias = self._cell_add_weight("bias", shape, initializer, trainable)

    def _cell_bias_shape(self) -> tuple[int, ...]:
        return (self.recurrent_kernel.shape[-1],)

    def _cell_bias_initializer(self) -> Any:
        return self.bias_initializer

    def _cell_add_weight(
        self,
        name: str,
        shape: tuple[int | None, ...],
        initializer: Any = None,
        trainable: bool = True,
    ) -> keras.Variable:
        role = name.removesuffix("_kernel")  # of the recurrent kernel
        initializer = initializer or getattr(self, f"{role}_initializer")
        return self.add_weight(
            shape=shape,
            name=name,
            initializer=_rounded(initializer) if self.variable_dtype in _HALF else initializer,
            regularizer=getattr(self, f"{role}_regularizer"),
            constraint=getattr(self, f"{role}_constraint"),
            trainable=trainable,
        )

    # --- dropout ----------------------------------------------------------------------------

    def _cell_drawn(
        self, inputs_shape: tuple[Any, ...], state_shape: tuple[Any, ...], training: bool
    ) -> DropoutMasks:
        """Draws one call's dropout masks, in Keras's order and number.

        Args:
            inputs_shape: Of a timestep's inputs, (B, ...).
            state_shape: Of the state, (B, ...).
            training: Outside training the masks are drawn and dropped, as in Keras: the random
                numbers of a later call depend on it (evaluation between two epochs).

        Returns:
            The masks; without any where there's no dropout.
        """
        if not (self.dropout or self.recurrent_dropout):
            return NO_DROPOUT
        inputs = _draw(self, self.dropout, self._cell_mask_count(), inputs_shape, training)
        recurrent = _draw(self, self.recurrent_dropout, self._cell_gates, state_shape, training)
        return DropoutMasks(inputs, recurrent)

    def _cell_masks_of_call(
        self, inputs_shape: tuple[Any, ...], state_shape: tuple[Any, ...], training: bool
    ) -> DropoutMasks:
        """The masks of one timestep that is called by itself: those held, or drawn anew."""
        if self._cell_held_mask is None and self._cell_held_recurrent_mask is None:
            return self._cell_drawn(inputs_shape, state_shape, training)
        held = map(_as_tuple, (self._cell_held_mask, self._cell_held_recurrent_mask))
        return DropoutMasks(*held) if training else NO_DROPOUT

    def _cell_mask_count(self) -> int:
        """How many masks the inputs have: one a gate, or one for all."""
        return self._cell_gates

    def get_dropout_mask(self, step_input: Tensor) -> Any:
        """Draws the masks of the inputs, and holds them for every `call` until they're reset.

        Keras's RNN asks for them before its loop; so does the portable engine, for a cell without
        a native kernel.

        Args:
            step_input: The inputs of a timestep, (B, ...).

        Returns:
            The held masks: a tensor (B, ...), or a tuple of one a gate; None without dropout.
        """
        if self._cell_held_mask is None:
            count, shape = self._cell_mask_count(), _shape_with_batch(step_input)
            self._cell_held_mask = _held(_draw(self, self.dropout, count, shape, training=True))
        return self._cell_held_mask

    def get_recurrent_dropout_mask(self, step_input: Tensor) -> Any:
        """The same of the state; `step_input` is a state, (B, ...)."""
        if self._cell_held_recurrent_mask is None:
            rate, shape = self.recurrent_dropout, _shape_with_batch(step_input)
            drawn = _draw(self, rate, self._cell_gates, shape, training=True)
            self._cell_held_recurrent_mask = _held(drawn)
        return self._cell_held_recurrent_mask

    def reset_dropout_mask(self) -> None:
        """Forgets the masks of the inputs."""
        self._cell_held_mask = None

    def reset_recurrent_dropout_mask(self) -> None:
        """Forgets the masks of the state."""
        self._cell_held_recurrent_mask = None

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's cell."""
        config: dict[str, Any] = keras.layers.Layer.get_config(self)
        return {**config, **written(self, argument_names(type(self)))}


def _rounded(initializer: Any) -> Callable[..., Tensor]:
    """An initializer of half-precision weights: the float32 values of another, rounded.

    Not every initializer can work in half precision (orthogonal's QR decomposition can't), and a
    seed should give the same weights in every precision.
    """
    return lambda shape, dtype: ops.cast(initializer(shape, dtype="float32"), dtype)


def _shape_with_batch(tensor: Tensor) -> tuple[Any, ...]:
    return (ops.shape(tensor)[0], *tensor.shape[1:])


def _held(drawn: tuple[Tensor, ...]) -> Any:
    return drawn[0] if len(drawn) == 1 else drawn or None


def _as_tuple(masks: Any) -> tuple[Tensor, ...]:
    """Held masks as `_draw` gave them."""
    if masks is None:
        return ()
    return masks if isinstance(masks, tuple) else (masks,)


def _drawn_by_the_engine(
    cell: GatedCell, rate: float, count: int, shape: tuple[Any, ...]
) -> tuple[Tensor, ...] | None:
    """The masks that Keras would draw, where the native engine is faster at it; else None."""
    if forced_engine() == PORTABLE or native.why_not() is not None:
        return None
    masks: tuple[Tensor, ...] | None = door.dropout_masks(
        cell.seed_generator, count, shape, rate, cell.compute_dtype
    )
    return masks


def _draw(
    cell: GatedCell, rate: float, count: int, shape: tuple[Any, ...], training: bool
) -> tuple[Tensor, ...]:
    if not rate:
        return ()
    if rate == 1.0:  # Keras's dropout divides by 1 - rate, and refuses it on some backends
        for _ in range(count):
            cell.seed_generator.next()
        return (ops.zeros(shape, dtype=cell.compute_dtype),) * count if training else ()
    drawn = _drawn_by_the_engine(cell, rate, count, shape) if training else None
    if drawn is not None:
        return drawn
    # Outside training too: on torch an unseeded generator draws from torch's global stream, so
    # that advancing its own state wouldn't do.
    ones = ops.ones(shape, dtype=cell.compute_dtype)
    masks = tuple(
        keras.random.dropout(ones, rate=rate, seed=cell.seed_generator) for _ in range(count)
    )
    return masks if training else ()
