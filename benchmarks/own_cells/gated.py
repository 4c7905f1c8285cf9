"""Gated cells, each from its paper."""

from typing import Any

from keras import layers, ops

from benchmarks.own_cells.cell import OwnCell
from ostinato import Shape


class PlainLSTM(OwnCell):
    """The built-in LSTM, as one would write it oneself."""

    states = 2

    def make(self, width: int) -> None:
        self.gates(width, 4)

    def call(self, inputs: Any, states: Any) -> Any:
        h, c = states
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent) + self.bias
        i, f, g, o = ops.split(z, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


class PeepholeLSTM(OwnCell):
    """The gates see the memory, too (Gers & Schmidhuber, 2000)."""

    states = 2

    def make(self, width: int) -> None:
        self.gates(width, 4)
        for gate in "ifo":
            self.new(f"peep_{gate}", self.units, init="random_normal")

    def call(self, inputs: Any, states: Any) -> Any:
        h, c = states
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent) + self.bias
        i, f, g, o = ops.split(z, 4, axis=-1)
        i, f = ops.sigmoid(i + c * self.peep_i), ops.sigmoid(f + c * self.peep_f)
        c = f * c + i * ops.tanh(g)
        h = ops.sigmoid(o + c * self.peep_o) * ops.tanh(c)
        return h, [h, c]


class LayerNormLSTM(OwnCell):
    """Both products and the memory are normalized, by layers within (Ba et al., 2016)."""

    states = 2

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.norm_x, self.norm_h, self.norm_c = (layers.LayerNormalization() for _ in range(3))

    def make(self, width: int) -> None:
        self.gates(width, 4)
        self.norm_x.build((None, 4 * self.units))
        self.norm_h.build((None, 4 * self.units))
        self.norm_c.build((None, self.units))

    def call(self, inputs: Any, states: Any) -> Any:
        h, c = states
        z = self.norm_x(ops.matmul(inputs, self.kernel))
        z = z + self.norm_h(ops.matmul(h, self.recurrent)) + self.bias
        i, f, g, o = ops.split(z, 4, axis=-1)
        c = self.norm_c(ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g))
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


class NAS(OwnCell):
    """What a search found: eight gates in a fixed tree (Zoph & Le, 2017)."""

    states = 2

    def make(self, width: int) -> None:
        self.gates(width, 8, bias=False)

    def call(self, inputs: Any, states: Any) -> Any:
        h, c = states
        sigmoid, tanh, relu = ops.sigmoid, ops.tanh, ops.relu
        x = ops.split(ops.matmul(inputs, self.kernel), 8, axis=-1)
        r = ops.split(ops.matmul(h, self.recurrent), 8, axis=-1)
        first = tanh(sigmoid(x[0] + r[0]) * relu(x[1] + r[1]))
        second = tanh(sigmoid(x[2] + r[2]) + relu(x[3] * r[3]))
        third = tanh(tanh(x[4] + r[4]) * sigmoid(x[5] + r[5]))
        fourth = sigmoid(tanh(x[6] + r[6]) + sigmoid(x[7] + r[7]))
        c = tanh(first + c) * second
        h = tanh(c * tanh(third + fourth))
        return h, [h, c]


class MultiplicativeLSTM(OwnCell):
    """The gates see (x Wm) * (h Um) in h's place: two products in a row (Krause et al., 2016)."""

    states = 2

    def make(self, width: int) -> None:
        u = self.units
        self.new("kernel", width, 5 * u)
        self.new("recurrent_m", u, u, init="orthogonal")
        self.new("recurrent", u, 4 * u, init="orthogonal")
        self.new("bias", 4 * u, init="zeros")

    def call(self, inputs: Any, states: Any) -> Any:
        (h, c), u = states, self.units
        x = ops.matmul(inputs, self.kernel)
        m = x[:, 4 * u :] * ops.matmul(h, self.recurrent_m)
        z = x[:, : 4 * u] + ops.matmul(m, self.recurrent) + self.bias
        c = ops.sigmoid(z[:, u : 2 * u]) * c + ops.sigmoid(z[:, :u]) * ops.tanh(z[:, 2 * u : 3 * u])
        h = ops.sigmoid(z[:, 3 * u :]) * ops.tanh(c)
        return h, [h, c]


class ONLSTM(OwnCell):
    """Ordered neurons: master gates are cumulated softmaxes, over chunks (Shen et al., 2019)."""

    states = 2
    chunk = 4

    def make(self, width: int) -> None:
        columns = 4 * self.units + 2 * (self.units // self.chunk)
        self.new("kernel", width, columns)
        self.new("recurrent", self.units, columns)
        self.new("bias", columns, init="zeros")

    def _master(self, scores: Any) -> Any:
        return ops.cumsum(ops.softmax(scores, axis=-1), axis=-1)

    def call(self, inputs: Any, states: Any) -> Any:
        (h, c), u = states, self.units
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent) + self.bias
        places = [u, 2 * u, 3 * u, 4 * u, 4 * u + u // self.chunk]
        i, f, g, o, forget, write = ops.split(z, places, axis=-1)
        forget = ops.repeat(self._master(forget), self.chunk, axis=-1)
        write = ops.repeat(1.0 - self._master(write), self.chunk, axis=-1)
        overlap = forget * write
        f = ops.sigmoid(f) * overlap + (forget - overlap)
        i = ops.sigmoid(i) * overlap + (write - overlap)
        c = f * c + i * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


class SRU(OwnCell):
    """A simple recurrent unit: no product with the state (Lei et al., 2018)."""

    def make(self, width: int) -> None:
        self.new("kernel", width, 4 * self.units)
        self.new("see", 2 * self.units, init="random_normal")
        self.new("bias", 2 * self.units, init="zeros")

    def call(self, inputs: Any, states: Any) -> Any:
        c, u = states[0], self.units
        x, f, r, skip = ops.split(ops.matmul(inputs, self.kernel), 4, axis=-1)
        f = ops.sigmoid(f + self.see[:u] * c + self.bias[:u])
        r = ops.sigmoid(r + self.see[u:] * c + self.bias[u:])
        c = f * c + (1.0 - f) * x
        return r * ops.tanh(c) + (1.0 - r) * skip, [c]


class GRUD(OwnCell):
    """GRU-D: inputs [x, observed, time]; what's missing decays to the mean (Che et al., 2018)."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.features = units
        self.state_size = [units, self.features, self.features]

    def make(self, width: int) -> None:
        u, d = self.units, self.features
        self.new("kernel", d, 3 * u)
        self.new("missing", d, 3 * u)
        self.new("recurrent", u, 3 * u, init="orthogonal")
        self.new("bias", 3 * u, init="zeros")
        self.new("decay_x", d, init="ones")
        self.new("decay_h", d, u)
        self.new("decay_bias", u, init="zeros")

    def call(self, inputs: Any, states: Any) -> Any:
        (h, last, since), u, d = states, self.units, self.features
        x, observed, now = inputs[:, :d], inputs[:, d : 2 * d], inputs[:, 2 * d :]
        gap, is_observed = now - since, observed > 0.5
        last = ops.where(is_observed, x, last)
        x = ops.where(is_observed, x, ops.exp(-ops.relu(gap * self.decay_x)) * last)
        h = ops.exp(-ops.relu(ops.matmul(gap, self.decay_h) + self.decay_bias)) * h
        zx = ops.matmul(x, self.kernel) + ops.matmul(1.0 - observed, self.missing) + self.bias
        zh = ops.matmul(h, self.recurrent[:, : 2 * u])
        z = ops.sigmoid(zx[:, :u] + zh[:, :u])
        r = ops.sigmoid(zx[:, u : 2 * u] + zh[:, u:])
        new = ops.tanh(zx[:, 2 * u :] + ops.matmul(r * h, self.recurrent[:, 2 * u :]))
        h = z * h + (1.0 - z) * new
        since = ops.where(is_observed, ops.broadcast_to(now, ops.shape(since)), since)
        return h, [h, last, since]


class AttentionGRU(OwnCell):
    """Attention to a memory (B, m, e), the constants; then a GRU (Bahdanau et al., 2015)."""

    def make(self, width: int) -> None:
        u = e = self.units
        self.new("query", u, u)
        self.new("key", e, u)
        self.new("score", u, init="random_normal")
        self.new("kernel", width + e, 3 * u)
        self.new("recurrent", u, 3 * u, init="orthogonal")
        self.new("bias", 3 * u, init="zeros")

    def call(self, inputs: Any, states: Any, constants: Any) -> Any:
        h, (memory,), u = states[0], constants, self.units
        query = ops.expand_dims(ops.matmul(h, self.query), 1)
        scores = ops.sum(ops.tanh(query + ops.matmul(memory, self.key)) * self.score, axis=-1)
        weights = ops.expand_dims(ops.softmax(scores, axis=-1), -1)
        context = ops.sum(weights * memory, axis=1)
        zx = ops.matmul(ops.concatenate([inputs, context], axis=-1), self.kernel) + self.bias
        zh = ops.matmul(h, self.recurrent)
        z, r = ops.split(ops.sigmoid(zx[:, : 2 * u] + zh[:, : 2 * u]), 2, axis=-1)
        new = ops.tanh(zx[:, 2 * u :] + r * zh[:, 2 * u :])
        h = z * h + (1.0 - z) * new
        return h, [h]


class ConvGRU(OwnCell):
    """A GRU whose products are 3 x 3 convolutions of pictures (8, 8, channels)."""

    side = 8

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(max(1, units // 8), **kwargs)
        self.state_size = self.output_size = Shape(self.side, self.side, self.units)

    def make(self, width: int) -> None:
        f = self.units
        self.new("kernel", 3, 3, width, 3 * f)
        self.new("recurrent", 3, 3, f, 3 * f)
        self.new("bias", 3 * f, init="zeros")

    def call(self, inputs: Any, states: Any) -> Any:
        h, f = states[0], self.units
        x = ops.conv(inputs, self.kernel, padding="same") + self.bias
        zh = ops.conv(h, self.recurrent[..., : 2 * f], padding="same")
        z = ops.sigmoid(x[..., :f] + zh[..., :f])
        r = ops.sigmoid(x[..., f : 2 * f] + zh[..., f:])
        new = ops.conv(r * h, self.recurrent[..., 2 * f :], padding="same")
        h = z * h + (1.0 - z) * ops.tanh(x[..., 2 * f :] + new)
        return h, [h]


class HyperRNN(OwnCell):
    """A small RNN scales what a large one computes (Ha et al., 2017)."""

    small, code = 16, 4

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        self.state_size = [units, self.small]

    def make(self, width: int) -> None:
        u, s, e = self.units, self.small, self.code
        self.gates(width, 1, bias=False)
        self.new("hyper_kernel", width + u, s)
        self.new("hyper_recurrent", s, s, init="orthogonal")
        self.new("codes", s, 3 * e)
        for name in ("scale_x", "scale_h", "shift"):
            self.new(name, e, u)

    def call(self, inputs: Any, states: Any) -> Any:
        h, s = states
        both = ops.concatenate([inputs, h], axis=-1)
        s = ops.tanh(ops.matmul(both, self.hyper_kernel) + ops.matmul(s, self.hyper_recurrent))
        to_x, to_h, to_b = ops.split(ops.matmul(s, self.codes), 3, axis=-1)
        x = ops.matmul(to_x, self.scale_x) * ops.matmul(inputs, self.kernel)
        r = ops.matmul(to_h, self.scale_h) * ops.matmul(h, self.recurrent)
        h = ops.tanh(x + r + ops.matmul(to_b, self.shift))
        return h, [h, s]
