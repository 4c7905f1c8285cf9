"""Checkpoints change no bit, truncated gradients are those of pieces, and sums stay exact."""

import contextlib
import functools

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from engines.gradients import pull_back
from ostinato import layers, native
from ostinato.doors import door
from ostinato.settings import forced_engine
from support import in_turn, on_one_backend, sample

B, T, D, U = 5, 70, 3, 6
WHY_NOT = native.why_not() or (forced_engine() == "scan" and "OSTINATO_ENGINE is set")
native_only = pytest.mark.skipif(bool(WHY_NOT), reason=f"no kernels: {WHY_NOT}")

RNG = np.random.default_rng(0)
MASKS = {
    "holes": RNG.random((B, T)) < 0.7,
    "right": np.arange(T) < np.array([[0], [T], [17], [33], [64]]),
    "left": np.arange(T) >= np.array([[0], [T], [17], [33], [64]]),
}
DROPOUT = {"dropout": 0.3, "recurrent_dropout": 0.2, "seed": 3}


class OwnCell(keras.layers.Layer):
    """A minimal gated unit, with the sum of its states beside."""

    state_size = (U, layers.Shape(2, 3))
    output_size = U

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(D, 2 * U), name="kernel")
        self.recurrent = self.add_weight(shape=(U, 2 * U), name="recurrent")
        self.bias = self.add_weight(shape=(2 * U,), initializer="ones", name="bias")

    def call(self, inputs, states):
        h, total = states
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent) + self.bias
        gate = ops.sigmoid(z[:, :U])
        h = gate * h + (1 - gate) * ops.tanh(z[:, U:])
        total = 0.9 * total + 0.1 * ops.reshape(h, (-1, 2, 3))
        return h + ops.reshape(total, (-1, U)), (h, total)


def own(**options):
    return layers.RNN(OwnCell(), **options)


def before(**options):
    return layers.GRU(U, reset_after=False, **options)


# Each makes a layer; what it's called with; how many states it starts from.
CASES = {
    "everything at once": (
        lambda **o: layers.LSTM(U, return_sequences=True, go_backwards=True, **DROPOUT, **o),
        {"mask": MASKS["holes"], "training": True},
        2,
    ),
    "late product, padded": (
        lambda **o: before(return_state=True, recurrent_dropout=0.2, seed=1, **o),
        {"mask": MASKS["right"], "training": True},
        1,
    ),
    "padded in front": (
        lambda **o: layers.GRU(U, return_sequences=True, return_state=True, **o),
        {"mask": MASKS["left"]},
        1,
    ),
    "keeps inputs": (
        lambda **o: layers.SimpleRNN(U, activation="gelu", use_bias=False, **o),
        {},
        0,
    ),
    "keeps states alone": (lambda **o: layers.SimpleRNN(20, return_sequences=True, **o), {}, 0),
    "a stack": (
        lambda **o: layers.RNN([layers.LSTMCell(U), layers.GRUCell(4)], return_sequences=True, **o),
        {"mask": MASKS["holes"]},
        0,
    ),
    "own cell": (lambda **o: own(return_sequences=True, **o), {"mask": MASKS["holes"]}, 0),
    "own cell, backwards": (lambda **o: own(go_backwards=True, return_state=True, **o), {}, 0),
    "resets": (
        lambda **o: layers.LSTM(U, return_sequences=True, **o),
        {"resets": RNG.random((B, T)) < 0.1, "mask": MASKS["holes"]},
        2,
    ),
    "own cell, resets": (
        lambda **o: own(return_sequences=True, **o),
        {"resets": RNG.random((B, T)) < 0.1},
        0,
    ),
    "bfloat16": (
        lambda **o: layers.LSTM(U, return_sequences=True, **o),
        {"mask": MASKS["holes"]},
        0,
    ),
    "both directions": (
        lambda **o: layers.Bidirectional(layers.GRU(U, return_sequences=True, **o)),
        {"mask": MASKS["holes"]},
        0,
    ),
}
case = pytest.mark.parametrize("name", CASES)


def results(make, call, states, batch=B, timesteps=T, every=None):
    """What a layer gives, and its gradients; the same weights and dropout masks every time."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    layer = make()
    x = rng.normal(size=(batch, timesteps, D)).astype("float32")
    layer.build(x.shape)
    given = [rng.normal(size=(batch, U)).astype("float32") for _ in range(states)] or None
    asked = contextlib.nullcontext() if every is None else ostinato.use_checkpoints(every)
    with asked:
        return pull_back(layer, x, given, None, **call)


def assert_same(got, expected, same):
    for field in ("results", "inputs", "states", "weights"):
        for one, other in zip(getattr(got, field), getattr(expected, field), strict=True):
            same(one, other)


@native_only
@case
def test_checkpoints_change_no_bit(name):
    with ostinato.use_precision(name if name == "bfloat16" else "float32"):
        expected = results(*CASES[name])
        for every in (1, 64, "10 kB") if keras.config.backend() == "torch" else (20,):
            got = results(*CASES[name], every=every)
            assert_same(got, expected, np.testing.assert_array_equal)


@native_only
@pytest.mark.parametrize(
    ("batch", "units"), sample([(1, 40), (2, 300), (3, 40), (40, 20)], (3, 40))
)
def test_checkpoints_change_no_bit_however_threads_share_the_work(batch, units):
    for cls in (layers.LSTM, layers.GRU):
        sizes, make = {"batch": batch, "timesteps": 150}, functools.partial(cls, units)
        expected = results(make, {}, 0, **sizes)
        got = results(make, {}, 0, every=32, **sizes)
        assert_same(got, expected, np.testing.assert_array_equal)


class WideCell(keras.layers.Layer):
    """A cell whose products of a row take 24 times 24 multiplications."""

    state_size = output_size = 24

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 24), name="kernel")
        self.recurrent = self.add_weight(shape=(24, 24), name="recurrent")

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(states[0], self.recurrent))
        return h, [h]


# A pass back takes some three times what one forward does, and so has more threads for the rows
# of some sizes: those are in other tiles then, and alone in one where they weren't.
@native_only
@pytest.mark.parametrize("batch", [2, 3])
def test_checkpoints_change_no_bit_where_going_back_takes_more_threads(batch):
    sizes = {"batch": batch, "timesteps": 750 // batch}

    def make():
        return layers.RNN(WideCell(), return_sequences=True)

    expected = results(make, {}, 0, **sizes)
    assert all(np.isfinite(weight).all() for weight in expected.weights)
    got = results(make, {}, 0, every=32, **sizes)
    assert_same(got, expected, np.testing.assert_array_equal)


# Truncation.


class InPieces(keras.layers.Layer):
    """A layer run over one piece after another, from states that pass no gradient on."""

    def __init__(self, layer, timesteps, last, backwards):
        super().__init__()
        self.supports_masking = True
        self.layer, self.timesteps, self.last, self.backwards = layer, timesteps, last, backwards

    def build(self, sequences_shape, initial_state_shape=None):
        self.layer.build(sequences_shape)

    def call(self, sequences, initial_state=None, **options):
        states, outputs = initial_state, []
        total = sequences.shape[1]
        for first in range(0, total, self.timesteps):
            span = slice(first, first + self.timesteps)
            if self.backwards:
                span = slice(max(total - first - self.timesteps, 0), total - first)
            flags = {k: v[:, span] if hasattr(v, "shape") else v for k, v in options.items()}
            found = self.layer(sequences[:, span], initial_state=states, **flags)
            outputs.append(found[0])
            states = [ops.stop_gradient(state) for state in found[1:]]
        return outputs[-1] if self.last else ops.concatenate(outputs, axis=1)


TRUNCATED = {
    "LSTM": (layers.LSTM, U, {}, 2),
    "GRU, backwards": (layers.GRU, U, {"go_backwards": True}, 1),
    "SimpleRNN, last": (layers.SimpleRNN, U, {"return_sequences": False}, 1),
    "holes": (layers.LSTM, U, {"mask": "holes"}, 0),
    "right": (layers.GRU, U, {"mask": "right"}, 0),
    "left": (layers.GRU, U, {"mask": "left"}, 1),
    "own cell": (layers.RNN, OwnCell, {}, 0),
}


@pytest.mark.parametrize(("name", "engine"), in_turn([*TRUNCATED], ["the fastest", "scan"]))
def test_truncated_gradients_are_those_of_pieces(name, engine):
    cls, cell, options, states = TRUNCATED[name]
    arguments = {"return_sequences": True, "zero_output_for_mask": True, **options}
    mask = arguments.pop("mask", None)
    call = {} if mask is None else {"mask": MASKS[mask]}
    last = not arguments["return_sequences"]
    piece = {**arguments, "return_state": True}

    def make(**own):
        return cls(cell() if cell is OwnCell else cell, **own)

    forced = ostinato.use_engine("scan") if engine == "scan" else contextlib.nullcontext()
    with forced:
        for timesteps in (7, 35) if keras.config.backend() == "torch" else (35,):
            got = results(lambda: make(truncate=timesteps, **arguments), call, states)  # noqa: B023
            expected = results(
                lambda: InPieces(make(**piece), timesteps, last, "go_backwards" in options),  # noqa: B023
                call,
                states,
            )
            assert_same(got, expected, lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 2e-5))


@native_only
def test_checkpoints_are_reckoned_with_from_sizes_in_bytes(monkeypatch):
    """The kernel pads units to 16; a program of one's own keeps its values as they are."""
    from ostinato.engines import compiled, fused

    asked, used, run = [], [], door.native_run
    for engine in (compiled, fused):
        monkeypatch.setattr(engine, "timesteps_between", lambda *of: asked.append(of) or 32)
    monkeypatch.setattr(
        door,
        "native_run",
        lambda specs, *rest: used.append(specs[0].checkpoint) or run(specs, *rest),
    )
    x = np.zeros((2, 24, D), "float32")  # sizes of this test alone: answers are remembered
    layers.LSTM(18, truncate=16)(x)
    layers.GRU(16, dtype="float64", truncate=16)(x)
    own(truncate=16)(x)
    layers.RNN(OwnCell(dtype="float64"), truncate=16, dtype="float64")(x)
    padded, double = 32 * 4, 16 * 8
    columns = [native.kinds()[name].saved_columns for name in ("lstm", "gru")]
    assert used.count(32) == 4  # beside trials of the program
    assert asked[:2] == [
        (None, 16, (2, 24), columns[0] * padded, 2 * padded),
        (None, 16, (2, 24), columns[1] * double, 1 * double),
    ]
    (*single, kept, carried), twice = asked[2:]
    assert single == [None, 16, (2, 24)]
    assert carried == 2 * U * 4
    assert kept >= 2 * U * 4
    assert twice == (*single, 2 * kept, 2 * carried)


def test_it_truncates():
    plain, truncated = (
        results(lambda: layers.LSTM(U, truncate=timesteps), {}, 2)  # noqa: B023
        for timesteps in (None, 64)
    )
    assert np.abs(plain.inputs[0][:, 0]).max() > 0
    assert not np.abs(truncated.inputs[0][:, :64]).any()
    assert not any(np.abs(state).any() for state in truncated.states)
    assert_same(plain, truncated, lambda a, b: a.shape == b.shape)


@on_one_backend
@pytest.mark.parametrize("engine", ["the fastest", "scan"])
def test_truncated_at_each_timestep_the_last_output_is_its_own_inputs_alone(engine):
    forced = ostinato.use_engine("scan") if engine == "scan" else contextlib.nullcontext()
    layer = layers.GRU(3, truncate=1)
    with forced:
        pulled = pull_back(layer, np.ones((4, 2, 5), "float32"), None, [np.ones((4, 3), "float32")])
    assert not np.abs(pulled.inputs[0][:, 0]).any()
    assert np.abs(pulled.inputs[0][:, 1]).min() > 0


def test_truncate_is_an_argument_that_configs_keep():
    layer = layers.GRU(3, truncate=8)
    assert layers.GRU.from_config(layer.get_config()).get_config()["truncate"] == 8
    assert "truncate" not in layers.GRU(3).get_config()  # so that Keras reads it
    both = layers.Bidirectional(layer)
    for direction in (both.forward_layer, both.backward_layer):
        assert direction.get_config()["truncate"] == 8
    for value in (0, 1 << 56):
        with pytest.raises(
            ValueError, match=rf"^LSTM: `truncate`: expected a positive number of .* {value}\."
        ):
            layers.LSTM(3, truncate=value)
    model = keras.Sequential([keras.Input((4, 2)), layers.GRU(3, truncate=8)])
    with pytest.warns(UserWarning, match="Keras 3 truncates no gradients, and its truncate is 8"):
        ostinato.restore(model)
    plain = keras.Sequential([keras.Input((4, 2)), layers.GRU(3)])
    assert type(ostinato.restore(plain).layers[0]) is keras.layers.GRU


# Sums.


@native_only
@pytest.mark.parametrize("make", [lambda **o: layers.LSTM(4, **o), own], ids=["built in", "own"])
def test_weights_gradients_stay_exact_over_many_timesteps(make):
    """In float32; summed one after another they'd be off by 1e-5 here."""
    if keras.config.backend() == "jax":
        pytest.skip("float64 takes a setting there; the kernels are the same")
    timesteps = 60_000
    rng = np.random.default_rng(0)
    x = 1 + 0.1 * rng.normal(size=(1, timesteps, D))
    ones = [np.ones((1, timesteps, 4 if make is not own else U))]
    layer = make(return_sequences=True)
    layer.build(x.shape)
    got = pull_back(layer, x.astype("float32"), None, [o.astype("float32") for o in ones])
    exact = make(return_sequences=True, dtype="float64")
    exact.build(x.shape)
    exact.set_weights(layer.get_weights())
    expected = pull_back(exact, x.astype("float32").astype("float64"), None, ones)
    for one, other in zip(got.weights, expected.weights, strict=True):
        assert np.abs(one - other).max() < 1e-6 * np.abs(other).max()
