"""Keras's convolutions and poolings in programs' operations; rules as in rules_elementwise.

A convolution is a product of every window by its kernel as a matrix.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras

from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.rules_elementwise import Rule
from ostinato.programs.tracing.rules_shapes import padded_by
from ostinato.programs.tracing.terms import Term
from ostinato.programs.tracing.translation import Translation

Sizes = tuple[int, ...]


def _each(setting: Any, count: int) -> Sizes:
    """A setting of every axis; one number stands for all."""
    return (int(setting),) * count if isinstance(setting, int) else tuple(map(int, setting))


def _need_channels_last(op: Any, x: Term) -> None:
    if (op.data_format or keras.config.image_data_format()) != "channels_last":
        raise Untraceable("only channels_last is among programs' operations")
    if x.fold != 1:
        raise Untraceable("it mixes the rows of the batch")


def _margins(
    sizes: Sizes, widths: Sizes, strides: Sizes, dilations: Sizes
) -> list[tuple[int, int]]:
    """How much padding="same" adds before and after each axis."""
    found = []
    for size, width, stride, dilation in zip(sizes, widths, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
        found.append((missing // 2, missing - missing // 2))
    return found


def windows(
    t: Translation, x: Term, widths: Sizes, strides: Sizes, dilations: Sizes, padding: str
) -> Term:
    """The windows of some axes of rows (B, *sizes, C): (B, *places, *widths, C)."""
    count = len(widths)
    if padding == "same":
        margins = _margins(x.shape[1 : 1 + count], widths, strides, dilations)
        x = padded_by(t, x, [*margins, (0, 0)])
    elif padding != "valid":
        raise Untraceable(f"padding={padding!r} isn't among programs' operations")
    value = t.add("windows", x.value, attributes=(widths, strides, dilations))
    return t.of(value, 1)


def _conv(t: Translation, op: Any, inputs: Any, kernel: Any) -> Term:
    x, kernel = t.term(inputs), t.term(kernel)
    _need_channels_last(op, x)
    *widths, channels, filters = kernel.shape
    if kernel.fold or channels != x.shape[-1]:
        raise Untraceable("a kernel of rows, or of groups of channels")
    count = len(widths)
    strides, dilations = _each(op.strides, count), _each(op.dilation_rate, count)
    if math.prod(widths) == 1 and math.prod(strides) == 1:
        patches = x
    else:
        found = windows(t, x, tuple(widths), strides, dilations, op.padding)
        places = found.shape[1 : 1 + count]
        patches = t.reshape(found, (t.batch, *places, math.prod(widths) * channels))
    matrix = t.reshape(kernel, (math.prod(widths) * channels, filters))
    return t.of(t.add("product", patches.value, matrix.value, attributes=(False,)), 1)


def _depthwise_conv(t: Translation, op: Any, inputs: Any, kernel: Any) -> Term:
    x, kernel = t.term(inputs), t.term(kernel)
    _need_channels_last(op, x)
    *widths, channels, each = kernel.shape
    if kernel.fold:
        raise Untraceable("a kernel of rows")
    count = len(widths)
    strides, dilations = _each(op.strides, count), _each(op.dilation_rate, count)
    found = windows(t, x, tuple(widths), strides, dilations, op.padding)
    places = found.shape[1 : 1 + count]
    found = t.reshape(found, (*found.shape, 1))
    made = t.apply("mul", found, kernel)
    made = t.reduce("sum", made, tuple(range(1 + count, 1 + 2 * count)))
    return t.reshape(made, (t.batch, *places, channels * each))


def _separable_conv(
    t: Translation, op: Any, inputs: Any, depthwise_kernel: Any, pointwise_kernel: Any
) -> Term:
    made = _depthwise_conv(t, op, inputs, depthwise_kernel)
    kernel = t.term(pointwise_kernel)
    matrix = t.reshape(kernel, kernel.shape[-2:])
    return t.of(t.add("product", made.value, matrix.value, attributes=(False,)), 1)


def _pool(t: Translation, op: Any, x: Term) -> tuple[Term, Sizes]:
    _need_channels_last(op, x)
    count = x.rank - 2
    widths = _each(op.pool_size, count)
    strides = widths if op.strides is None else _each(op.strides, count)
    ones = (1,) * count
    if op.padding == "same":
        margins = _margins(x.shape[1:-1], widths, strides, ones)
        if any(any(pair) for pair in margins):
            raise Untraceable("windows that reach over the edge aren't among programs' operations")
    return windows(t, x, widths, strides, ones, "valid"), widths


def _inner_axes(widths: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(1 + len(widths), 1 + 2 * len(widths)))


def _max_pool(t: Translation, op: Any, inputs: Term) -> Term:
    found, widths = _pool(t, op, inputs)
    return t.reduce("amax", found, _inner_axes(widths))


def _average_pool(t: Translation, op: Any, inputs: Term) -> Term:
    found, widths = _pool(t, op, inputs)
    total = t.reduce("sum", found, _inner_axes(widths))
    return t.apply("mul", total, t.literal(1.0 / math.prod(widths)))


CONVOLUTIONS: dict[str, Rule] = {
    "Conv": _conv,
    "DepthwiseConv": _depthwise_conv,
    "SeparableConv": _separable_conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
}
