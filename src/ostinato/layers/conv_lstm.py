"""Convolutional LSTM (Shi et al., 2015): an LSTM whose states are pictures, in 1, 2 or 3 axes."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from ostinato.cells.checks import name_of, need_batch_size, read_states
from ostinato.doors import door
from ostinato.layers.arguments import (
    Activation,
    Constraint,
    Initializer,
    RefusedArgument,
    Regularizer,
    own_arguments,
)
from ostinato.layers.builtin import BuiltinRNN, OfCell
from ostinato.layers.gated_cell import NO_DROPOUT, GatedCell
from ostinato.layers.lstm import forgetting_by_one
from ostinato.structure import Shape
from ostinato.tensors import Dimensions, Tensor, agree, shape_of

_BY_AXIS = ("kernel_size", "strides", "dilation_rate")


class ConvLSTMCell(GatedCell):
    """One timestep of a convolutional LSTM; gates in Keras's order: i, f, candidate g, output o.

    z = conv(x, kernel) + conv(h, recurrent_kernel) + bias, split into i, f, g, o by channels;
    c' = f c + i act(g); h' = o act(c'). The convolution of the state has stride 1 and keeps its
    size. There are no peepholes, as in Keras.

    Weights: kernel (*K, D, 4F), recurrent_kernel (*K, F, 4F), bias (4F,), with the kernel's size
    *K. Two states, h and the carry c, each (B, *S, F), or (B, F, *S) with "channels_first"; *S is
    the size of the convolved inputs, which have to be of known sizes.

    Args:
        filters: Positive int, the number of channels of the output and of each state.
        kernel_size: Size of the convolutions' window, an int or one an axis.
        strides: Strides of the inputs' convolution, an int or one an axis.
        padding: "valid" or "same", of the inputs' convolution.
        data_format: "channels_last" or "channels_first"; by default that of Keras's configuration.
        dilation_rate: Dilation of the inputs' convolution, an int or one an axis.
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
        dropout: Fraction of the inputs dropped in training; one mask a gate.
        recurrent_dropout: Fraction of the state dropped in training; one mask a gate.
        seed: Int, seed of the dropout masks; None draws one.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...
    """

    _cell_gates, _cell_seeds_first = 4, True
    _cell_rank: ClassVar[int]

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
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
        **kwargs: Any,
    ) -> None:
        super().__init__(own_arguments(locals()), kwargs)
        for name in _BY_AXIS:
            setattr(self, name, self._cell_by_axis(name))
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise RefusedArgument(
                type(self).__name__,
                "Specifying `strides > 1` is not compatible with `dilation_rate > 1`: got "
                f"strides={self.strides} and dilation_rate={self.dilation_rate}.",
            )
        self.state_size: Any = -1  # what it is is known once the cell is built
        self.output_size: Any = None

    def _cell_by_axis(self, name: str) -> tuple[int, ...]:
        given, rank = getattr(self, name), self._cell_rank
        sizes = (given,) * rank if isinstance(given, int) else tuple(given)
        if len(sizes) != rank:
            raise RefusedArgument(
                type(self).__name__,
                f"`{name}`: expected an integer or a tuple of {rank} integers, got {given!r}.",
            )
        return sizes

    @property
    def _cell_channels(self) -> int:
        """The axis of the channels, of inputs, states and outputs (B, ...)."""
        return 1 if self.data_format == "channels_first" else self._cell_rank + 1

    def build(self, inputs_shape: Dimensions, states_shape: Any = None) -> None:
        """Creates the weights for inputs (B, *S, D), or (B, D, *S) with "channels_first"."""
        self._cell_check_inputs(inputs_shape)
        if None in inputs_shape[1:]:
            raise ValueError(
                f"{name_of(self)}: ConvLSTM layers only support static input shapes for the "
                "spatial dimensions and the channels, since those of its states follow from "
                f"them; got {tuple(inputs_shape)} at a timestep."
            )
        size: Any = self.compute_output_shape(inputs_shape)[0][1:]
        if min(size) < 1:  # which Keras 3.10 doesn't refuse
            raise ValueError(
                f"{name_of(self)}: expected inputs at least as large as the kernel "
                f"{self.kernel_size}, got {tuple(inputs_shape)} at a timestep."
            )
        columns, channels = self._cell_gates * self.filters, inputs_shape[self._cell_channels]
        self._cell_add_weights(
            (*self.kernel_size, channels, columns), (*self.kernel_size, self.filters, columns)
        )
        self._cell_built_shape: Dimensions = (None, *inputs_shape[1:])
        self.output_size = Shape(*size)
        self.state_size = [self.output_size, self.output_size]

    def _cell_bias_initializer(self) -> Any:
        initializer = self.bias_initializer
        if not self.unit_forget_bias:
            return initializer
        return forgetting_by_one(initializer, self.filters)

    def _cell_check_inputs(self, shape: Dimensions) -> None:
        built = getattr(self, "_cell_built_shape", (None,) * (self._cell_rank + 2))
        if not agree(tuple(shape), built):
            size = ", ".join(f"size {axis + 1}" for axis in range(self._cell_rank))
            first = self.data_format == "channels_first"
            wanted = f"channels, {size}" if first else f"{size}, channels"
            raise ValueError(
                f"{name_of(self)}: expected inputs of shape (batch, {wanted}) at a timestep"
                f"{'' if None in built[1:] else f', built for {built}'}; got {tuple(shape)}."
            )

    def compute_output_shape(
        self, inputs_shape: Dimensions, states_shape: Any = None
    ) -> tuple[Dimensions, list[Dimensions]]:
        """The shapes of the output, (B, *S, F) or (B, F, *S), and of the states: the same."""
        self._cell_check_inputs(inputs_shape)
        channels = inputs_shape[self._cell_channels]
        inputs = keras.KerasTensor(inputs_shape)
        kernel = keras.KerasTensor((*self.kernel_size, channels, self.filters))
        try:
            shape = shape_of(self._cell_of_inputs(inputs, kernel))
        except ValueError as error:
            raise ValueError(f"{name_of(self)}: {error}") from error
        return shape, [shape, shape]

    def get_initial_state(self, batch_size: Any = None) -> list[Tensor]:
        """Zeros (B, *S, F), or (B, F, *S), in the compute dtype for each state, once it's built."""
        need_batch_size(self, batch_size)
        if not self.built:
            raise ValueError(
                f"{name_of(self)}: expected to be built before it's asked for initial states, "
                "whose sizes follow from those of the inputs."
            )
        shape = (batch_size, *self.output_size)
        return [ops.zeros(shape, dtype=self.compute_dtype) for _ in range(2)]

    def call(
        self, inputs: Tensor, states: Any, training: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs one timestep.

        Args:
            inputs: Tensor (B, *S, D), or (B, D, *S).
            states: The states, each (B, *S, F), or (B, F, *S).
            training: Whether to apply dropout; the masks are drawn anew in every call.

        Returns:
            The output, like a state, and the list of new states.
        """
        self._cell_check_inputs(shape_of(inputs))
        h, c = self._cell_read_states(inputs, states)
        masks = (
            self._cell_masks_of_call(_sizes(inputs), _sizes(h), True) if training else NO_DROPOUT
        )
        z = self._cell_by_gates(self._cell_of_inputs, inputs, self.kernel, masks.inputs)
        z = z + self._cell_by_gates(self._cell_of_state, h, self.recurrent_kernel, masks.recurrent)
        if self.bias is not None:
            z = z + self._cell_spread_bias()
        i, f, g, o = ops.split(z, self._cell_gates, axis=self._cell_channels)
        gate = self.recurrent_activation
        c = gate(f) * c + gate(i) * self.activation(g)
        h = gate(o) * self.activation(c)
        return h, [h, c]

    def _cell_read_states(self, inputs: Tensor, states: Any) -> Any:
        size = self.output_size
        if isinstance(states, (list, tuple)) and len(states) == 2:
            wanted = (inputs.shape[0], *size)
            if all(agree(tuple(getattr(state, "shape", ())), wanted) for state in states):
                return states
        return read_states(name_of(self), "states", states, [size, size], inputs.shape[0])

    def _cell_by_gates(
        self, convolve: Any, x: Tensor, kernel: Tensor, masks: tuple[Tensor, ...]
    ) -> Tensor:
        """The convolution for all gates side by side, each of which masks x for itself."""
        if not masks:
            return convolve(x, kernel)
        kernels = ops.split(kernel, self._cell_gates, axis=-1)
        parts = [convolve(x * mask, part) for mask, part in zip(masks, kernels, strict=True)]
        return ops.concatenate(parts, axis=self._cell_channels)

    def _cell_of_inputs(self, x: Tensor, kernel: Tensor) -> Tensor:
        return _conv_for(x)(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def _cell_of_state(self, h: Tensor, kernel: Tensor) -> Tensor:
        return _conv_for(h)(h, kernel, strides=1, padding="same", data_format=self.data_format)

    def _cell_spread_bias(self) -> Tensor:
        if self.data_format == "channels_last":
            return self.bias
        return ops.reshape(self.bias, (-1, *[1] * self._cell_rank))


def _conv_for(x: Tensor) -> Any:
    """`ops.conv`, or for values what the backend does faster in a loop."""
    return ops.conv if isinstance(x, keras.KerasTensor) else door.lean(ops.conv)


def _sizes(tensor: Tensor) -> tuple[Any, ...]:
    return (ops.shape(tensor)[0], *tensor.shape[1:])


@keras.saving.register_keras_serializable(package="ostinato")
class ConvLSTM1DCell(ConvLSTMCell):
    """One timestep of ConvLSTM1D; arguments and weights as `ConvLSTMCell` says."""

    _cell_rank = 1


@keras.saving.register_keras_serializable(package="ostinato")
class ConvLSTM2DCell(ConvLSTMCell):
    """One timestep of ConvLSTM2D; arguments and weights as `ConvLSTMCell` says."""

    _cell_rank = 2


@keras.saving.register_keras_serializable(package="ostinato")
class ConvLSTM3DCell(ConvLSTMCell):
    """One timestep of ConvLSTM3D; arguments and weights as `ConvLSTMCell` says."""

    _cell_rank = 3


class ConvLSTM(BuiltinRNN):
    """Convolutional LSTM (Shi et al., 2015): an LSTM whose products are convolutions.

    Base of `ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`, which take inputs (B, T, *S, D), or
    (B, T, D, *S) with "channels_first", with one, two or three sizes *S, all of them known. Output
    (B, *S', F), or (B, T, *S', F) with `return_sequences`, where *S' are the sizes after the
    inputs' convolution; with `return_state` followed by the final state h and carry c, each
    (B, *S', F).

    Args:
        filters: Positive int, the number of channels F of the output and of each state.
        kernel_size: Size of the convolutions' window, an int or one an axis.
        strides: Strides of the inputs' convolution, an int or one an axis; with strides above 1
            there's no dilation.
        padding: "valid" or "same", of the inputs' convolution.
        data_format: "channels_last" or "channels_first"; by default that of Keras's configuration.
        dilation_rate: Dilation of the inputs' convolution, an int or one an axis.
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
        dropout: Fraction of the inputs dropped in training; one mask a gate and sequence.
        recurrent_dropout: Fraction of the state dropped in training; one mask a gate and sequence.
        seed: Int, seed of the dropout masks; None draws one.
        return_sequences: Whether to return the output of every timestep.
        return_state: Whether to return the final states after the output.
        go_backwards: Whether to run from the last timestep to the first.
        stateful: Whether a batch starts from the states the last one ended with.
        unroll: Whether to unroll the loop over time; it changes no result.
        zero_output_for_mask: Whether the output of a masked timestep is zero, not the previous
            output.
        truncate: Timesteps between which gradients stop: none of a state crosses a multiple of
            them, as if the sequence came in pieces to a stateful layer; results stay as they are.
            Then it keeps no more than the states between pieces, and computes the rest again.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...
    """

    _rnn_cell_name = "conv_lstm_cell"
    filters = OfCell()
    kernel_size = OfCell()
    strides = OfCell()
    padding = OfCell()
    data_format = OfCell()
    dilation_rate = OfCell()
    recurrent_activation = OfCell()
    unit_forget_bias = OfCell()

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
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
        *,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        truncate: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(own_arguments(locals()), kwargs)

    def compute_output_shape(
        self, sequences_shape: Dimensions, initial_state_shape: Any = None
    ) -> Any:
        """The shapes of the results, also before the layer is built."""
        batch_size, timesteps, *rest = sequences_shape
        state, _ = self.cell.compute_output_shape((batch_size, *rest))
        output = (batch_size, timesteps, *state[1:]) if self.return_sequences else state
        return (output, state, state) if self.return_state else output


@keras.saving.register_keras_serializable(package="ostinato")
class ConvLSTM1D(ConvLSTM):
    """Of inputs (B, T, S, D); arguments and results as `ConvLSTM` says."""

    _rnn_cell_class, _rnn_input_spec = ConvLSTM1DCell, keras.layers.InputSpec(ndim=4)


@keras.saving.register_keras_serializable(package="ostinato")
class ConvLSTM2D(ConvLSTM):
    """Of inputs (B, T, height, width, D); arguments and results as `ConvLSTM` says."""

    _rnn_cell_class, _rnn_input_spec = ConvLSTM2DCell, keras.layers.InputSpec(ndim=5)


@keras.saving.register_keras_serializable(package="ostinato")
class ConvLSTM3D(ConvLSTM):
    """Of inputs (B, T, depth, height, width, D); arguments and results as `ConvLSTM` says."""

    _rnn_cell_class, _rnn_input_spec = ConvLSTM3DCell, keras.layers.InputSpec(ndim=6)
