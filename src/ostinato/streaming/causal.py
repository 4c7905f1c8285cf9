"""Which layers can run timestep by timestep, and the errors for those that can't."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from ostinato.cells.builtin import is_a_users
from ostinato.cells.checks import name_of
from ostinato.cells.contract import state_sizes
from ostinato.layers import RNN, Bidirectional, TimeDistributed
from ostinato.models.directions import ACCELERATE
from ostinato.streaming import windows
from ostinato.structure import SharedShape

MERGES = (
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
    *(layers.Maximum, layers.Minimum, layers.Concatenate),
)
# In Keras they leave out what is masked in one input and not in another.
SEES_MASKS = (layers.Multiply, layers.Maximum, layers.Minimum)
# What does nothing at inference.
SILENT = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.AlphaDropout, layers.ActivityRegularization, layers.Identity),
)
# Acts on one timestep, whatever its options.
_POINTWISE = (
    *(layers.Dense, layers.EinsumDense, layers.Activation, layers.ReLU, layers.LeakyReLU),
    *(
        layers.ELU,
        layers.PReLU,
        layers.Embedding,
        layers.Masking,
        layers.Rescaling,
        layers.TimeDistributed,
        TimeDistributed,
    ),
    *(layers.InputLayer, layers.Softmax, layers.UnitNormalization, layers.Normalization),
    *(layers.LayerNormalization, layers.BatchNormalization, layers.RMSNormalization),
)
# Acts on one timestep if this is its axis.
_BY_AXIS = (
    *(layers.Softmax, layers.UnitNormalization, layers.Normalization, layers.Concatenate),
    *(layers.LayerNormalization, layers.BatchNormalization, layers.RMSNormalization),
)
_MAY = (
    "recurrent layers of ostinato, Dense, Embedding, Masking, BatchNormalization, "
    "LayerNormalization, Dropout, activations, Rescaling, merging layers, TimeDistributed, "
    "causal Conv1D and its kind, and global pooling"
)


def refuse(layer: Any, inputs: Sequence[Any]) -> None:
    """Refuses a layer that needs more than the timesteps so far.

    Args:
        layer: A layer or operation of a graph.
        inputs: Its inputs, as `graph.Ref`s.

    Raises:
        ValueError: if the layer can't be streamed; it names the layer and says why.
    """
    reason = _why_not(layer, inputs)
    if reason is not None:
        raise ValueError(f"stream: {_called(layer)} {reason}.")


def _why_not(layer: Any, inputs: Sequence[Any]) -> str | None:
    zeros = max((ref.zeros for ref in inputs), default=0)
    if zeros or type(layer) in windows.LOOKING_BACK:
        return windows.why_not(layer, zeros)
    if isinstance(layer, RNN):
        if layer.go_backwards:
            return "has go_backwards=True: it reads a sequence from its end, which isn't there yet"
        return _why_not_run_apart(layer)
    if isinstance(layer, Bidirectional):
        return "reads a sequence from its end, too, which isn't there yet"
    if ACCELERATE.kind(layer) in ("LSTM", "GRU", "SimpleRNN", "RNN"):
        return "is Keras's own recurrent layer: `ostinato.accelerate(model)` makes it one of ours"
    if type(layer) not in (*_POINTWISE, *MERGES, *SILENT):
        return f"isn't known to act on each timestep by itself; a stream may have {_MAY}"
    return _why_not_inputs(layer, inputs)


def _why_not_run_apart(layer: RNN) -> str | None:
    """Why a recurrent layer isn't its cell at each timestep, with states that each row has."""
    methods = {"call": layer.call, "__call__": type(layer).__call__}
    for name, method in methods.items():
        if is_a_users(method):
            return f"has its own {name!r}, which may do anything with a sequence"
    if any(isinstance(size, SharedShape) for size in tree.flatten(state_sizes(layer.cell))):
        return "has a state without rows, which streams that begin at any time can't share"
    return None


def _why_not_inputs(layer: Any, inputs: Sequence[Any]) -> str | None:
    """Why a layer that acts on each timestep by itself doesn't so on these inputs."""
    if isinstance(layer, layers.EinsumDense) and inputs[0].has_time and not _keeps_time(layer):
        return f"mixes timesteps or has weights for each, by its equation {layer.equation!r}"
    if not isinstance(layer, layers.Embedding) and any(not ref.shape for ref in inputs):
        return "reads an input without features, (batch, timesteps), which only an Embedding may"
    if len({ref.has_time for ref in inputs}) > 1:
        return "puts the last timestep's output beside every one's, and the last isn't there yet"
    if isinstance(layer, (layers.TimeDistributed, TimeDistributed)):
        return _why_not_inner(layer.layer, inputs)
    return _why_not_options(layer, 2 if inputs[0].has_time else 1, inputs[0].shape)


def _why_not_inner(layer: Any, inputs: Sequence[Any]) -> str | None:
    """Why a layer that TimeDistributed gives each timestep, (batch, *shape), can't be streamed."""
    if type(layer) in _BY_AXIS:
        return _why_not_options(layer, 1, inputs[0].shape)
    return None


def _why_not_options(layer: Any, leading: int, shape: tuple[int, ...]) -> str | None:
    """Why the options of a layer make it look beyond a timestep; `leading` axes come before it."""
    if type(layer) in _BY_AXIS:
        axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
        if any(axis % (leading + len(shape)) < leading for axis in axes):
            return f"acts along axis {layer.axis}, expected one of the features, such as the last"
    if isinstance(layer, layers.Rescaling):
        sizes = [np.shape(value) for value in (layer.scale, layer.offset)]
        if any(size not in ((), shape[-1:], (1,)) for size in sizes):
            return f"scales by arrays of shapes {sizes}, expected numbers or {shape[-1:]}"
    if isinstance(layer, layers.PReLU) and leading == 2 and layer.alpha.shape[0] != 1:
        return "has weights for each timestep; expected shared_axes=[1]"
    return None


def _keeps_time(layer: Any) -> bool:
    """Whether an EinsumDense leaves the axis of timesteps as it is, the same weights for each."""
    operands, result = layer.equation.replace(" ", "").split("->")
    given, kernel = operands.split(",")
    if given.startswith("..."):
        return len(given) == len("...x")  # the dots are all axes but the last, time among them
    time = given[1]
    return time == result[1:2] and time.isalpha() and time not in kernel + (layer.bias_axes or "")


def only_input(layer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The one argument of a call in a graph that is a tensor, or a nest of them; and its masks.

    Raises:
        ValueError: if there are others, tensors of the graph or constants: states, resets.
    """
    masks = {name: value for name, value in kwargs.items() if name.endswith("mask")}
    given = [(f"argument {i}", value) for i, value in enumerate(args)]
    given += [(name, value) for name, value in kwargs.items() if name not in masks]
    tensors = [(name, value) for name, value in given if any(map(_is_data, tree.flatten(value)))]
    if len(tensors) != 1:
        names = [name for name, _ in tensors[1:]]
        if "resets" in names:
            raise ValueError(
                f"stream: {_called(layer)} is called with `resets`, which a stream takes in each "
                "step: make one of a model of the same layers without, and call "
                "`stream.step(x, resets=...)`."
            )
        raise ValueError(
            f"stream: {_called(layer)} is called with more than its inputs ({', '.join(names)}): "
            "a stream begins with the layer's own initial state. Stream the layer alone, and set "
            "`stream.state`."
        )
    if kwargs.get("training"):
        raise ValueError(f"stream: {_called(layer)} is called with training=True.")
    if not all(isinstance(leaf, keras.KerasTensor) for leaf in tree.flatten(tensors[0][1])):
        raise ValueError(
            f"stream: {_called(layer)} reads a constant beside its inputs, and a stream reads what "
            "layers make."
        )
    return tensors[0][1], [mask for mask in tree.flatten(masks) if mask is not None]


def _is_data(leaf: Any) -> bool:
    """Whether a leaf of an argument is a tensor, of the graph or a constant; options are none."""
    return leaf is not None and not isinstance(leaf, (bool, str))


def _called(layer: Any) -> str:
    if isinstance(layer, layers.Layer):
        return name_of(layer)
    return f"operation {layer.name!r} ({type(layer).__name__})"
