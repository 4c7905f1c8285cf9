"""JAX: which engine a program has that is traced before anybody knows what it's lowered for."""

import contextlib
import re
from itertools import product

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers, native
from support import sample

if keras.config.backend() != "jax":
    pytest.skip("JAX's door", allow_module_level=True)
if native.why_not() is not None:
    pytest.skip(native.why_not(), allow_module_level=True)

import jax
from jax.sharding import Mesh, PartitionSpec

X = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)


PROCESSES = ["a process of the GPU", "a process of the CPU"]


@pytest.fixture(params=sample(PROCESSES, PROCESSES[0]))
def _process(request, monkeypatch, with_cuda):
    if request.param == "a process of the GPU":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def built(make):
    layer = make()
    layer.build(X.shape)
    return layer


def step_of(layer, training=False, **call):
    """A loss and its gradients, with the variables that a step moves."""
    others = [v.value for v in layer.non_trainable_variables]

    def loss(weights, x):
        results, moved = layer.stateless_call(weights, others, x, training=training, **call)
        flat = jax.tree.leaves(results)
        waves = (np.cos(np.arange(y.size)).reshape(y.shape) for y in flat)
        return sum((y * wave).sum() for y, wave in zip(flat, waves, strict=True)), moved

    weights = [v.value for v in layer.trainable_variables]
    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), weights


def calls(traced, platform):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return re.findall(r"custom_call @((?:ostinato|cudnn)\w+)\(", text), "while" in text


@pytest.mark.usefixtures("_process")
@pytest.mark.parametrize(
    ("make", "on_cuda"),
    [
        (
            lambda: layers.LSTM(3, return_sequences=True, return_state=True),
            ["cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi"],
        ),
        (lambda: layers.Bidirectional(layers.LSTM(3)), ["cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi"]),
        (lambda: layers.GRU(3, return_sequences=True), []),
        (lambda: layers.RNN([layers.LSTMCell(3), layers.LSTMCell(3)]), 4),
        (lambda: layers.ConvLSTM1D(2, 2), None),
    ],
    ids=["lstm", "both ways", "gru", "stack", "convolution"],
)
def test_each_platform_has_its_engine(make, on_cuda):
    layer = built(make) if on_cuda is not None else make()
    x, call = (X, {"mask": MASK}) if on_cuda is not None else (X[..., None], {})
    layer.build(x.shape)
    both, weights = step_of(layer, **call)
    with ostinato.use_engine("scan"):
        wanted = jax.jit(lambda *a: both(*a))(weights, x)
    run = jax.jit(both)
    found = run(weights, x)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    traced = run.trace(weights, x)
    here, loops = calls(traced, "cpu")
    assert set(here) == {"ostinato_forward", "ostinato_backward"}
    assert not loops
    there, loops = calls(traced, "cuda")
    if isinstance(on_cuda, int):
        assert len(there) == on_cuda
    else:
        assert there == (on_cuda or [])
        assert loops is (not on_cuda)


def test_without_cuda_what_is_lowered_for_it_is_a_scan():
    both, weights = step_of(built(lambda: layers.LSTM(3)))
    traced = jax.jit(both).trace(weights, X)
    assert calls(traced, "cuda") == ([], True)
    assert calls(traced, "cpu") == (["ostinato_forward", "ostinato_backward"], False)


@pytest.mark.usefixtures("_process")
def test_seeds_move_once_and_dropout_is_the_same_everywhere():
    layer = built(lambda: layers.LSTM(3, dropout=0.4, recurrent_dropout=0.3, seed=1))
    both, weights = step_of(layer, training=True)
    with ostinato.use_engine("scan"):
        wanted = jax.jit(lambda *a: both(*a))(weights, X)
    run = jax.jit(both)
    found = run(weights, X)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert "ostinato_forward" in calls(run.trace(weights, X), "cpu")[0]
    plain = built(lambda: layers.LSTM(3, seed=1))
    jax.jit(lambda x: plain(x))(X)
    for each in (*layer.variables, *plain.variables):  # no tracer has stayed
        np.asarray(each.value)


@pytest.mark.parametrize(
    ("_process", "make"),
    sample(
        [*product(PROCESSES, [layers.LSTM, layers.GRU])],
        *[(PROCESSES[0], layers.LSTM), (PROCESSES[1], layers.GRU)],
    ),
    indirect=["_process"],
)
@pytest.mark.usefixtures("_process")
def test_jax_s_transformations_see_through_the_choice(make):
    layer = built(lambda: make(3))
    both, weights = step_of(layer)
    many = np.stack([X, -X])

    def loss(x):
        return both(weights, x)[0][0]

    def transformed():
        mapped = jax.jit(jax.vmap(jax.grad(loss)))(many)
        again = jax.jit(jax.grad(jax.checkpoint(loss)))(X)
        twice = jax.jit(jax.grad(lambda x: (jax.grad(loss)(x) ** 2).sum()))(X)
        pushed = jax.jit(lambda x, t: jax.jvp(loss, (x,), (t,)))(X, np.cos(X))
        scanned = jax.jit(lambda x: jax.lax.scan(lambda c, row: (c + loss(row), 0), 0.0, x))(many)
        return mapped, again, twice, pushed, scanned, jax.grad(loss)(X)

    with ostinato.use_engine("scan"):
        wanted = transformed()
    for one, other in zip(jax.tree.leaves(transformed()), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


class Leaky(keras.layers.Layer):
    """A cell of one's own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1] + self.units, self.units), name="kernel")

    def call(self, x, states):
        joined = keras.ops.concatenate([x, states[0]], axis=-1)
        h = 0.5 * states[0] + keras.ops.tanh(joined @ self.kernel)
        return h, [h]


def over_a_mesh(layer, training=False, **call):
    """`step_of`'s, of rows over a mesh: weights are the same everywhere, and so their gradients."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))
    rows, same = PartitionSpec("rows"), PartitionSpec()

    def run(weights, x, call):
        (loss, moved), gradients = step_of(layer, training, **call)[0](weights, x)
        return loss[None], gradients, moved

    out = (rows, (same, rows), same)
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(same, rows, rows), out_specs=out)
    return jax.jit(lambda weights, x: mapped(weights, x, call)), step_of(layer)[1]


H = np.random.default_rng(1).normal(size=(2, 3)).astype("float32")


@pytest.mark.usefixtures("_process")
@pytest.mark.parametrize(
    ("make", "call"),
    [
        (lambda: layers.LSTM(3, return_state=True), {"mask": MASK}),
        (lambda: layers.GRU(3, return_sequences=True, go_backwards=True), {"mask": MASK}),
        (lambda: layers.SimpleRNN(3), {"initial_state": [H]}),
        (lambda: layers.GRU(3, truncate=2), {"resets": MASK, "fresh_state": [H]}),
        (lambda: layers.Bidirectional(layers.GRU(3, reset_after=False)), {}),
        (lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(3)]), {"mask": MASK}),
        (lambda: layers.RNN(Leaky(3), return_sequences=True), {"mask": MASK}),
    ],
    ids=["lstm", "gru", "simple rnn", "resets", "both ways", "stack", "own"],
)
def test_a_map_over_a_mesh_has_the_choice_within(make, call):
    run, weights = over_a_mesh(layer := built(make), **call)
    with ostinato.use_engine("scan"):
        wanted = jax.jit(step_of(layer, **call)[0])(weights, X)
    loss, gradients, _ = run(weights, X)
    np.testing.assert_allclose(loss[0], wanted[0][0], rtol=0, atol=1e-5)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    here, loops = calls(run.trace(weights, X), "cpu")
    assert {name.rpartition("_")[2] for name in here} == {"forward", "backward"}
    assert not loops


def test_a_map_over_a_mesh_takes_engines_that_are_loops():
    for engine, make in (("scan", layers.GRU), ("cudnn", layers.LSTM), ("scan", layers.LSTM)):
        layer = built(lambda make=make: make(3, return_sequences=True))
        with ostinato.use_engine("scan"):
            wanted = jax.jit(step_of(layer, mask=MASK)[0])(step_of(layer)[1], X)
        with ostinato.use_engine(engine):
            run, weights = over_a_mesh(layer, mask=MASK)
            _, gradients, _ = run(weights, X)
        for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted[1]), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: layers.RNN(Leaky(3)), lambda: layers.LSTM(3)])
def test_no_timesteps_at_all_in_a_map_over_a_mesh(make):
    rows = PartitionSpec("rows")
    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))
    layer = built(make)
    with ostinato.use_engine("scan"):
        found = jax.shard_map(layer, mesh=mesh, in_specs=rows, out_specs=rows)(X[:, :0])
    np.testing.assert_array_equal(found, np.zeros((len(X), 3), "float32"))


def test_seeds_stay_the_same_everywhere_in_a_map_over_a_mesh():
    """A cell of one's own that draws: the loop carries its seed, and rows don't change that."""

    class Noisy(Leaky):
        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)
            self.drop = keras.layers.Dropout(0.5, seed=1)

        def call(self, x, states, training=False):
            return super().call(self.drop(x, training=training), states)

    run, weights = over_a_mesh(layer := built(lambda: layers.RNN(Noisy(3))), training=True)
    (loss, moved), gradients = jax.jit(step_of(layer, training=True)[0])(weights, X)
    found = run(weights, X)
    (seed,) = moved
    assert seed.dtype == "uint32"
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(([loss], gradients, moved)), strict=True
    ):
        np.testing.assert_allclose(one, other.reshape(one.shape), rtol=0, atol=1e-5)


@pytest.mark.parametrize("_process", PROCESSES, indirect=True)
@pytest.mark.usefixtures("_process")
def test_an_export_for_several_platforms_needs_nothing_of_ours():
    layer = built(lambda: layers.LSTM(3))
    exported = jax.export.export(jax.jit(lambda x: layer(x)), platforms=["cuda", "cpu"])(X)
    assert "custom_call" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(X), layer(X), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_process")
def test_what_is_asked_for_is_asked_for_everywhere():
    layer = built(lambda: layers.LSTM(3))
    both, weights = step_of(layer)
    for engine in ("scan", "cudnn"):
        with ostinato.use_engine(engine):
            traced = jax.jit(lambda *a: both(*a)).trace(weights, X)
        assert calls(traced, "cpu") == ([], True)
        assert bool(calls(traced, "cuda")[0]) is (engine == "cudnn")


@pytest.mark.usefixtures("with_cuda")
def test_a_device_that_is_set_comes_first(monkeypatch):
    from ostinato.doors import door

    asked = []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for context in (contextlib.nullcontext(), jax.default_device(jax.devices("cpu")[0])):
        with context:
            jax.jit(lambda x: asked.append(door.may_be_lowered_for(x)) or x)(X)
    assert asked == [("cuda", "cpu"), ("cpu", "cuda")]
    assert door.may_be_lowered_for(jax.numpy.asarray(X)) == ()  # it's on the CPU
