"""A cell of a user's, for the kernels' tests."""

import keras
from keras import ops


class MinimalCell(keras.layers.Layer):
    """One of a user's: a minimal gated unit with a leaky memory, two products in a row."""

    def __init__(self, units):
        super().__init__()
        self.units, self.state_size, self.output_size = units, [units, units], 2 * units

    def build(self, shape):
        u = self.units
        self.kernel = self.add_weight(shape=(shape[-1], 2 * u), name="kernel")
        self.recurrent = self.add_weight(shape=(u, u), name="recurrent")
        self.inner = self.add_weight(shape=(u, u), name="inner")
        self.peephole = self.add_weight(shape=(u,), initializer="ones", name="peephole")
        self.leak = self.add_weight(shape=(), initializer="ones", name="leak")

    def call(self, inputs, states):
        h, m = states
        f, n = ops.split(ops.matmul(inputs, self.kernel), 2, axis=-1)
        f = ops.sigmoid(f + ops.matmul(h, self.recurrent) + self.peephole * m)
        n = ops.gelu(n + ops.matmul(f * h, self.inner))
        m = 0.9 * m + 0.1 * self.leak * n
        return ops.concatenate([h, m], axis=-1), [(1 - f) * h + f * ops.tanh(m), m]
