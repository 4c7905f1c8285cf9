"""The truth of the tests: recurrent layers in NumPy float64, forward and hand-written backward.

Nothing here is shared with the package. Shapes: B batch, T time, D input features, U units,
G gates (SimpleRNN 1, GRU 3: z r h, LSTM 4: i f c o), N dropout masks (1, or one a gate).

    run = reference.run(Options("lstm"), Weights(kernel, recurrent_kernel, bias), x)
    run.outputs, run.last, run.states
    run.backward(d_outputs=..., d_last=..., d_states=...).kernel
"""

from dataclasses import dataclass, field

import numpy as np

from reference_activations import ACTIVATIONS

Array = np.ndarray


# Weights, in Keras's layout outside and gate by gate inside.


@dataclass(frozen=True)
class Weights:
    """As `layer.get_weights()`: [D, G*U], [U, G*U], and [G*U], [2, G*U] (GRU, reset_after) or None.

    Gradients of weights have the same layout.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array | None = None


def by_gate(matrix_vgu: Array, gates: int) -> Array:
    """[V, G*U] -> [G, V, U]."""
    return matrix_vgu.reshape(len(matrix_vgu), gates, -1).swapaxes(0, 1)


def as_stored(matrix_gvu: Array) -> Array:
    """[G, V, U] -> [V, G*U]."""
    gates, rows, units = matrix_gvu.shape
    return matrix_gvu.swapaxes(0, 1).reshape(rows, gates * units)


def project(v_bv: Array, drop_nbv: Array | None, matrix_gvu: Array) -> Array:
    """Each gate's own dropped copy of v, times its matrix: [G, B, U]."""
    dropped = v_bv[None] if drop_nbv is None else v_bv * drop_nbv
    return dropped @ matrix_gvu


def project_back(
    dz_gbu: Array, v_bv: Array, drop_nbv: Array | None, matrix_gvu: Array
) -> tuple[Array, Array]:
    """Gradients of v [B, V] and of the matrix [G, V, U]."""
    drop = np.ones((1, *v_bv.shape)) if drop_nbv is None else drop_nbv
    d_dropped = dz_gbu @ matrix_gvu.swapaxes(1, 2)
    return (d_dropped * drop).sum(axis=0), (v_bv * drop).swapaxes(1, 2) @ dz_gbu


# Cells. Each `step` gives the new states (the first is the output) and what `back` needs of it.


@dataclass(frozen=True)
class Options:
    kind: str  # "simple_rnn", "gru", "lstm"
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    reset_after: bool = True
    go_backwards: bool = False
    zero_output_for_mask: bool = False


@dataclass
class Cell:
    """What every step of one call shares, and the gradients that the steps add up."""

    options: Options
    kernel: Array  # G D U
    recurrent: Array  # G U U
    input_bias: Array  # G 1 U
    recurrent_bias: Array  # G 1 U
    drop: Array | None  # N B D
    recurrent_drop: Array | None  # N B U
    d_kernel: Array = field(init=False)
    d_recurrent: Array = field(init=False)
    d_input_bias: Array = field(init=False)
    d_recurrent_bias: Array = field(init=False)

    def __post_init__(self) -> None:
        self.act = ACTIVATIONS[self.options.activation]
        self.gate = ACTIVATIONS[self.options.recurrent_activation]
        self.d_kernel = np.zeros_like(self.kernel)
        self.d_recurrent = np.zeros_like(self.recurrent)
        self.d_input_bias = np.zeros_like(self.input_bias)
        self.d_recurrent_bias = np.zeros_like(self.recurrent_bias)

    def from_input(self, x: Array) -> Array:
        return project(x, self.drop, self.kernel) + self.input_bias

    def from_input_back(self, dz_gbu: Array, x: Array) -> Array:
        dx, d_kernel = project_back(dz_gbu, x, self.drop, self.kernel)
        self.d_kernel += d_kernel
        self.d_input_bias += dz_gbu.sum(axis=1, keepdims=True)
        return dx

    def recurrent_drop_of(self, gates: slice) -> Array | None:
        drop = self.recurrent_drop
        return drop if drop is None or len(drop) == 1 else drop[gates]

    def from_state(self, h: Array, gates: slice = slice(None)) -> Array:
        z = project(h, self.recurrent_drop_of(gates), self.recurrent[gates])
        return z + self.recurrent_bias[gates]

    def from_state_back(self, dz_gbu: Array, h: Array, gates: slice = slice(None)) -> Array:
        drop = self.recurrent_drop_of(gates)
        dh, d_recurrent = project_back(dz_gbu, h, drop, self.recurrent[gates])
        self.d_recurrent[gates] += d_recurrent
        self.d_recurrent_bias[gates] += dz_gbu.sum(axis=1, keepdims=True)
        return dh


class SimpleRNN(Cell):
    gates, states = 1, 1

    def step(self, x, states):
        (h,) = states
        z = self.from_input(x) + self.from_state(h)
        return (self.act.value(z[0]),), (x, h, z)

    def back(self, saved, d_states):
        x, h, z = saved
        dz = self.act.vjp(z[0], d_states[0])[None]
        return self.from_input_back(dz, x), (self.from_state_back(dz, h),)


class LSTM(Cell):
    gates, states = 4, 2

    def step(self, x, states):
        h, c = states
        z = self.from_input(x) + self.from_state(h)
        i, f, o = (self.gate.value(z[k]) for k in (0, 1, 3))
        g = self.act.value(z[2])
        new_c = f * c + i * g
        return (o * self.act.value(new_c), new_c), (x, h, c, z, i, f, g, o, new_c)

    def back(self, saved, d_states):
        x, h, c, z, i, f, g, o, new_c = saved
        dh, dc = d_states
        dc = dc + self.act.vjp(new_c, dh * o)
        dz = np.stack(
            [
                self.gate.vjp(z[0], dc * g),
                self.gate.vjp(z[1], dc * c),
                self.act.vjp(z[2], dc * i),
                self.gate.vjp(z[3], dh * self.act.value(new_c)),
            ]
        )
        return self.from_input_back(dz, x), (self.from_state_back(dz, h), dc * f)


class GRU(Cell):
    """reset_after: the reset gate scales the candidate's recurrent projection."""

    gates, states = 3, 1

    def step(self, x, states):
        (h,) = states
        zx, zh = self.from_input(x), self.from_state(h)
        z, r = self.gate.value(zx[0] + zh[0]), self.gate.value(zx[1] + zh[1])
        candidate = self.act.value(zx[2] + r * zh[2])
        return (z * h + (1 - z) * candidate,), (x, h, zx, zh, z, r, candidate)

    def back(self, saved, d_states):
        x, h, zx, zh, z, r, candidate = saved
        (dh,) = d_states
        d_candidate = self.act.vjp(zx[2] + r * zh[2], dh * (1 - z))
        d_z = self.gate.vjp(zx[0] + zh[0], dh * (h - candidate))
        d_r = self.gate.vjp(zx[1] + zh[1], d_candidate * zh[2])
        dx = self.from_input_back(np.stack([d_z, d_r, d_candidate]), x)
        d_h = self.from_state_back(np.stack([d_z, d_r, d_candidate * r]), h)
        return dx, (dh * z + d_h,)


class GRUResetBefore(Cell):
    """The reset gate scales the state, before the candidate's recurrent projection."""

    gates, states = 3, 1
    update_reset, candidate = slice(0, 2), slice(2, 3)

    def step(self, x, states):
        (h,) = states
        zx, zh = self.from_input(x), self.from_state(h, self.update_reset)
        z, r = self.gate.value(zx[0] + zh[0]), self.gate.value(zx[1] + zh[1])
        pre = zx[2] + self.from_state(r * h, self.candidate)[0]
        candidate = self.act.value(pre)
        return (z * h + (1 - z) * candidate,), (x, h, zx, zh, z, r, pre, candidate)

    def back(self, saved, d_states):
        x, h, zx, zh, z, r, pre, candidate = saved
        (dh,) = d_states
        d_candidate = self.act.vjp(pre, dh * (1 - z))
        d_rh = self.from_state_back(d_candidate[None], r * h, self.candidate)
        d_z = self.gate.vjp(zx[0] + zh[0], dh * (h - candidate))
        d_r = self.gate.vjp(zx[1] + zh[1], d_rh * h)
        dx = self.from_input_back(np.stack([d_z, d_r, d_candidate]), x)
        d_h = self.from_state_back(np.stack([d_z, d_r]), h, self.update_reset)
        return dx, (dh * z + d_h + d_rh * r,)


def cell_class(options: Options) -> type[Cell]:
    if options.kind == "gru":
        return GRU if options.reset_after else GRUResetBefore
    return {"simple_rnn": SimpleRNN, "lstm": LSTM}[options.kind]


def make_cell(options, weights, drop, recurrent_drop) -> Cell:
    cls = cell_class(options)
    units = len(weights.recurrent_kernel)
    biases = np.zeros((2, cls.gates, 1, units))
    if weights.bias is not None:
        # [G*U] fills the input's half alone; [2, G*U] fills both.
        rows = weights.bias.reshape(-1, cls.gates, 1, units)
        biases[: len(rows)] = rows
    return cls(
        options,
        by_gate(np.asarray(weights.kernel, float), cls.gates),
        by_gate(np.asarray(weights.recurrent_kernel, float), cls.gates),
        *biases,
        drop,
        recurrent_drop,
    )


# Time: direction, masks, held outputs.


@dataclass(frozen=True)
class Gradients:
    inputs: Array
    states: tuple[Array, ...]
    weights: Weights


@dataclass(frozen=True)
class Run:
    """One call: outputs [B, T, U] in the order of processing, the last of them, final states."""

    outputs: Array
    states: tuple[Array, ...]
    cell: Cell
    has_bias: bool
    tape: list  # per processed step: (what the cell saved, valid rows [B, 1])

    @property
    def last(self) -> Array:
        return self.outputs[:, -1]

    def backward(self, d_outputs=None, d_last=None, d_states=None) -> Gradients:
        """Once a run: the gradients, given those of the outputs, of the last one, of the states."""
        d_outputs = np.zeros_like(self.outputs) if d_outputs is None else d_outputs.copy()
        if d_last is not None:
            d_outputs[:, -1] += d_last
        d_states = tuple(d_states) if d_states else tuple(np.zeros_like(s) for s in self.states)
        d_held = np.zeros_like(self.last)
        dx = []
        for t in reversed(range(len(self.tape))):
            saved, valid = self.tape[t]
            d_output = d_outputs[:, t] + d_held
            d_held = np.where(valid | self.cell.options.zero_output_for_mask, 0.0, d_output)
            d_new = [np.where(valid, d, 0.0) for d in d_states]
            d_new[0] = d_new[0] + np.where(valid, d_output, 0.0)
            dx_t, d_before = self.cell.back(saved, d_new)
            d_states = tuple(
                d + np.where(valid, 0.0, d_kept)
                for d, d_kept in zip(d_before, d_states, strict=True)
            )
            dx.append(dx_t)
        if not self.cell.options.go_backwards:
            dx.reverse()
        return Gradients(np.stack(dx, axis=1), d_states, self._weight_gradients())

    def _weight_gradients(self) -> Weights:
        cell, bias = self.cell, None
        if self.has_bias:
            bias = cell.d_input_bias.reshape(-1)
            if isinstance(cell, GRU):
                bias = np.stack([bias, cell.d_recurrent_bias.reshape(-1)])
        return Weights(as_stored(cell.d_kernel), as_stored(cell.d_recurrent), bias)


def run(
    options: Options,
    weights: Weights,
    x_btd: Array,
    states: tuple[Array, ...] | None = None,
    mask_bt: Array | None = None,
    drop: Array | None = None,
    recurrent_drop: Array | None = None,
) -> Run:
    """The layer's call. `drop` [N, B, D] and `recurrent_drop` [N, B, U] already hold 1/(1-rate)."""
    cell = make_cell(options, weights, drop, recurrent_drop)
    batch, time, _ = x_btd.shape
    units = len(weights.recurrent_kernel)
    states = states or tuple(np.zeros((batch, units)) for _ in range(cell.states))
    mask = np.ones((batch, time), bool) if mask_bt is None else mask_bt.astype(bool)
    output = np.zeros((batch, units))
    outputs, tape = [], []
    for t in reversed(range(time)) if options.go_backwards else range(time):
        valid = mask[:, t, None]
        new_states, saved = cell.step(x_btd[:, t], states)
        held = np.zeros_like(output) if options.zero_output_for_mask else output
        output = np.where(valid, new_states[0], held)
        states = tuple(np.where(valid, n, s) for n, s in zip(new_states, states, strict=True))
        outputs.append(output)
        tape.append((saved, valid))
    return Run(np.stack(outputs, axis=1), states, cell, weights.bias is not None, tape)
