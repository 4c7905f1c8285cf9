"""Layers that look at the last few timesteps, or at all so far: what of them a stream can have.

A layer of the last few keeps those, and gives one timestep for each that comes, as in the model, if
its windows end with the timestep and begin before the first: `padding="causal"`, or
`ZeroPadding1D((n, 0))` in front of a layer with `padding="valid"`.
"""

from dataclasses import dataclass
from typing import Any

from keras import layers

CONVOLUTIONS = (layers.Conv1D, layers.DepthwiseConv1D, layers.SeparableConv1D)
POOLS = (layers.MaxPooling1D, layers.AveragePooling1D)
GLOBAL_POOLS = (layers.GlobalMaxPooling1D, layers.GlobalAveragePooling1D)
WINDOWS = (*CONVOLUTIONS, *POOLS)
LOOKING_BACK = (*WINDOWS, *GLOBAL_POOLS, layers.ZeroPadding1D)


@dataclass(frozen=True)
class Window:
    """The last `taps` timesteps, `dilation` apart."""

    taps: int
    dilation: int

    @property
    def span(self) -> int:
        """How many timesteps before this one it reaches back."""
        return (self.taps - 1) * self.dilation


def window_of(layer: Any) -> Window:
    """What a layer of WINDOWS sees at once."""
    if isinstance(layer, POOLS):
        return Window(_one(layer.pool_size), 1)
    return Window(_one(layer.kernel_size), _one(layer.dilation_rate))


def zeros_before(layer: Any) -> int:
    """How many timesteps of zeros a layer puts before the first."""
    return layer.padding[0] if isinstance(layer, layers.ZeroPadding1D) else 0


def why_not(layer: Any, zeros: int) -> str | None:
    """Why a layer can't be streamed, after so many timesteps of zeros; None where it can.

    Only a window that sees them may come after such zeros; all others would make something of them.
    """
    if type(layer) not in LOOKING_BACK:
        return f"reads {_zeros(zeros)}, which only windows of valid padding may" if zeros else None
    if layer.data_format != "channels_last":
        return "has data_format='channels_first', expected 'channels_last': timesteps come first"
    if isinstance(layer, GLOBAL_POOLS):
        if layer.keepdims:
            return "has keepdims=True: it gives a sequence of one timestep, and not the last one's"
        return f"reads {_zeros(zeros)}, which only windows of valid padding may" if zeros else None
    if isinstance(layer, layers.ZeroPadding1D):
        if layer.padding[1]:
            return f"adds {layer.padding[1]} timesteps after the last, which a stream doesn't know"
        return f"reads {_zeros(zeros)}: pad once" if zeros else None
    return _why_not_window(layer, zeros)


def _why_not_window(layer: Any, zeros: int) -> str | None:
    strides, span = _one(layer.strides), window_of(layer).span
    if strides != 1:
        return (
            f"gives one timestep for every {strides} (strides={strides}), and a stream gives one "
            "for each that comes: expected strides=1"
        )
    if layer.padding == "same" and span:
        return "looks ahead (padding='same'): expected padding='causal', or zeros before it"
    expected = span if layer.padding == "valid" else 0
    if zeros == expected:
        return None
    if not zeros:
        return (
            f"gives {span} timesteps less than it reads (padding='valid'), and a stream gives one "
            "for each that comes: expected padding='causal', or "
            f"ZeroPadding1D(({span}, 0)) before it"
        )
    return f"reads {_zeros(zeros)}: expected {expected}"


def _zeros(count: int) -> str:
    return f"a sequence with {count} timesteps of zeros before it (ZeroPadding1D)"


def _one(value: Any) -> int:
    return int(value[0]) if isinstance(value, (tuple, list)) else int(value)
