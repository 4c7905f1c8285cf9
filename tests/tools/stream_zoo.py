"""Models to stream, each of them small; ZOO has them by name."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers, ops

from ostinato import Shape
from ostinato.layers import GRU, LSTM, RNN, GRUCell, LSTMCell, SimpleRNN, SimpleRNNCell
from support import IS_OLDEST_KERAS, CellOfUnits, DictCell, NestedCell
from tools.streamed import VOCABULARY, N, floats

TENSORFLOW = keras.config.backend() == "tensorflow"  # has no grouped convolutions on a CPU


@dataclass(frozen=True)
class Case:
    """A model of the zoo.

    Attributes:
        make: Makes it.
        padding: What its padded timesteps hold; None where it has none.
        tolerance: Absolute, and of a value's size, to which a stream equals it.
        why_not_native: A part of that text; "" where the native engine runs it.
        joins_masks: Whether it concatenates masked inputs, which fails in Keras 3.10.
    """

    make: Callable[[], keras.Model]
    padding: float | None = None
    tolerance: float = 1e-6
    why_not_native: str = ""
    joins_masks: bool = False


def give_weights(model, seed=7):
    """Random weights, also where Keras begins with zeros or ones: biases, moving averages."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" not in variable.dtype or "seed" in variable.path:
            continue
        scale = 0.7 / np.sqrt(variable.shape[0]) if len(variable.shape) > 1 else 0.3
        value = rng.normal(size=tuple(variable.shape)) * scale
        value += 1.0 if variable.name == "gamma" else 0.0
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.name else value)
    return model


def stack(*parts, features=3, dtype="float32"):
    """A Sequential model of sequences of vectors."""
    return give_weights(keras.Sequential([keras.Input((None, features), dtype=dtype), *parts]))


def read(*parts):
    """A Sequential model of sequences of ids."""
    return give_weights(keras.Sequential([keras.Input((None,), dtype="int32"), *parts]))


def lstm(units=5, **options):
    """An LSTM that gives every timestep."""
    return LSTM(units, return_sequences=True, **options)


def gru(units=4, **options):
    """A GRU that gives every timestep."""
    return GRU(units, return_sequences=True, **options)


KINDS = {
    "SimpleRNN": lambda *args, **options: SimpleRNN(*args, return_sequences=True, **options),
    "LSTM": lstm,
    "GRU": lambda *args, **options: gru(*args, **options),
    "GRU reset before": lambda *args, **options: gru(*args, reset_after=False, **options),
}


def _cells():
    for name, layer in KINDS.items():
        gate = {} if name == "SimpleRNN" else {"recurrent_activation": "hard_sigmoid"}
        yield name, Case(lambda layer=layer: stack(layer(6)))
        yield f"{name}, no bias", Case(lambda layer=layer: stack(layer(6, use_bias=False)))
        yield (
            f"{name}, other activations",
            Case(lambda layer=layer, gate=gate: stack(layer(6, activation="softsign", **gate))),
        )
        yield f"{name}, the last", Case(lambda layer=layer: stack(layer(3), layer(5), ahead(layer)))
        yield f"{name}, masked", Case(lambda layer=layer: stack(layers.Masking(), layer(6)), 0.0)
    for units, features in [(1, 1), (5, 17), (16, 16), (17, 1), (33, 64), (64, 33), (100, 5)]:
        for name, layer in KINDS.items():
            if units not in (5, 33) or name in ("LSTM", "GRU reset before"):
                yield (
                    f"{name} of {features} to {units}",
                    Case(lambda layer=layer, u=units, d=features: stack(layer(u), features=d)),
                )


def ahead(layer):
    """A layer of that kind which gives the last timestep alone."""
    made = layer(4)
    made.return_sequences = False
    return made


# --- one model each -------------------------------------------------------------------------------


def merged():
    """All merging layers, of two branches."""
    x = keras.Input((None, 3))
    a, b = lstm(4)(x), gru(4)(x)
    sums = [layers.Add()([a, b, a]), layers.Subtract()([a, b]), layers.Multiply()([a, b])]
    rest = [layers.Average()([a, b, b]), layers.Maximum()([a, b]), layers.Minimum()([a, b])]
    return give_weights(keras.Model(x, layers.Concatenate()([*sums, *rest])))


def concatenated(padded=False):
    """Branches of odd widths side by side, under a mask or without."""
    x = keras.Input((None, 3))
    y = layers.Masking()(x) if padded else x
    parts = [lstm(1)(y), gru(17)(y), lstm(5)(y), layers.Dense(3)(y)]
    return give_weights(keras.Model(x, gru(7)(layers.Concatenate()(parts))))


def two_masks(merge):
    """Two inputs, each with a mask of its own, merged under a mask of both."""
    a, b = keras.Input((None, 3), name="a"), keras.Input((None,), dtype="int32", name="b")
    x = layers.Masking()(a)
    y = layers.Embedding(VOCABULARY, 3, mask_zero=True)(b)
    return give_weights(keras.Model([a, b], lstm(4)(merge([x, y]))))


def one_mask(merge):
    """Two branches, of which one has a mask."""
    a = keras.Input((None, 3))
    return give_weights(keras.Model(a, lstm(4)(merge([layers.Masking()(a), layers.Dense(3)(a)]))))


def masked_gate():
    """Outputs of layers under a mask, merged."""
    x = keras.Input((None, 3))
    y = layers.Masking()(x)
    return give_weights(keras.Model(x, lstm(3)(layers.Minimum()([lstm(4)(y), gru(4)(y)]))))


def nested():
    """A model in a model, called twice."""
    inner = keras.Sequential([keras.Input((None, 4)), lstm(4), layers.LayerNormalization()])
    z = keras.Input((None, 4))
    graph = keras.Model(z, layers.Add()([gru(4)(z), z]))
    x = keras.Input((None, 3))
    return give_weights(keras.Model(x, graph(inner(graph(inner(layers.Dense(4)(x)))))))


def shared():
    """One recurrent layer called twice: two states."""
    rnn, a, b = lstm(4), keras.Input((None, 3)), keras.Input((None, 3))
    return give_weights(keras.Model([a, b], layers.Subtract()([rnn(a), rnn(b)])))


def voice_detector():
    """Convolutions, recurrent layers, and pools of all so far beside the last."""
    x = keras.Input((None, 3))
    y = layers.Conv1D(17, 3, padding="causal", activation="relu")(x)
    y = layers.Conv1D(6, 4, padding="causal", dilation_rate=3, groups=1 if TENSORFLOW else 2)(
        layers.Dense(6)(y)
    )
    y = lstm(4)(y)
    pools = [layers.GlobalAveragePooling1D()(y), layers.GlobalMaxPooling1D()(y)]
    return give_weights(keras.Model(x, [layers.Dense(2)(y), layers.Concatenate()(pools)]))


def windows():
    """Windows of valid padding behind zeros, each kind of them."""
    x = keras.Input((None, 3))
    y = layers.ZeroPadding1D((4, 0))(x)
    y = layers.Conv1D(5, 3, dilation_rate=2, activation="softmax")(y)
    y = layers.MaxPooling1D(3, strides=1)(layers.ZeroPadding1D((2, 0))(y))
    y = layers.AveragePooling1D(2, strides=1)(layers.ZeroPadding1D((1, 0))(y))
    y = layers.DepthwiseConv1D(4, activation="tanh")(layers.ZeroPadding1D((3, 0))(y))
    y = layers.DepthwiseConv1D(2, depth_multiplier=2)(layers.ZeroPadding1D((1, 0))(y))
    y = layers.SeparableConv1D(17, 3)(layers.ZeroPadding1D((2, 0))(y))
    y = layers.SeparableConv1D(4, 3, depth_multiplier=2)(layers.ZeroPadding1D((2, 0))(y))
    return give_weights(keras.Model(x, layers.Conv1D(3, 1)(y)))


def several():
    """Inputs in a dict, outputs in another, one of them the last timestep's."""
    inputs = {
        "pressure": keras.Input((None, 2), name="pressure"),
        "at": keras.Input((None, 3), name="at"),
        "key": keras.Input((None,), dtype="int32", name="key"),
    }
    key = layers.Embedding(VOCABULARY, 5)(inputs["key"])
    x = layers.Concatenate()([inputs["pressure"], key, inputs["at"]])
    y = lstm(6)(x)
    return give_weights(
        keras.Model(inputs, {"z": layers.Dense(2)(y), "last": GRU(3)(y), "a": [y, x]})
    )


def returning_state():
    """A layer whose states are returned, and not used."""
    x = keras.Input((None, 3))
    y, *_ = lstm(5, return_state=True)(x)
    return give_weights(keras.Model(x, layers.Dense(2)(y)))


def of_nested_cell():
    """The guide's cell over nests."""
    a, b = keras.Input((None, 2)), keras.Input((None, 3, 2))
    return give_weights(
        keras.Model([a, b], RNN(NestedCell(2, 3, 4), return_sequences=True)([a, b]))
    )


def of_dict_cell(**options):
    """Dicts of inputs, states and outputs."""
    inputs = {"location": keras.Input((None, 2)), "pressure": keras.Input((None, 3, 1))}
    return keras.Model(inputs, RNN(DictCell(), return_sequences=True, **options)(inputs))


def masked_nested_cell():
    """A cell of one's own under a mask that holds outputs."""
    return stack(layers.Masking(), RNN([LSTMCell(3), Own(4)], return_sequences=True))


def adapted():
    """Normalization that has seen data."""
    layer = layers.Normalization()
    layer.adapt(3.0 + 2.0 * floats(20, 5, 3))
    return stack(layer, lstm())


def trained():
    """Batch normalization after some steps of training."""
    model = stack(layers.BatchNormalization(), gru(), layers.BatchNormalization(scale=False))
    model.compile("sgd", "mse")
    model.fit(2.0 + floats(8, 3, 3), floats(8, 3, 4), verbose=0)
    return model


def stateful():
    """A stateful layer, its states at zero."""
    x = keras.Input(batch_shape=(N, None, 3))
    return give_weights(keras.Model(x, lstm(4, stateful=True)(x)))


def stack_of_images():
    """A small recurrent layer along the rows of each picture of a film."""
    x = keras.Input((None, 4, 3))
    y = layers.TimeDistributed(LSTM(4))(x)
    return give_weights(keras.Model(x, gru(3)(layers.LayerNormalization()(y))))


def unread(*shape, dtype="float32"):
    """A model with a second input, which nothing reads."""
    if IS_OLDEST_KERAS:
        pytest.skip("Keras 3.10 makes no such model")
    x, other = keras.Input((None, 3)), keras.Input((None, *shape), dtype=dtype, name="unread")
    return give_weights(keras.Model([x, other], lstm(4)(x)))


@keras.saving.register_keras_serializable(package="tests")
class Own(CellOfUnits):
    """A cell of one's own: a leaky sum."""

    def call(self, inputs, states):
        new = 0.5 * states[0] + inputs @ self.kernel
        return new, [new]


@keras.saving.register_keras_serializable(package="tests")
class OfAllRows(Own):
    """A cell that no program can be made of: it adds up rows, even if it makes nothing of it."""

    def call(self, inputs, states):
        return super().call(inputs + 0 * ops.sum(inputs, axis=0), states)


@keras.saving.register_keras_serializable(package="tests")
class FromOnes(OfAllRows):
    """The same, from states that aren't zeros."""

    def get_initial_state(self, batch_size=None):
        return [ops.ones((batch_size, self.units))]


def of_all_rows(x):
    """An activation that no program can be made of."""
    return x / (1 + ops.abs(x)) + 0 * ops.sum(x, axis=0)


@keras.saving.register_keras_serializable(package="tests")
class Peephole(CellOfUnits):
    """An LSTM whose gates see the memory, and a memory of rank 2 beside it: several states."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.state_size = [units, Shape(2, units)]

    def build(self, input_shape):
        super().build((input_shape[-1] + self.units,))
        self.gates = self.add_weight(shape=(2 * self.units, 3 * self.units), name="gates")
        self.peep_i = self.add_weight(shape=(self.units,), name="peep_i")
        self.peep_f = self.add_weight(shape=(self.units,), name="peep_f")
        self.peep_o = self.add_weight(shape=(self.units,), name="peep_o")
        self.share = self.add_weight(shape=(), name="share")

    def call(self, inputs, states):
        h, memory = states
        x = ops.concatenate([inputs, h], axis=-1) @ self.kernel
        i, f, o = ops.split(ops.concatenate([x, h], axis=-1) @ self.gates, 3, axis=-1)
        c, average = memory[:, 0], memory[:, 1]
        new = ops.sigmoid(f + self.peep_f * c) * c
        new = new + ops.sigmoid(i + self.peep_i * c) * ops.tanh(x)
        average = 0.5 * average + self.share * new
        h = ops.sigmoid(o + self.peep_o * new) * ops.tanh(average)
        return h, [h, ops.stack([new, average], axis=1)]


def pointwise():
    """Every layer of one timestep that takes a vector."""
    yield from (
        *(layers.Dense(3), layers.Dense(3, activation="relu", use_bias=False), layers.ReLU()),
        *(layers.Dense(3, activation="softmax"), layers.LeakyReLU(0.2), layers.ELU()),
        *(layers.Activation("gelu"), layers.Activation("softmax"), layers.Rescaling(2.0, -0.5)),
        *(layers.Rescaling([1.0, 2.0, -1.0], [0.0, 1.0, 3.0]), layers.LayerNormalization()),
        *(layers.LayerNormalization(center=False, scale=False), layers.BatchNormalization()),
        *(layers.BatchNormalization(center=False), layers.Dropout(0.4), layers.Identity()),
        *(layers.GaussianDropout(0.4), layers.GaussianNoise(0.4), layers.AlphaDropout(0.4)),
        *(layers.SpatialDropout1D(0.3), layers.ActivityRegularization(0.1)),
        *(layers.RMSNormalization(), layers.TimeDistributed(layers.Dense(3, "tanh"))),
    )


def _between():
    """Every layer of one timestep between a mask and the layer that obeys it."""
    for index, layer in enumerate(pointwise()):
        name = f"{type(layer).__name__} under a mask, {index}"

        def make(index=index):
            return stack(layers.Masking(), [*pointwise()][index], lstm(3))

        yield name, Case(make, 0.0)


ZOO = {
    **dict(_cells()),
    **dict(_between()),
    "Softmax": Case(lambda: stack(lstm(17), layers.Softmax())),
    "trained BatchNormalization": Case(trained),
    "adapted Normalization": Case(adapted),
    "deep": Case(lambda: stack(lstm(7), gru(5), layers.Dense(3), KINDS["SimpleRNN"](4))),
    "RNN of cells": Case(
        lambda: stack(RNN([LSTMCell(4), GRUCell(3), SimpleRNNCell(5)], return_sequences=True))
    ),
    "RNN of cells under a mask": Case(
        lambda: stack(layers.Masking(), RNN([LSTMCell(4), GRUCell(3)], return_sequences=True)), 0.0
    ),
    "RNN of a cell": Case(lambda: stack(RNN(GRUCell(4, reset_after=False)), layers.Dense(2))),
    "zero_output_for_mask": Case(
        lambda: stack(layers.Masking(), lstm(4, zero_output_for_mask=True), gru(3)), 0.0
    ),
    "another mask value": Case(lambda: stack(layers.Masking(0.3), lstm(4)), 0.3),
    "a mask on a mask": Case(lambda: stack(layers.Masking(), layers.Masking(0.3), lstm(4)), 0.0),
    "the last of a masked sequence": Case(
        lambda: stack(layers.Masking(), LSTM(4), layers.Dense(2)), 0.0
    ),
    "Embedding": Case(lambda: read(layers.Embedding(VOCABULARY, 6), lstm())),
    "Embedding with a mask": Case(
        lambda: read(layers.Embedding(VOCABULARY, 17, mask_zero=True), gru(), lstm(), gru(3)), 0
    ),
    "all merges": Case(merged),
    "odd widths": Case(concatenated),
    "odd widths under a mask": Case(lambda: concatenated(padded=True), 0.0, joins_masks=True),
    **{
        f"{type(merge).__name__} of two masks": Case(
            lambda m=merge: two_masks(m), 0, joins_masks=isinstance(merge, layers.Concatenate)
        )
        for merge in (layers.Add(), layers.Concatenate())
    },
    **{
        f"{type(merge).__name__} of one mask": Case(
            lambda m=merge: one_mask(m), 0, joins_masks=isinstance(merge, layers.Concatenate)
        )
        for merge in (layers.Average(), layers.Concatenate())
    },
    # Keras leaves out what is masked in one of them and not in the other.
    "Maximum of one mask": Case(lambda: one_mask(layers.Maximum()), 0, why_not_native="masked"),
    "Multiply of two masks": Case(lambda: two_masks(layers.Multiply()), 0, why_not_native="masked"),
    "Minimum behind cells under a mask": Case(masked_gate, 0, why_not_native="masked"),
    "models in models": Case(nested, tolerance=4e-6),  # four layer norms, one after another
    "a shared layer": Case(shared),
    "dicts": Case(several),
    "a voice detector": Case(voice_detector),
    "windows behind zeros": Case(windows),
    "a mean under a mask": Case(
        lambda: stack(layers.Masking(), lstm(4), layers.GlobalAveragePooling1D()), 0.0
    ),
    "windows in float64": Case(
        lambda: stack(layers.Conv1D(5, 3, padding="causal", dtype="float64"), dtype="float64"),
        tolerance=1e-12,
    ),
    "a mask that nothing obeys": Case(
        lambda: read(layers.Embedding(VOCABULARY, 5, mask_zero=True), layers.Dense(3)), 0
    ),
    "an input that nothing reads": Case(lambda: unread(7)),
    "ids that nothing reads": Case(
        lambda: unread(dtype="int32"), why_not_native="input unread: the kernel takes timesteps of"
    ),
    "images that nothing reads": Case(
        lambda: unread(4, 5), why_not_native="input unread: the kernel takes timesteps of"
    ),
    "return_state": Case(returning_state),
    "stateful": Case(stateful),
    # Keras computes other layers partly in float32; see test_other_layers_in_float64.
    "float64": Case(
        lambda: stack(lstm(5, dtype="float64"), gru(4, dtype="float64"), dtype="float64"),
        tolerance=1e-12,
    ),
    # The model itself rounds to 8 bits a value, or to 11; the stream doesn't.
    "mixed_bfloat16": Case(lambda: stack(lstm(5, dtype="mixed_bfloat16")), tolerance=2e-2),
    "mixed_float16": Case(lambda: stack(gru(5, dtype="mixed_float16")), tolerance=2e-3),
    "an activation of one's own": Case(
        lambda: stack(lstm(4, activation=lambda x: ops.tanh(2 * x)), layers.BatchNormalization())
    ),
    "a cell of one's own": Case(
        lambda: stack(RNN(Own(4), return_sequences=True), layers.Dropout(0.4))
    ),
    "a cell of one's own under a mask": Case(masked_nested_cell, 0.0),
    "cells of one's own with several states": Case(
        lambda: stack(RNN([Peephole(5), GRUCell(17), Peephole(19)]), layers.Dense(2))
    ),
    "cells of one's own under a mask": Case(
        lambda: stack(
            *(layers.Masking(), RNN([Peephole(5), Own(3)], return_sequences=True), lstm(4)),
            RNN(Peephole(17), return_sequences=True, zero_output_for_mask=True),
        ),
        0.0,
    ),
    "a cell of one's own in float64": Case(
        lambda: stack(RNN(Peephole(5, dtype="float64"), dtype="float64"), dtype="float64"),
        tolerance=1e-12,
    ),
    # Keras runs these.
    "an activation of all rows": Case(
        lambda: stack(lstm(4, activation=of_all_rows), layers.BatchNormalization()),
        why_not_native="batch",
    ),
    "a cell of all rows": Case(
        lambda: stack(RNN(OfAllRows(4), return_sequences=True), layers.Dropout(0.4)),
        why_not_native="OfAllRows",
    ),
    "a cell of all rows under a mask": Case(
        lambda: stack(layers.Masking(), RNN([LSTMCell(3), OfAllRows(4)], return_sequences=True)),
        0.0,
        why_not_native="OfAllRows",
    ),
    "a cell of all rows, zeros where masked": Case(
        lambda: stack(
            layers.Masking(), RNN(OfAllRows(4), return_sequences=True, zero_output_for_mask=True)
        ),
        0.0,
        why_not_native="OfAllRows",
    ),
    "a mean under a mask, in Keras": Case(
        lambda: stack(
            layers.Masking(),
            RNN(OfAllRows(4), return_sequences=True),
            layers.GlobalAveragePooling1D(),
        ),
        0.0,
        why_not_native="OfAllRows",
    ),
    "a cell of all rows that begins with ones": Case(
        lambda: stack(RNN(FromOnes(4), return_sequences=True)), why_not_native="FromOnes"
    ),
    "RMSNormalization under a mask, in Keras": Case(
        lambda: stack(layers.Masking(), layers.RMSNormalization(), RNN(OfAllRows(4))),
        0.0,
        why_not_native="OfAllRows",
    ),
    "a cell over nests": Case(of_nested_cell, why_not_native="one axis of features"),
    "a cell over dicts": Case(of_dict_cell, why_not_native="one axis of features"),
    "no recurrent layer": Case(
        lambda: stack(layers.UnitNormalization()), why_not_native="UnitNormalization"
    ),
    "EinsumDense": Case(
        lambda: stack(layers.EinsumDense("btd,de->bte", (None, 4), bias_axes="e"), lstm(3)),
        why_not_native="EinsumDense",
    ),
    "windows in Keras": Case(
        lambda: stack(
            *(layers.Conv1D(4, 3, padding="causal"), layers.UnitNormalization()),
            *(layers.ZeroPadding1D((2, 0)), layers.MaxPooling1D(3, strides=1)),
            layers.GlobalAveragePooling1D(),
        ),
        why_not_native="UnitNormalization",
    ),
    "images": Case(
        stack_of_images,
        why_not_native="one axis of features",
    ),
}
