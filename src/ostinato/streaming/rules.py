"""How each layer's timestep is made of the native engine's operations; or why it can't be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from ostinato import native
from ostinato.engines.activations import activation_name
from ostinato.layers import TimeDistributed
from ostinato.streaming import program as p
from ostinato.streaming.causal import SILENT
from ostinato.streaming.own_cells import StreamedCell, read_cells
from ostinato.streaming.program import Builder, Value
from ostinato.streaming.windows import window_of

Lower = Callable[[Builder, Any, list[Value]], Value]


@dataclass(frozen=True)
class Rule:
    """A layer's rule.

    Attributes:
        lower: Appends the layer's operations, and returns its output.
        why_not: Why this layer, in spite of its class, can't be lowered; None where it can.
    """

    lower: Lower
    why_not: Callable[[Any], str | None] = lambda layer: None


def _numpy(value: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(value), "float64")


def _kernel(value: Any) -> np.ndarray:
    """The same, but a kernel in int8 as it is."""
    array = np.asarray(ops.convert_to_numpy(value))
    return array if array.dtype == np.int8 else _numpy(value)


# --- recurrent layers -----------------------------------------------------------------------------


def recurrent(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    """A recurrent layer: its cells one over the other, all under the mask of the inputs."""
    (value,) = inputs
    mask, cells = value.mask, read_cells(layer, value.width, heeds_forced=False)
    assert not isinstance(cells, str), cells  # `why_not` has asked
    for index, each in enumerate(cells):
        value.mask = mask
        # What a lower cell puts out at a masked timestep reaches nobody.
        zero_output = layer.zero_output_for_mask or index < len(cells) - 1
        lower = _builtin if each.program is None else _own
        value = lower(builder, each, value, zero_output)
    value.mask = mask if layer.return_sequences else -1
    return value


def _initial(cell: StreamedCell) -> list[np.ndarray]:
    return [np.asarray(_numpy(state)[0]) for state in cell.initial]


def _builtin(builder: Builder, streamed: StreamedCell, value: Value, zero_output: bool) -> Value:
    cell = streamed.cell
    activation, *gate = [activation_name(each) for each in cell._cell_activations().values()]
    return builder.cell(
        native.kinds()[cell._cell_kind].number,
        value,
        _initial(streamed),
        weights=[_kernel(weight) for weight in cell._cell_weights()],
        activation=activation,
        recurrent_activation=gate[0] if gate else activation,  # SimpleRNN has no gates
        has_bias=int(cell.bias is not None),
        zero_output_for_mask=int(zero_output),
    )


def _own(builder: Builder, streamed: StreamedCell, value: Value, zero_output: bool) -> Value:
    assert streamed.program is not None
    routines, held = streamed.program.routines(value.mask >= 0, zero_output)
    weights = streamed.program.operands(streamed.cell, (), (), None)  # neither inputs nor states
    return builder.routine(
        routines.lowering.infer(),
        value,
        streamed.width,
        [_numpy(weight) for weight in weights],
        _initial(streamed),
        routines.outputs[:held],
    )


# --- layers of one timestep -----------------------------------------------------------------------


def _activate(builder: Builder, function: Any, value: Value) -> Value:
    if function is keras.activations.softmax:
        return builder.add(p.SOFTMAX, value, value.width)
    name = activation_name(function)
    if name == "linear":
        return value
    return builder.add(p.ACTIVATE, value, value.width, activation=name)


def _why_not_activation(function: Any) -> str | None:
    if function is keras.activations.softmax or activation_name(function) is not None:
        return None
    shown = getattr(function, "__name__", type(function).__name__)
    return f"its activation is a function that the kernel doesn't have: {shown}"


def _why_not_dense(layer: Any) -> str | None:
    if layer.quantization_mode is not None:
        return f"it's quantized ({layer.quantization_mode})"
    return _why_not_activation(layer.activation)


def _bias(layer: Any) -> np.ndarray | None:
    return _numpy(layer.bias) if layer.use_bias else None


def _product(
    builder: Builder, value: Value, kernel: np.ndarray, bias: np.ndarray | None, activation: Any
) -> Value:
    weights = [kernel] if bias is None else [kernel, bias]
    options = {"has_bias": len(weights) - 1, "activation": activation_name(activation) or "linear"}
    made = builder.add(p.DENSE, value, kernel.shape[1], weights, **options)
    return made if activation_name(activation) else _activate(builder, activation, made)


def _dense(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    return _product(builder, inputs[0], _numpy(layer.kernel), _bias(layer), layer.activation)


def _embedding(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    mask = builder.new_mask() if layer.mask_zero else -1
    table = [_numpy(layer.embeddings)]
    made = builder.add(p.EMBED, inputs[0], layer.output_dim, table, mask_out=mask)
    made.mask = mask
    return made


def _masking(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    number = [np.array([layer.mask_value])]
    mask = builder.new_mask()
    made = builder.add(p.MASK, inputs[0], inputs[0].width, number, mask_out=mask)
    made.mask = mask
    return made


def _normalize(
    builder: Builder, value: Value, kind: int, epsilon: float, factor: Any, offset: Any
) -> Value:
    rows = [np.array([epsilon])]
    for row, empty in ((factor, 1.0), (offset, 0.0)):
        rows.append(np.full(value.width, empty) if row is None else _numpy(row))
    return builder.add(p.NORMALIZE, value, value.width, rows, kind=kind)


def _layer_norm(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    return _normalize(builder, inputs[0], p.CENTRED, layer.epsilon, layer.gamma, layer.beta)


def _rms_norm(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    return _normalize(builder, inputs[0], p.AS_IT_IS, layer.epsilon, layer.scale, None)


def _batch_norm(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    factor = 1 / np.sqrt(_numpy(layer.moving_variance) + layer.epsilon)
    factor = factor * (_numpy(layer.gamma) if layer.scale else 1.0)
    offset = -_numpy(layer.moving_mean) * factor + (_numpy(layer.beta) if layer.center else 0.0)
    return builder.scale(inputs[0], factor, offset)


def _normalization(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    mean, variance = (_numpy(part).reshape(-1) for part in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    return builder.scale(inputs[0], 1 / deviation, -mean / deviation)


def _sloping(builder: Builder, value: Value, slope: Any) -> Value:
    """What is negative times a slope, of at most 1; a number, or one of each feature."""
    return _combined(builder, p.MAXIMUM, value, builder.scale(value, slope, 0.0))


def _leaky(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    return _sloping(builder, inputs[0], layer.negative_slope)


def _prelu(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    (value,), slope = inputs, _numpy(layer.alpha).reshape(-1)
    if slope.max() <= 1:
        return _sloping(builder, value, slope)
    relu = keras.activations.relu
    below = builder.scale(_activate(builder, relu, builder.scale(value, -1.0, 0.0)), -slope, 0.0)
    return _combined(builder, p.ADD, _activate(builder, relu, value), below)


# --- layers of several timesteps ----------------------------------------------------------------


def _blocks(kernel: np.ndarray, groups: int) -> np.ndarray:
    """A kernel (taps, D / groups, F) of groups as one of (taps, D, F): zeros between them."""
    taps, depth, width = kernel.shape
    made = np.zeros((taps, groups, depth, groups, width // groups))
    for group, part in enumerate(np.split(kernel, groups, axis=2)):
        made[:, group, :, group] = part
    return made.reshape(taps, groups * depth, width)


def _convolve(
    builder: Builder, layer: Any, value: Value, kernel: np.ndarray, bias: Any, activation: Any
) -> Value:
    """The window side by side, through one product."""
    window = window_of(layer)
    if window.taps > 1:
        value = builder.window(p.ALL, value, window.taps, window.dilation)
    return _product(builder, value, kernel.reshape(-1, kernel.shape[-1]), bias, activation)


def _convolution(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    kernel, bias = _blocks(_numpy(layer.kernel), layer.groups), _bias(layer)
    return _convolve(builder, layer, inputs[0], kernel, bias, layer.activation)


def _depthwise(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    (value,), kernel, bias = inputs, _numpy(layer.kernel), _bias(layer)
    if kernel.shape[-1] > 1:
        kernel = _blocks(kernel.reshape(len(kernel), 1, -1), value.width)
        return _convolve(builder, layer, value, kernel, bias, layer.activation)
    made = _weighted(builder, layer, value, kernel)
    made = made if bias is None else builder.scale(made, 1.0, bias)
    return _activate(builder, layer.activation, made)


def _weighted(builder: Builder, layer: Any, value: Value, kernel: np.ndarray) -> Value:
    window = window_of(layer)
    return builder.window(p.WEIGHTED, value, window.taps, window.dilation, [kernel[..., 0]])


def _separable(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    """Its two kernels as one product of the window, or after a sum of each feature alone."""
    depthwise, pointwise = _numpy(layer.depthwise_kernel), _numpy(layer.pointwise_kernel)[0]
    if depthwise.shape[-1] == 1:
        value = _weighted(builder, layer, inputs[0], depthwise)
        return _product(builder, value, pointwise, _bias(layer), layer.activation)
    kernel = _blocks(depthwise.reshape(len(depthwise), 1, -1), inputs[0].width) @ pointwise
    return _convolve(builder, layer, inputs[0], kernel, _bias(layer), layer.activation)


def _pool_of_window(kind: int) -> Lower:
    def lower(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
        window = window_of(layer)
        return builder.window(kind, inputs[0], window.taps, window.dilation)

    return lower


# --- layers of several values ---------------------------------------------------------------------


def _combined(builder: Builder, kind: int, first: Value, second: Value) -> Value:
    return builder.add(p.COMBINE, first, first.width, kind=kind, second=second.number)


def _joined_mask(builder: Builder, values: Sequence[Value]) -> int:
    """The mask of what joins values, by Keras's rule: none where one has none, else any's."""
    masks = [value.mask for value in values]
    if -1 in masks:
        return -1
    found = masks[0]
    for mask in masks[1:]:
        found = found if mask == found else builder.either(found, mask)
    return found


def _merging(kind: int, averages: bool = False) -> Lower:
    def lower(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
        made = inputs[0]
        for value in inputs[1:]:
            made = _combined(builder, kind, made, value)
        if averages:
            made = builder.scale(made, 1 / len(inputs), 0.0)
        made.mask = _joined_mask(builder, inputs)
        return made

    return lower


def _concatenate(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    made = inputs[0]
    for value in inputs[1:]:
        width = made.width + value.width
        made = builder.add(p.CONCATENATE, made, width, second=value.number)
    made.mask = _joined_mask(builder, inputs)
    return made


# --- the table ------------------------------------------------------------------------------------


def _same(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    return inputs[0]


def _inner(builder: Builder, layer: Any, inputs: list[Value]) -> Value:
    return RULES[type(layer.layer)].lower(builder, layer.layer, inputs)


def _why_not_inner(layer: Any) -> str | None:
    inner = layer.layer
    if type(inner) not in RULES or isinstance(inner, (layers.Embedding, layers.Masking)):
        return f"the kernel has no {type(inner).__name__}"
    return RULES[type(inner)].why_not(inner)


def _only(condition: Callable[[Any], bool], what: str) -> Callable[[Any], str | None]:
    return lambda layer: None if condition(layer) else f"the kernel has it with {what} only"


_PLAIN_RELU = _only(
    lambda x: x.max_value is None and not x.negative_slope and not x.threshold, "its defaults"
)

RULES: dict[type, Rule] = {
    **{cls: Rule(_same) for cls in SILENT},
    layers.Activation: Rule(
        lambda b, x, i: _activate(b, x.activation, i[0]),
        lambda x: _why_not_activation(x.activation),
    ),
    layers.ReLU: Rule(lambda b, x, i: _activate(b, keras.activations.relu, i[0]), _PLAIN_RELU),
    layers.LeakyReLU: Rule(_leaky, _only(lambda x: 0 < x.negative_slope <= 1, "a slope of 0 to 1")),
    layers.PReLU: Rule(_prelu),
    layers.ELU: Rule(
        lambda b, x, i: _activate(b, keras.activations.elu, i[0]),
        _only(lambda x: x.alpha == 1, "alpha 1"),
    ),
    layers.Softmax: Rule(lambda b, x, i: _activate(b, keras.activations.softmax, i[0])),
    layers.Dense: Rule(_dense, _why_not_dense),
    layers.Embedding: Rule(
        _embedding,
        lambda x: f"it's quantized ({x.quantization_mode})" if x.quantization_mode else None,
    ),
    layers.Masking: Rule(_masking),
    layers.LayerNormalization: Rule(
        _layer_norm, lambda x: "it has rms_scaling" if x.rms_scaling else None
    ),
    layers.RMSNormalization: Rule(_rms_norm),
    layers.BatchNormalization: Rule(_batch_norm),
    layers.Normalization: Rule(
        _normalization, lambda x: "it goes backwards (invert=True)" if x.invert else None
    ),
    layers.Rescaling: Rule(lambda b, x, i: b.scale(i[0], x.scale, x.offset)),
    layers.Add: Rule(_merging(p.ADD)),
    layers.Subtract: Rule(_merging(p.SUBTRACT)),
    layers.Multiply: Rule(_merging(p.MULTIPLY)),
    layers.Average: Rule(_merging(p.ADD, averages=True)),
    layers.Maximum: Rule(_merging(p.MAXIMUM)),
    layers.Minimum: Rule(_merging(p.MINIMUM)),
    layers.Concatenate: Rule(_concatenate),
    layers.ZeroPadding1D: Rule(_same),  # what comes next begins with zeros
    layers.Conv1D: Rule(_convolution, lambda x: _why_not_activation(x.activation)),
    layers.DepthwiseConv1D: Rule(_depthwise, lambda x: _why_not_activation(x.activation)),
    layers.SeparableConv1D: Rule(_separable, lambda x: _why_not_activation(x.activation)),
    layers.MaxPooling1D: Rule(_pool_of_window(p.LARGEST)),
    layers.AveragePooling1D: Rule(_pool_of_window(p.MEAN)),
    layers.GlobalMaxPooling1D: Rule(lambda b, x, i: b.pool(p.POOL_LARGEST, i[0])),
    layers.GlobalAveragePooling1D: Rule(lambda b, x, i: b.pool(p.POOL_MEAN, i[0])),
    **dict.fromkeys((layers.TimeDistributed, TimeDistributed), Rule(_inner, _why_not_inner)),
}
RECURRENT = Rule(recurrent)
