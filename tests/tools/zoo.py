"""Models with Keras's recurrent layers, of every way in which people build them."""

import keras
import numpy as np
from keras import layers, ops

from support import CellOfUnits

B, T, D, U = 4, 5, 3, 4
RNG = np.random.default_rng(3)
X = RNG.normal(size=(B, T, D)).astype("float32")
TOKENS = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0]])


def double(x):
    """An activation that isn't registered."""
    return 2.0 * ops.tanh(x)


@keras.saving.register_keras_serializable(package="tests")
class Decay(CellOfUnits):
    """A cell of the user's, registered, since Keras's Bidirectional needs that."""

    def call(self, inputs, states):
        new = 0.5 * states[0] + inputs @ self.kernel
        return new, [new]


class Halved(keras.layers.LSTMCell):
    """A cell derived from Keras's."""

    def call(self, inputs, states, training=False):
        output, new = super().call(inputs, states, training)
        return 0.5 * output, new


class Block(keras.layers.Layer):
    """A layer of layers, made in its constructor, and no `get_config`."""

    def __init__(self, units, act=double, **kwargs):
        super().__init__(**kwargs)
        self.rnns = [layers.GRU(units, return_sequences=True), layers.LSTM(units)]
        self.heads = {"a": layers.Dense(units, activation=act), "b": layers.Dense(2)}
        self.scale = self.add_weight(shape=(units,), initializer="ones", name="scale")

    def call(self, x):
        for rnn in self.rnns:
            x = rnn(x)
        return self.heads["b"](self.heads["a"](x * self.scale))


class LateBlock(keras.layers.Layer):
    """A layer that makes its layers, and a weight, in `build`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.rnn = layers.LSTM(self.units, name="late")
        self.rnn.build(input_shape)
        self.offset = self.add_weight(shape=(self.units,), name="offset")

    def call(self, x):
        return self.rnn(x) + self.offset

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units)


class Subclassed(keras.Model):
    """A model by subclassing, with a layer that two names share."""

    def __init__(self, units=U, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = keras.Sequential([layers.LSTM(units, return_sequences=True)], name="inner")
        self.stack = [layers.Bidirectional(layers.GRU(units)), layers.Dropout(0.2, seed=2)]
        self.head = layers.Dense(1)
        self.again = self.head

    def call(self, x, training=False):
        x = self.inner(x)
        for layer in self.stack:
            x = layer(x)
        return self.again(x)


class OwnStep(keras.Model):
    """A functional model of the user's own class, with an attribute and a method."""

    def __init__(self, units):
        inputs = keras.Input((T, D))
        hidden = layers.LSTM(units, name="lstm")(inputs)
        super().__init__(inputs, layers.Dense(1, name="head")(hidden), name="own")
        self.units = units

    def describe(self):
        return f"{self.units} units"


def sequential():
    return keras.Sequential(
        [
            keras.Input((T, D)),
            layers.Bidirectional(layers.LSTM(U, return_sequences=True, dropout=0.2, seed=5)),
            layers.BatchNormalization(),
            layers.GRU(U, reset_after=False, return_sequences=True, recurrent_dropout=0.1, seed=1),
            layers.TimeDistributed(layers.Dense(U, activation=double)),
            layers.SimpleRNN(U, activation=double, kernel_regularizer="l2", seed=3),
            layers.Dropout(0.3, seed=4),
            layers.Dense(1),
        ],
        name="sequential_model",
    )


def cells():
    return keras.Sequential(
        [
            keras.Input((None, D)),
            layers.RNN(layers.LSTMCell(U), return_sequences=True),
            layers.RNN([layers.GRUCell(U), layers.SimpleRNNCell(3)], return_sequences=True),
            layers.RNN([layers.GRUCell(2), layers.LSTMCell(2)], return_sequences=True),
            layers.RNN(Decay(U), return_sequences=True, name="decay"),
            layers.RNN(Halved(U), return_sequences=True, name="halved"),
            layers.Bidirectional(layers.RNN(Decay(2)), merge_mode="sum"),
            layers.Dense(1),
        ]
    )


def shared():
    """Two inputs, one layer for both, a nested model, states handed on, operations of keras.ops."""
    a, b = keras.Input((T, D), name="a"), keras.Input((T, D), name="b")
    lstm = layers.LSTM(U, return_sequences=True, return_state=True, name="shared")
    inner_in = keras.Input((None, U), name="inner_in")
    inner = keras.Model(inner_in, layers.GRU(U, name="inner_gru")(inner_in), name="inner")
    seq_a, *states = lstm(a)
    seq_b, *_ = lstm(b, initial_state=states)
    merged = ops.flip(ops.tanh(seq_a + seq_b * 0.5)[:, 1:], axis=1)
    bi = layers.Bidirectional(layers.LSTM(U), backward_layer=layers.LSTM(U, go_backwards=True))
    first = layers.Dense(1, name="first")(inner(merged))
    second = layers.Dense(2, name="second")(bi(merged, initial_state=[*states, *states]))
    third = layers.Dense(1, name="third")(inner(seq_b))
    return keras.Model({"a": a, "b": b}, [first, second, third], name="shared_model")


def masked():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(6, D, mask_zero=True)(tokens)
    x = layers.Bidirectional(layers.GRU(U, return_sequences=True))(x)
    x = layers.LSTM(U, return_sequences=True, zero_output_for_mask=True)(x)
    return keras.Model(tokens, layers.Dense(1)(layers.LSTM(U, unroll=False)(x)))


def wrapped():
    inputs = keras.Input((2, T, D))
    x = layers.TimeDistributed(layers.LSTM(U, name="inside"), name="wrapped")(inputs)
    frozen = layers.GRU(U, trainable=False, return_sequences=True, name="frozen")
    x = LateBlock(U)(frozen(x))
    return keras.Model(inputs, layers.Dense(1)(x))


def blocks():
    inputs = keras.Input((T, D))
    return keras.Model(inputs, layers.Dense(1)(Block(U, name="block")(inputs)))


def subclassed():
    model = Subclassed(name="subclassed")
    model(X)
    return model


def frozen():
    model = sequential()
    model.layers[0].forward_layer.trainable = False
    model.layers[-1].trainable = False
    return model


def batches(model):
    """Inputs for a model of the zoo, and targets for its outputs."""
    wrapped_x = RNG.normal(size=(B, 2, T, D)).astype("float32")
    by_name = {"tokens": TOKENS, "a": X, "b": 0.5 * X[:, ::-1]}
    names = [i.name for i in getattr(model, "inputs", None) or []]
    if "a" in names:
        x = {"a": by_name["a"], "b": by_name["b"]}
    elif names and names[0] == "tokens":
        x = TOKENS
    else:
        x = wrapped_x if names and len(model.inputs[0].shape) == 4 else X
    outputs = keras.tree.flatten(model.predict(x, verbose=0))
    return x, [np.full(o.shape, 0.3, "float32") for o in outputs]


ZOO = [sequential, cells, shared, masked, wrapped, blocks, subclassed, frozen, lambda: OwnStep(U)]
ZOO[-1].__name__ = "own_step"


def own_layers():
    """A small one, without dropout."""
    inputs = keras.Input((T, D))
    x = layers.Bidirectional(layers.GRU(U, return_sequences=True))(inputs)
    return keras.Model(inputs, layers.Dense(1, name="head")(layers.LSTM(U)(x)))
