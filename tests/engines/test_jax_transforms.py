"""JAX's transformations of the portable engine, whose scan has a derivative of its own."""

import keras
import numpy as np
import pytest

from engines.cases import assert_near
from ostinato import layers, use_engine

if keras.config.backend() != "jax":
    pytest.skip("transformations of JAX", allow_module_level=True)

import jax

from support import in_turn

B, T, D, U = 2, 5, 3, 4
MASK = np.arange(T) < np.array([[3], [5]])
LAYERS = {
    "simple_rnn": lambda **options: layers.SimpleRNN(U, **options),
    "lstm": lambda **options: layers.LSTM(U, **options),
    "gru": lambda **options: layers.GRU(U, **options),
    "gru_reset_before": lambda **options: layers.GRU(U, reset_after=False, **options),
    "dropout": lambda **options: layers.LSTM(
        U, dropout=0.3, recurrent_dropout=0.3, seed=1, implementation=1, **options
    ),
}


@pytest.fixture(autouse=True)
def portable():
    """Everything here is about the portable engine, in double precision."""
    with use_engine("scan"), jax.enable_x64(True):
        yield


def loss_of(name, masked, **options):
    """A layer's loss as a function of its weights and inputs, and a point."""
    layer = LAYERS[name](return_sequences=True, dtype="float64", **options)
    layer.build((B, T, D))
    draw = np.random.default_rng(0).normal
    point = (
        [jax.numpy.asarray(draw(size=v.shape)) for v in layer.trainable_variables],
        jax.numpy.asarray(draw(size=(B, T, D))),
    )
    others = [v.value for v in layer.non_trainable_variables]
    coefficients = draw(size=(B, T, U))

    def loss(weights, x):
        mask = MASK if masked else None
        ys, _ = layer.stateless_call(weights, others, x, mask=mask, training=True)
        return (ys * coefficients).sum()

    return loss, point


def dot(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return np.asarray(sum(float((a * b).sum()) for a, b in pairs))


def random_like(point):
    draw = np.random.default_rng(1).normal
    return jax.tree.map(lambda a: jax.numpy.asarray(draw(size=a.shape)), point)


every_layer = pytest.mark.parametrize("name", LAYERS)
layers_and_masks = pytest.mark.parametrize(("name", "masked"), in_turn([*LAYERS], [False, True]))


@layers_and_masks
def test_gradients_are_those_of_the_steps_one_by_one(name, masked):
    loss, point = loss_of(name, masked)
    scanned = jax.jit(jax.grad(loss, argnums=(0, 1)))(*point)
    stepped = jax.grad(loss, argnums=(0, 1))(*point)  # outside jit there is no scan
    assert_near(jax.tree.leaves(scanned), jax.tree.leaves(stepped), 1e-13, "gradients")


@layers_and_masks
def test_forward_and_reverse_mode_agree(name, masked):
    loss, point = loss_of(name, masked)
    direction = random_like(point)
    _, slope = jax.jit(lambda p, d: jax.jvp(loss, p, d))(point, direction)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(*point)
    assert_near([slope], [dot(gradient, direction)], 1e-12, "slope")


@every_layer
def test_second_derivatives(name):
    loss, point = loss_of(name, masked=True)
    direction = random_like(point)
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    of_reverse = jax.jit(lambda p, d: jax.jvp(lambda *p: jax.grad(loss, (0, 1))(*p), p, d)[1])
    step = 1e-5
    ahead, behind = (
        gradient(*jax.tree.map(lambda p, d, s=sign: p + s * step * d, point, direction))
        for sign in (1, -1)
    )
    expected = jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind)
    found = of_reverse(point, direction)
    assert_near(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-7, "second derivatives")


@every_layer
def test_vmap_over_weights_is_one_by_one(name):
    loss, (weights, x) = loss_of(name, masked=True)
    several = jax.tree.map(lambda w: jax.numpy.stack([w, 0.5 * w, -w]), weights)
    gradient = jax.grad(loss)
    together = jax.jit(jax.vmap(gradient, (0, None)))(several, x)
    for index in range(3):
        alone = jax.jit(gradient)([w[index] for w in several], x)
        assert_near([g[index] for g in together], alone, 1e-13, f"gradients of {index}")


@pytest.mark.parametrize("frozen", ["weights", "inputs"])
def test_what_is_not_differentiated_changes_nothing(frozen):
    loss, point = loss_of("gru", masked=True)
    both = jax.jit(jax.grad(loss, argnums=(0, 1)))(*point)
    place = 1 if frozen == "weights" else 0
    alone = jax.jit(jax.grad(loss, argnums=place))(*point)
    assert_near(jax.tree.leaves(alone), jax.tree.leaves(both[place]), 1e-13, "gradients")


@pytest.mark.parametrize("unroll", [False, True])
def test_checkpoint_and_unroll_change_nothing(unroll):
    plain, point = loss_of("lstm", masked=True)
    other, _ = loss_of("lstm", masked=True, unroll=unroll)
    expected = jax.jit(jax.grad(plain, argnums=(0, 1)))(*point)
    found = jax.jit(jax.grad(jax.checkpoint(other), argnums=(0, 1)))(*point)
    assert_near(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-13, "gradients")


def test_an_activation_with_weights_gets_its_gradient():
    """What a step closes over is differentiated too, and not only what `affine` is given."""
    steepness = {}
    activation = lambda z: jax.numpy.tanh(steepness["value"] * z)  # noqa: E731
    layer = layers.SimpleRNN(U, activation=activation, dtype="float64", seed=1)
    layer.build((B, T, D))
    weights = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]
    x = np.random.default_rng(0).normal(size=(B, T, D))

    def loss(value):
        steepness["value"] = value
        return layer.stateless_call(weights, others, x)[0].sum()

    slope = jax.grad(loss)
    at = jax.numpy.asarray(0.7)
    assert_near([jax.jit(slope)(at)], [slope(at)], 1e-13, "slope")
