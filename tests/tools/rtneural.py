"""RTNeural's JSON read back and run in NumPy, as its loader and its layers do.

Written from what RTNeural's `model_loader.h` reads, and its layers compute: kernels (in, out), of a
convolution (taps, in, out) with the newest timestep last; LSTM's columns are [i f c o], GRU's
[z r h] with a bias of two rows; a recurrent layer's activation is not read.
"""

import json

import numpy as np

FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softmax": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
}


class Model:
    """A model from a file; `forward` takes a timestep."""

    def __init__(self, path):
        read = json.loads(path.read_text())
        width = read["in_shape"][-1]
        self.layers = []
        for layer in read["layers"]:
            kind, size = layer["type"], layer["shape"][-1]
            weights = [np.array(each) for each in layer["weights"]]
            self.layers.append(getattr(self, "_" + kind)(layer, weights, width, size))
            if kind in ("dense", "conv1d", "activation") and layer["activation"]:
                self.layers.append(FUNCTIONS[layer["activation"]])
            width = size

    def forward(self, x):
        """The outputs of a timestep."""
        for layer in self.layers:
            x = layer(x)
        return x

    def _dense(self, layer, weights, width, size):
        kernel, bias = weights
        assert (kernel.shape, bias.shape) == ((width, size), (size,))
        return lambda x: x @ kernel + bias

    def _activation(self, layer, weights, width, size):
        assert not weights
        assert size == width
        return lambda x: x

    def _prelu(self, layer, weights, width, size):
        alpha = weights[0][0]
        assert alpha.shape in ((1,), (size,))
        return lambda x: np.where(x >= 0, x, x * alpha)

    def _batchnorm(self, layer, weights, width, size):
        gamma, beta, mean, variance = weights
        return lambda x: gamma / np.sqrt(variance + layer["epsilon"]) * (x - mean) + beta

    def _conv1d(self, layer, weights, width, size):
        kernel, bias = weights
        (taps,), (dilation,) = layer["kernel_size"], layer["dilation"]
        assert (kernel.shape, bias.shape) == ((taps, width, size), (size,))
        past = [np.zeros(width)] * ((taps - 1) * dilation + 1)

        def step(x):
            past.append(x)
            del past[0]
            return sum(past[k * dilation] @ kernel[k] for k in range(taps)) + bias

        return step

    def _lstm(self, layer, weights, width, size):
        kernel, recurrent, bias = weights
        assert (kernel.shape, bias.shape) == ((width, 4 * size), (4 * size,))
        h, c = np.zeros(size), np.zeros(size)

        def step(x):
            i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
            c[:] = FUNCTIONS["sigmoid"](f) * c + FUNCTIONS["sigmoid"](i) * np.tanh(g)
            h[:] = FUNCTIONS["sigmoid"](o) * np.tanh(c)
            return h.copy()

        return step

    def _gru(self, layer, weights, width, size):
        kernel, recurrent, bias = weights
        assert (kernel.shape, bias.shape) == ((width, 3 * size), (2, 3 * size))
        h = np.zeros(size)

        def step(x):
            of_x, of_h = x @ kernel + bias[0], h @ recurrent + bias[1]
            z, r = np.split(FUNCTIONS["sigmoid"](of_x + of_h)[: 2 * size], 2)
            h[:] = z * h + (1 - z) * np.tanh(of_x[2 * size :] + r * of_h[2 * size :])
            return h.copy()

        return step
