"""Cells without gates: plain ones, solvers of equations, spikes, physics; each from its paper."""

from typing import Any

import numpy as np
from keras import initializers, layers, ops

from benchmarks.own_cells.cell import OwnCell
from ostinato import Shape


class Elman(OwnCell):
    """h' = tanh(x W + h U + b)."""

    def make(self, width: int) -> None:
        self.gates(width, 1)

    def call(self, inputs: Any, states: Any) -> Any:
        z = ops.matmul(inputs, self.kernel) + ops.matmul(states[0], self.recurrent)
        h = ops.tanh(z + self.bias)
        return h, [h]


class IndRNN(OwnCell):
    """h' = relu(x W + u * h + b): no unit sees another (Li et al., 2018)."""

    def make(self, width: int) -> None:
        self.new("kernel", width, self.units)
        self.new("recurrent", self.units, init=initializers.RandomUniform(-0.9, 0.9))
        self.new("bias", self.units, init="zeros")

    def call(self, inputs: Any, states: Any) -> Any:
        h = ops.relu(ops.matmul(inputs, self.kernel) + self.recurrent * states[0] + self.bias)
        return h, [h]


class Antisymmetric(OwnCell):
    """h' = h + e tanh(x V + h (W - W' - g I) + b) (Chang et al., 2019)."""

    epsilon, gamma = 0.1, 0.05

    def make(self, width: int) -> None:
        self.gates(width, 1)

    def call(self, inputs: Any, states: Any) -> Any:
        h = states[0]
        matrix = self.recurrent - ops.transpose(self.recurrent) - self.gamma * ops.eye(self.units)
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, matrix) + self.bias
        h = h + self.epsilon * ops.tanh(z)
        return h, [h]


class LTC(OwnCell):
    """Liquid time constants: synapses (B, from, to), six solver steps (Hasani et al., 2021)."""

    unfolds = 6

    def make(self, width: int) -> None:
        ranges = {"w": (0.01, 1.0), "mu": (0.3, 0.8), "sigma": (3, 8), "erev": (-1, 1)}
        for place, source in (("in", width), ("re", self.units)):
            for name, (low, high) in ranges.items():
                init = initializers.RandomUniform(low, high)
                self.new(f"{place}_{name}", source, self.units, init=init)
        for name, low, high in (("leak", 0.1, 1.0), ("rest", -0.2, 0.2), ("capacity", 0.4, 0.6)):
            self.new(name, self.units, init=initializers.RandomUniform(low, high))

    @staticmethod
    def _synapses(v: Any, w: Any, mu: Any, sigma: Any, erev: Any) -> tuple[Any, Any]:
        active = w * ops.sigmoid(sigma * (ops.expand_dims(v, -1) - mu))
        return ops.sum(active * erev, axis=1), ops.sum(active, axis=1)

    def call(self, inputs: Any, states: Any) -> Any:
        v = states[0]
        from_x = self._synapses(inputs, self.in_w, self.in_mu, self.in_sigma, self.in_erev)
        capacity = self.capacity * self.unfolds
        for _ in range(self.unfolds):
            from_v = self._synapses(v, self.re_w, self.re_mu, self.re_sigma, self.re_erev)
            top = capacity * v + self.leak * self.rest + from_v[0] + from_x[0]
            v = top / (capacity + self.leak + from_v[1] + from_x[1] + 1e-8)
        return v, [v]


class LMU(OwnCell):
    """Legendre memory (channels, order), a fixed linear system (Voelker et al., 2019)."""

    channels, order, theta = 4, 16, 32.0

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.state_size = [units, self.channels * self.order]

    def make(self, width: int) -> None:
        u, p, q = self.units, self.channels, self.order
        row, column = np.mgrid[:q, :q]
        a = np.where(row < column, -1.0, (-1.0) ** (row - column + 1)) * (2 * row + 1) / self.theta
        b = ((-1.0) ** row * (2 * row + 1) / self.theta)[:, :1]
        half = np.linalg.inv(np.eye(q) - a / 2)  # the bilinear rule
        self.a = ops.convert_to_tensor((half @ (np.eye(q) + a / 2)).T, self.compute_dtype)
        self.b = ops.convert_to_tensor((half @ b).T, self.compute_dtype)
        for name, size in (("encode_x", width), ("encode_h", u), ("encode_m", p * q)):
            self.new(name, size, p)
        self.gates(width, 1, bias=False)
        self.new("memory", p * q, u)

    def call(self, inputs: Any, states: Any) -> Any:
        h, m = states
        write = ops.matmul(inputs, self.encode_x) + ops.matmul(h, self.encode_h)
        write = ops.expand_dims(write + ops.matmul(m, self.encode_m), -1)
        m = ops.matmul(ops.reshape(m, (-1, self.channels, self.order)), self.a)
        m = ops.reshape(m + ops.matmul(write, self.b), (-1, self.channels * self.order))
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent)
        h = ops.tanh(z + ops.matmul(m, self.memory))
        return h, [h, m]


class LIF(OwnCell):
    """Leaky integrate-and-fire, adapting; a straight-through term is the spike's gradient."""

    states = 3

    def make(self, width: int) -> None:
        self.gates(width, 1, bias=False)

    def spike(self, v: Any) -> Any:
        soft = ops.sigmoid(4.0 * v)
        return soft + ops.stop_gradient(ops.cast(v > 0.0, v.dtype) - soft)

    def call(self, inputs: Any, states: Any) -> Any:
        v, z, a = states
        v = 0.9 * v * (1.0 - z) + ops.matmul(inputs, self.kernel) + ops.matmul(z, self.recurrent)
        a = 0.95 * a + z
        z = self.spike(v - 0.3 - 0.1 * a)
        return z, [v, z, a]


class LIFCustomGradient(LIF):
    """The same spike with `ops.custom_gradient`."""

    def spike(self, v: Any) -> Any:
        @ops.custom_gradient
        def fire(v: Any) -> Any:
            def grad(*args: Any, upstream: Any = None) -> Any:
                upstream = args[0] if upstream is None else upstream
                soft = ops.sigmoid(4.0 * v)
                return upstream * 4.0 * soft * (1.0 - soft)

            return ops.cast(v > 0.0, v.dtype), grad

        return fire(v)


class ESN(OwnCell):
    """An echo state network: weights that aren't trained, joined at each timestep."""

    leak = 0.3

    def make(self, width: int) -> None:
        self.new("kernel", width, self.units, trainable=False)
        self.new("recurrent", self.units, self.units, trainable=False)
        self.new("bias", self.units, init="random_normal", trainable=False)

    def call(self, inputs: Any, states: Any) -> Any:
        h = states[0]
        both = ops.concatenate([inputs, h], axis=1)
        weights = ops.concatenate([self.kernel, self.recurrent], axis=0)
        h = (1.0 - self.leak) * h + self.leak * ops.tanh(ops.matmul(both, weights) + self.bias)
        return h, [h]


class TwoInputs(OwnCell):
    """A vector and a matrix in, out and kept, as in the guide's last section."""

    rows, columns = 4, 6

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.state_size = {"flat": units, "grid": Shape(self.rows, self.columns)}
        self.output_size = self.state_size

    def build(self, input_shape: Any) -> None:
        _, rows, columns = input_shape["grid"]
        self.new("flat", input_shape["flat"][-1], self.units)
        self.new("grid", rows, columns, self.rows, self.columns)
        self.new("mix", self.units, self.units, init="orthogonal")
        self.built = True

    def call(self, inputs: Any, states: Any) -> Any:
        flat = ops.matmul(inputs["flat"], self.flat) + ops.matmul(states["flat"], self.mix)
        grid = ops.einsum("bij,ijkl->bkl", inputs["grid"], self.grid) + 0.5 * states["grid"]
        new = {"flat": ops.tanh(flat), "grid": ops.tanh(grid)}
        return new, new


class CRFForward(OwnCell):
    """The log-sum-exp over each tag's predecessors, (B, tags, tags) in between."""

    def make(self, width: int) -> None:
        self.new("transitions", self.units, self.units)

    def call(self, inputs: Any, states: Any) -> Any:
        scores = ops.expand_dims(states[0], 2) + self.transitions
        alpha = inputs + ops.logsumexp(scores, axis=1)
        return alpha, [alpha]


class CrackGrowth(OwnCell):
    """Paris's law, a' = a + C dK(S, a)^m, whose stress intensity dK is learnt."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(1, **kwargs)
        self.hidden = layers.Dense(8, activation="tanh")
        self.intensity = layers.Dense(1, activation="softplus")

    def make(self, width: int) -> None:
        self.hidden.build((None, width + 1))
        self.intensity.build((None, 8))
        self.new("log_c", init=initializers.Constant(-3.0))
        self.new("exponent", init=initializers.Constant(2.2))

    def call(self, inputs: Any, states: Any) -> Any:
        a = states[0]
        intensity = self.intensity(self.hidden(ops.concatenate([inputs, a], axis=-1)))
        a = a + ops.exp(self.log_c) * intensity**self.exponent
        return a, [a]


class Battery(OwnCell):
    """A battery's voltages, its charge inside and at the surface (Daigle & Kulkarni, 2013)."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(4, **kwargs)
        self.output_size = 1
        self.hidden, self.learnt = layers.Dense(8, activation="tanh"), layers.Dense(1)

    def make(self, width: int) -> None:
        self.hidden.build((None, 1))
        self.learnt.build((None, 8))
        self.new("diffusion", init=initializers.Constant(0.1))
        self.new("ohm", init=initializers.Constant(0.2))

    def get_initial_state(self, batch_size: Any = None) -> Any:
        full = ops.convert_to_tensor([0.0, 0.0, 5.0, 2.0], self.compute_dtype)
        return [ops.broadcast_to(full, (batch_size, 4))]

    def call(self, inputs: Any, states: Any) -> Any:
        over, at_surface, bulk, surface = (states[0][:, column] for column in range(4))
        i = inputs[:, 0]
        flow = self.diffusion * (bulk / 5.0 - surface / 2.0)
        part = ops.clip(surface / 3.0, 1e-3, 0.999)
        exchange = 1e-3 + ops.power(1.0 - part, 0.5) * ops.power(part, 0.5)
        at_surface = at_surface + (ops.arcsinh(i / (2.0 * exchange)) - at_surface) / 9.0
        over = over + (i * self.ohm - over) / 6.0
        new = [over, at_surface, bulk - 0.01 * flow, surface + 0.01 * (flow - i)]
        learnt = self.learnt(self.hidden(ops.expand_dims(part, 1)))[:, 0]
        volts = 4.0 + 0.03 * ops.log((1.0 - part) / part) + learnt - over - at_surface
        return ops.expand_dims(volts, 1), [ops.stack(new, axis=1)]


class RunningMax:
    """The largest so far: a cell that is no layer."""

    def __init__(self, units: int) -> None:
        self.state_size = self.output_size = units

    def call(self, inputs: Any, states: Any) -> Any:
        largest = ops.maximum(inputs, states[0])
        return largest, largest
