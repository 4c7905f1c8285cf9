"""Layers in bfloat16, and float32 ones whose products are: what reaches the kernels; errors."""

import contextlib
from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import ostinato
import reference
from engines import cases
from engines.cases import Case, Expected, assert_pulled, examples
from engines.gradients import pull_back, random_like
from ostinato import layers, native
from ostinato.engines import fused
from ostinato.settings import forced_engine, use_engine
from support import elsewhere_in_long, in_turn

BACKEND = keras.config.backend()
HAS_KERNELS = native.why_not() is None and forced_engine() != "scan"
IN_KERNELS = HAS_KERNELS and native.computes_bfloat16()
in_kernels = pytest.mark.skipif(not IN_KERNELS, reason="no kernels here compute in bfloat16")

# How a layer comes to be computed in bfloat16: its policy, or float32 with `use_precision`.
WAYS = ["bfloat16", "mixed_bfloat16", "float32"]
TENSORS, PRODUCTS = native.BFLOAT16_TENSORS, native.BFLOAT16_PRODUCTS
PRECISION = {"bfloat16": TENSORS, "mixed_bfloat16": TENSORS, "float32": PRODUCTS}
# Of a tensor's largest number: a bfloat16 is exact to 2^-9, of several that are added up. That of
# the gradients of weights is a sum over time, of products of two.
TOLERANCE = 2e-2


@pytest.fixture
def seen(monkeypatch):
    """The precision of each call of the native engine."""
    found = []
    native_run = fused.door.native_run

    def spy(specs, operands, twin):
        found.append(specs[0].precision)
        return native_run(specs, operands, twin)

    monkeypatch.setattr(fused.door, "native_run", spy)
    return found


def asking(way):
    return ostinato.use_precision("bfloat16") if way == "float32" else contextlib.nullcontext()


class InFloat32(keras.layers.Layer):
    """A layer with its results in float32, so that any gradient may be pulled back."""

    def __init__(self, inner):
        super().__init__(dtype="float32")
        self.inner = inner
        self.built = True

    def call(self, x, **call):
        results = self.inner(x, **call)
        return keras.tree.map_structure(lambda y: keras.ops.cast(y, "float32"), results)


def rounded(array):
    """The nearest bfloat16s, in float64."""
    bits = np.asarray(array, "float32").view("uint32")
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype("uint32").view("float32").astype("float64")


class OwnLSTM(layers.LSTMCell):
    """LSTM in the words of a cell of one's own."""

    def call(self, inputs, states, training=False):
        """One timestep."""
        h, c = states
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent_kernel) + self.bias
        i, f, g, o = ops.split(z, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


def check(case, way, own=None):
    rng = cases.rng_of(case)
    x, states = rounded(cases.make_inputs(rng, case)), cases.make_states(rng, case)
    states = states and [rounded(state) for state in states]
    mask = cases.make_mask(rng, case)
    given_weights = cases.make_weights(rng, case)
    weights = reference.Weights(
        *(None if w is None else rounded(w) for w in (given_weights.kernel,
          given_weights.recurrent_kernel, given_weights.bias))
    )  # fmt: skip
    drops = cases.draw_dropout(case, "float32" if way == "float32" else "bfloat16")
    run = reference.run(case.options, weights, x, states and tuple(states), mask, *drops)
    expected = Expected(run, case.return_sequences, case.return_state)
    layer = InFloat32(own or case.layer(layers, dtype=way))
    layer.inner.build(x.shape)
    layer.inner.set_weights(cases.weight_list(weights))
    d_results = [rounded(d) for d in random_like(expected.results)]
    single = lambda arrays: [a.astype("float32") for a in arrays]  # noqa: E731
    with asking(way):
        x, states = x.astype("float32"), states and single(states)
        pulled = pull_back(layer, x, states, single(d_results), mask=mask, training=True)
    assert_pulled(pulled, expected, d_results, TOLERANCE, states is not None)


@pytest.mark.parametrize("way", WAYS)
@given(
    cases.cases_with_dropout().filter(lambda case: case.activation in ("tanh", "softsign", "silu")),
    st.sampled_from(["sigmoid", "softsign"]),
)
@examples(6)
def test_results_and_gradients_agree_with_the_reference(way, case, gate):
    check(replace(case, recurrent_activation=gate, units=7, features=5, time=4), way)


@pytest.mark.parametrize(("kind", "way"), in_turn(sorted(cases.KINDS), WAYS))
def test_a_batch_and_units_of_several_tiles(kind, way):
    check(Case(kind, mask="holes", batch=33, time=5, features=19, units=50), way)


@pytest.mark.parametrize(
    ("sizes", "way"), in_turn([(1, 1, 1, 3), (3, 19, 5, 50), (53, 3, 33, 17)], WAYS)
)
def test_cells_of_ones_own(way, sizes, seen):
    batch, time, features, units = sizes
    case = Case("lstm", mask="holes", batch=batch, time=time, features=features, units=units)
    wanted = {"return_sequences": case.return_sequences, "return_state": case.return_state}
    own = layers.RNN(OwnLSTM(units, dtype=way), **wanted, dtype=way)
    with use_engine("compiled" if HAS_KERNELS else "scan"):  # on JAX a loop is as fast for a row
        check(case, way, own)
        with asking(way):
            shown = str(ostinato.explain(own))
    if IN_KERNELS:
        assert native.BFLOAT16_PRODUCTS in seen
        assert f"{native.target()} in bfloat16, sums in float32" in shown


@in_kernels
@pytest.mark.parametrize(
    ("kind", "way"), in_turn(["LSTM", "GRU", "SimpleRNN", "Bidirectional"], WAYS)
)
def test_the_kernels_compute_in_it(kind, way, seen):
    made = (
        layers.GRU(6, dtype=way) if kind == "Bidirectional" else getattr(layers, kind)(6, dtype=way)
    )
    layer = layers.Bidirectional(made, dtype=way) if kind == "Bidirectional" else made
    x = cases.rng_of(Case("gru")).normal(size=(2, 3, 4)).astype("float32")
    with asking(way):
        result = layer(x)
        shown = str(ostinato.explain(layer))
    assert seen == [PRECISION[way]]
    wanted = "float32" if way == "float32" else "bfloat16"
    assert keras.backend.standardize_dtype(result.dtype) == wanted
    assert f"{native.target()} in bfloat16, sums in float32" in shown


@pytest.mark.skipif(not HAS_KERNELS, reason="no kernels here")
@pytest.mark.parametrize("way", ["float16", "mixed_float16"])
def test_float16_is_converted_and_explain_says_so(way, seen):
    layer = layers.LSTM(3, dtype=way)
    layer(np.ones((2, 3, 4), "float32"))
    assert seen == [native.OF_TENSORS]
    assert f"{native.target()} in float32" in str(ostinato.explain(layer))


@pytest.mark.skipif(not HAS_KERNELS, reason="no kernels here")
def test_nothing_is_rounded_where_nobody_asked(seen):
    layer = layers.LSTM(3)
    x = np.ones((2, 3, 4), "float32")
    layer(x)
    with ostinato.use_precision("bfloat16"), ostinato.use_precision("float32"):
        layer(x)
    with ostinato.use_precision("bfloat16"):
        layers.LSTM(3, dtype="float64")(x) if BACKEND != "jax" else None
    assert set(seen) == {native.OF_TENSORS}
    assert " in " not in str(ostinato.explain(layer)).splitlines()[-1]


@in_kernels
def test_the_frameworks_own_settings_ask_for_it(seen):
    layer = layers.LSTM(3)
    x = np.ones((2, 3, 4), "float32")
    for setting in _settings():
        with setting:
            layer(x)
        with setting, ostinato.use_precision("float32"):
            layer(x)
    assert seen == [PRODUCTS, native.OF_TENSORS] * len(_settings())


class _Medium:
    def __enter__(self):
        import torch

        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")

    def __exit__(self, *error):
        import torch

        torch.set_float32_matmul_precision(self.before)


class _Option:
    def _set(self, value):
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options(
            {"auto_mixed_precision_onednn_bfloat16": value}
        )

    def __enter__(self):
        self._set(True)

    def __exit__(self, *error):
        self._set(False)


class _Precision:
    def __enter__(self):
        import jax

        self.context = jax.default_matmul_precision("bfloat16")
        self.context.__enter__()

    def __exit__(self, *error):
        self.context.__exit__(*error)


class _Autocast:
    def __enter__(self):
        import torch

        self.context = torch.autocast("cpu", torch.bfloat16)
        self.context.__enter__()

    def __exit__(self, *error):
        self.context.__exit__(*error)


def _settings():
    return {"torch": [_Medium(), _Autocast()], "tensorflow": [_Option()], "jax": [_Precision()]}[
        BACKEND
    ]


@pytest.mark.parametrize("way", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_error_stays_after_a_thousand_timesteps(kind, way):
    """What is rounded at each timestep doesn't add up: gates forget it. docs/numerics.md has it."""
    case = Case(kind.lower(), batch=4, time=1000, features=8, units=32)
    rng = cases.rng_of(case)
    x, weights = rounded(cases.make_inputs(rng, case)), cases.make_weights(rng, case)
    weights = reference.Weights(
        *map(rounded, (weights.kernel, weights.recurrent_kernel, weights.bias))
    )
    run = reference.run(case.options, weights, x, None, None)
    layer = getattr(layers, kind)(32, return_sequences=True, dtype=way)
    layer.build(x.shape)
    layer.set_weights(cases.weight_list(weights))
    with asking(way):
        got = keras.ops.convert_to_numpy(keras.ops.cast(layer(x.astype("float32")), "float32"))
    errors = np.abs(got - run.outputs).max(axis=(0, 2))
    assert errors[-100:].max() < (2e-2 if not HAS_KERNELS else 1e-2)
    assert errors[-100:].max() < 3 * errors[10:110].max()


_EXACT = {}  # the losses in float32


@elsewhere_in_long
@pytest.mark.parametrize("way", ["mixed_bfloat16", "float32"])
def test_two_hundred_steps_of_training_learn_what_float32_learns(way):
    """The sum of a sequence beyond a threshold: the loss goes down as it does in float32."""
    x = np.random.default_rng(0).normal(size=(640, 12, 3)).astype("float32")
    y = (x.sum(axis=(1, 2)) > 0).astype("float32")[:, None]

    def losses(dtype):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((12, 3)),
                layers.LSTM(16, dtype=dtype),
                keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
            ]
        )
        model.compile(optimizer=keras.optimizers.Adam(0.01), loss="binary_crossentropy")
        fitted = model.fit(x, y, epochs=20, batch_size=64, shuffle=False, verbose=0)
        return fitted.history["loss"]

    exact = _EXACT["losses"] = _EXACT.get("losses") or losses("float32")
    with asking(way):
        got = losses(way)
    assert exact[-1] < 0.2 * exact[0]
    assert np.abs(np.subtract(got, exact)).max() < 0.05 * exact[0]
    assert got[-1] < 0.2 * got[0]
