"""On JAX, what the native engine's kernels can't do: forward mode, second derivatives, exports."""

import keras
import numpy as np
import pytest

from engines.cases import assert_near
from engines.gradients import double_precision
from ostinato import layers, native, use_engine

if keras.config.backend() != "jax":
    pytest.skip("transformations of JAX", allow_module_level=True)
if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)

import jax
import jax.export
from jax import numpy as jnp

B, T, D, U = 2, 5, 3, 4
MASK = np.arange(T) < np.array([[3], [5]])
F64 = {"dtype": "float64"}
LAYERS = {
    "simple_rnn": lambda: layers.SimpleRNN(U, "silu", return_sequences=True, **F64),
    "lstm": lambda: layers.LSTM(U, "gelu", return_state=True, go_backwards=True, **F64),
    "gru": lambda: layers.GRU(
        U, return_sequences=True, zero_output_for_mask=True, go_backwards=True, **F64
    ),
    "dropout": lambda: layers.GRU(
        U, reset_after=False, dropout=0.3, recurrent_dropout=0.3, seed=1, implementation=1, **F64
    ),
    "bidirectional": lambda: layers.Bidirectional(
        layers.LSTM(U, return_sequences=True, use_bias=False, **F64), **F64
    ),
    "stack": lambda: layers.RNN(
        [layers.LSTMCell(U, **F64), layers.GRUCell(U, dropout=0.2, seed=1, **F64)], **F64
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


@pytest.fixture(autouse=True)
def double():
    with double_precision():
        yield


def loss_of(name):
    """A layer's loss as a function of its weights and inputs, and a point."""
    layer = LAYERS[name]()
    layer.build((B, T, D))
    draw = np.random.default_rng(0).normal
    weights = [jnp.asarray(draw(size=v.shape)) for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]

    def loss(weights, x):
        ys, _ = layer.stateless_call(weights, others, x, mask=MASK, training=True)
        flat = jax.tree.leaves(ys)
        return sum((y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum() for y in flat)

    return loss, (weights, jnp.asarray(draw(size=(B, T, D))))


def on_both(function, *args):
    """What a function gives on the native engine, and on the portable one."""

    def run(*args):  # another function each time, or JAX would take what it has traced
        return function(*args)

    found = jax.tree.leaves(jax.jit(run)(*args))
    with use_engine("scan"):
        return found, jax.tree.leaves(jax.jit(lambda *args: function(*args))(*args))


def jvp(loss):
    return lambda point, along: jax.jvp(loss, point, along)


def linearized(loss):
    return lambda point, along: jax.linearize(loss, *point)[1](*along)


def jacobian(loss):
    return lambda point, along: jax.jacfwd(loss, 1)(*point)


def mapped(loss):
    def run(point, along):
        (weights, x), (_, direction) = point, along
        slope = lambda x, d: jax.jvp(lambda x: loss(weights, x), (x,), (d,))  # noqa: E731
        return jax.vmap(slope)(jnp.stack([x, 2 * x]), jnp.stack([direction, -x]))

    return run


def hessian(loss):
    return lambda point, along: jax.hessian(loss, 1)(*point)


def forward_over_reverse(loss):
    return lambda point, along: jax.jvp(jax.grad(loss, (0, 1)), point, along)[1]


def reverse_over_reverse(loss):
    def penalty(weights, x):
        return sum((g**2).sum() for g in jax.tree.leaves(jax.grad(loss, (0, 1))(weights, x)))

    return lambda point, along: jax.grad(penalty, (0, 1))(*point)


def reverse_over_forward(loss):
    return lambda point, along: jax.grad(lambda p: jax.jvp(loss, p, along)[1])(point)


def in_a_loop(loss):
    def run(point, along):
        def body(carry, _):
            value, slope = jax.jvp(loss, point, along)
            return (carry[0] + value, carry[1] + slope), None

        return jax.lax.scan(body, (0.0, 0.0), None, 2)[0]

    return run


DERIVATIVES = [jvp, linearized, jacobian, mapped, in_a_loop, hessian]
DERIVATIVES += [forward_over_reverse, reverse_over_reverse, reverse_over_forward]


@pytest.mark.parametrize("derivative", DERIVATIVES, ids=lambda f: f.__name__)
def test_derivatives(derivative):
    loss, point = loss_of("gru")
    draw = np.random.default_rng(1).normal
    along = jax.tree.map(lambda a: jnp.asarray(draw(size=a.shape)), point)
    assert_near(*on_both(derivative(loss), point, along), 1e-10, derivative.__name__)


@every_layer
def test_forward_and_reverse_mode_agree(name):
    loss, point = loss_of(name)
    draw = np.random.default_rng(1).normal
    along = jax.tree.map(lambda a: jnp.asarray(draw(size=a.shape)), point)
    value, slope = jax.jvp(loss, point, along)  # outside jit
    gradient = jax.grad(loss, (0, 1))(*point)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(along), strict=True)
    assert_near([value], [loss(*point)], 1e-12, "value")
    assert_near([slope], [sum((g * d).sum() for g, d in pairs)], 1e-10, "slope")


def test_forward_mode_of_a_cell_of_functions_that_keras_computes_in_float32():
    class Leaky(keras.layers.Layer):
        state_size = output_size = D

        def call(self, inputs, states):
            h = keras.ops.tanh(inputs + 0.5 * states[0])
            return h, [h]

    layer = layers.RNN(Leaky(**F64), **F64)
    x, along = (jnp.asarray(np.random.default_rng(i).normal(size=(B, T, D))) for i in range(2))
    with use_engine("compiled"):
        value, pull = jax.vjp(layer, x)
        found = jax.jvp(layer, (x,), (along,))
    assert_near(found[:1], [value], 1e-6, "value")
    slope = (pull(jnp.ones_like(value))[0] * along).sum()
    assert_near([found[1].sum()], [slope], 1e-6, "slope")


@pytest.mark.parametrize("name", ["dropout", "bidirectional"])
def test_what_is_exported_is_plain_jax(name):
    """Values and gradients, for a symbolic batch too; the program names nothing of ours."""
    loss, (weights, x) = loss_of(name)
    both = jax.jit(jax.value_and_grad(loss, 1))
    exported = jax.export.export(both)(weights, x)
    assert "@ostinato" not in exported.mlir_module()
    again = jax.export.deserialize(exported.serialize(vjp_order=1))
    assert_near(
        jax.tree.leaves(again.call(weights, x)), jax.tree.leaves(both(weights, x)), 1e-10, name
    )
    assert "@ostinato_forward" in both.lower(weights, x).as_text()  # in this process, kernels


def test_exports_for_any_batch_and_for_other_platforms():
    layer = layers.LSTM(U, return_sequences=True)
    layer.build((None, T, D))
    weights = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]
    run = jax.jit(lambda weights, x: layer.stateless_call(weights, others, x)[0])
    (batch,) = jax.export.symbolic_shape("batch")
    like = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), weights)
    exported = jax.export.export(run, platforms=["cpu", "tpu", "cuda"])(
        like, jax.ShapeDtypeStruct((batch, T, D), "float32")
    )
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, T, D)), "float32")
    assert_near([exported.call(weights, x)], [run(weights, x)], 1e-6, "outputs")
    text = run.trace(weights, x).lower(lowering_platforms=("tpu",)).as_text()
    assert "@ostinato" not in text
