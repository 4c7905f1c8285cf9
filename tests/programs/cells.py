"""Cells as people write them, in a few words each: what tracing is tried on."""

from collections import namedtuple

import keras
import numpy as np
from keras import layers, ops

from ostinato import Shape

UNITS, WIDTH = 5, 4
Pair = namedtuple("Pair", ["fast", "slow"])


class Cell(keras.layers.Layer):
    """A cell of UNITS units; `shapes` says which weights it has."""

    state_size = output_size = UNITS

    def shapes(self):
        return {}

    def build(self, input_shape):
        for name, shape in self.shapes().items():
            weight = self.add_weight(shape=shape, initializer="random_normal", name=name)
            setattr(self, name, weight)
        self.built = True


class Dense(Cell):
    """tanh(x W + h U + b)."""

    def shapes(self):
        return {"w": (WIDTH, UNITS), "u": (UNITS, UNITS), "b": (UNITS,)}

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.w) + ops.matmul(states[0], self.u) + self.b)
        return h, [h]


class Gated(Cell):
    """Gates by split, states in a namedtuple, a weight in a slice."""

    state_size = Pair(UNITS, UNITS)

    def shapes(self):
        return {"w": (WIDTH, 3 * UNITS), "u": (UNITS, 3 * UNITS), "peep": (2 * UNITS,)}

    def call(self, inputs, states):
        z = inputs @ self.w + states.fast @ self.u
        i, f, g = ops.split(z, 3, axis=-1)
        f = ops.sigmoid(f + self.peep[:UNITS] * states.slow)
        slow = f * states.slow + ops.sigmoid(i) * keras.activations.gelu(g)
        return ops.tanh(slow), Pair(ops.tanh(slow) * self.peep[UNITS:], slow)


class InADict(Cell):
    """States in a dict, one of them a matrix; einsum, a transposed product, a mean."""

    @property
    def state_size(self):
        return {"flat": UNITS, "grid": Shape(3, UNITS)}

    def shapes(self):
        return {"w": (3, WIDTH, UNITS), "left": (3, 3)}

    def call(self, inputs, states):
        grid = ops.tanh(ops.einsum("bi,nio->bno", inputs, self.w) + states["grid"])
        grid = ops.matmul(self.left, grid) + ops.expand_dims(states["flat"], 1)
        flat = ops.mean(grid, axis=1)
        return flat, {"flat": flat, "grid": grid - ops.max(grid, axis=-1, keepdims=True)}


class Rearranged(Cell):
    """The places of elements: reshape with the batch folded in, roll, pad, take, repeat, stack."""

    def shapes(self):
        return {"w": (2, 2)}

    def call(self, inputs, states):
        folded = ops.reshape(inputs, (-1, 2)) @ self.w
        x = ops.reshape(folded, (ops.shape(inputs)[0], 2, 2))
        x = ops.flip(ops.transpose(x, (0, 2, 1)), axis=1)
        x = ops.concatenate([x, ops.flip(x, axis=-1)], axis=1)
        x = ops.sum(ops.pad(x, ((0, 0), (1, 0), (0, 0)), constant_values=0.5), axis=-1)
        x = ops.take(x, np.array([4, 2, 0, 1, 3]), axis=1)
        h = ops.roll(states[0], 2, axis=1) + x
        pairs = ops.stack([h, x], axis=-1)
        wide = ops.repeat(ops.tile(pairs, (1, 1, 2)), 2, axis=1)
        h = 0.1 * wide[:, 1::2, 0] + ops.squeeze(wide[:, :UNITS, -1:], -1)
        return h, [h]


class Attending(Cell):
    """Batched products, softmax, attention over a constant."""

    def shapes(self):
        return {"query": (UNITS, UNITS), "key": (WIDTH, UNITS)}

    def call(self, inputs, states, constants):
        keys = ops.matmul(constants[0], self.key)
        scores = ops.matmul(keys, ops.expand_dims(states[0] @ self.query, -1))
        weights = ops.softmax(ops.squeeze(scores, -1))
        read = ops.einsum("bm,bmd->bd", weights, constants[0])
        h = ops.tanh(states[0] + ops.cumsum(read, axis=-1)[:, -1:] * inputs[:, :1])
        return h, [h]


class WithLayers(Cell):
    """Layers within: in an attribute, a list and a Sequential; normalized twice."""

    def __init__(self):
        super().__init__()
        self.norm = layers.LayerNormalization()
        self.dense = [layers.Dense(UNITS, activation="silu"), layers.Dense(UNITS)]
        self.rest = keras.Sequential([layers.RMSNormalization(), layers.LeakyReLU(0.1)])

    def build(self, input_shape):
        self.norm.build((None, UNITS))
        self.dense[0].build((None, WIDTH + UNITS))
        self.dense[1].build((None, UNITS))
        self.rest.build((None, UNITS))

    def call(self, inputs, states):
        z = self.dense[0](ops.concatenate([inputs, states[0]], axis=-1))
        h = self.rest(self.norm(self.dense[1](z)) + states[0])
        return h, [h]


class Chosen(Cell):
    """Comparisons, `==` among them, where, clip, argmax, a fixed array, a number to the power."""

    def call(self, inputs, states):
        h = states[0]
        place = np.linspace(0.0, 1.0, UNITS).astype("float32")
        first = ops.cast(ops.one_hot(ops.argmax(h, axis=-1), UNITS), h.dtype)
        kept = ops.where(ops.logical_and(h > 0, h < 0.5), h, place)
        kept = ops.where(ops.round(h) == 0, kept, ops.clip(h, -0.3, 0.6))
        h = kept**2 + 0.1 * first + ops.max(inputs, axis=-1, keepdims=True)
        return ops.logsumexp(h, axis=(-1,), keepdims=True) + h, [h / (1.0 + ops.abs(h))]


class Spiking(Cell):
    """A step whose gradient is made up, and one by a straight-through term."""

    def call(self, inputs, states):
        @ops.custom_gradient
        def fire(v, steepness):
            def grad(*args, upstream=None):
                upstream = args[-1] if upstream is None else upstream
                slope = steepness / (1.0 + ops.abs(steepness * v)) ** 2
                return upstream * slope, 0.1 * upstream

            return ops.cast(v > 0, v.dtype), grad

        v = 0.9 * states[0] + inputs[:, :1]
        spike = fire(v, ops.exp(v))
        soft = ops.sigmoid(v)
        through = soft + ops.stop_gradient(ops.cast(v > 0.1, v.dtype) - soft)
        return spike - 0.3 * through, [v * (1.0 - spike)]


class Convolving(Cell):
    """Convolutions with strides, dilation and padding, depthwise too, and pooling."""

    state_size = output_size = Shape(6, 5, 2)

    def shapes(self):
        return {"k": (3, 2, 2, 2), "wide": (2, 2, 2, 4), "deep": (3, 3, 2, 2), "one": (1, 1, 4, 2)}

    def call(self, inputs, states):
        x = ops.conv(inputs, self.k, padding="same")
        z = ops.conv(states[0], self.wide, dilation_rate=(2, 1), padding="same")
        d = ops.depthwise_conv(states[0], self.deep, padding="same")
        h = ops.tanh(x + ops.conv(z + d, self.one))
        small = ops.conv(h, self.wide, strides=2) + ops.average_pool(d, (2, 2), 2)
        peak = ops.max_pool(small, (3, 2), (3, 2))
        return h, [h * (1.0 + ops.sum(peak, axis=-1, keepdims=True))]


class NoLayer:
    """A plain object, whose state comes back bare."""

    state_size = output_size = WIDTH

    def call(self, inputs, states):
        largest = ops.maximum(inputs, states[0])
        return largest, largest


_ALL = (Dense, Gated, InADict, Rearranged, WithLayers, Chosen, Spiking, Convolving, NoLayer)
CELLS = {cls.__name__: cls for cls in _ALL}
SIZES = {"Convolving": (6, 5, 2)}  # of a timestep, where it isn't WIDTH
