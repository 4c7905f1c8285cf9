"""Dropout masks that the native engine draws: the very numbers of `keras.random.dropout`."""

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato import native
from ostinato.doors import door
from ostinato.layers import GRU, LSTM, Bidirectional
from support import crossed

HERE = keras.config.backend()
pytestmark = [
    pytest.mark.skipif(HERE != "jax", reason="other backends' own numbers are quick"),
    pytest.mark.skipif(bool(native.why_not()), reason="no native engine"),
]


def drawn_by_keras(generator, count, shape, rate, dtype):
    ones = ops.ones(shape, dtype)
    return [keras.random.dropout(ones, rate, seed=generator) for _ in range(count)]


def as_floats(masks):
    return np.stack([np.asarray(mask, "float32") for mask in masks])


@pytest.mark.parametrize(
    ("dtype", "rate", "drawn"),
    crossed(
        ["float32", "bfloat16", "float16"],
        [0.1, 0.25, 0.3, 0.5, 0.9, 1e-9, 1 - 1e-7],
        [(1, (3, 5)), (4, (7, 33)), (3, (2, 3, 4))],
    ),
)
def test_masks_are_those_of_keras(dtype, rate, drawn):
    count, shape = drawn
    ours, theirs = (keras.random.SeedGenerator(7) for _ in range(2))
    for _ in range(2):
        drawn = door.dropout_masks(ours, count, shape, rate, dtype)
        expected = drawn_by_keras(theirs, count, shape, rate, dtype)
        assert all(mask.dtype == dtype for mask in drawn)
        np.testing.assert_array_equal(as_floats(drawn), as_floats(expected))


def test_masks_under_transformations():
    import jax

    def masks(draw):
        def run(state):
            generator = keras.random.SeedGenerator(1)
            with keras.StatelessScope(state_mapping=[(generator.state, state)]):
                return jax.numpy.stack(draw(generator, 2, (4, 6), 0.4, "float32"))

        return run

    ours, theirs = masks(door.dropout_masks), masks(drawn_by_keras)
    seeds = jax.numpy.arange(6, dtype="uint32").reshape(3, 2)
    np.testing.assert_array_equal(jax.jit(jax.vmap(ours))(seeds), jax.vmap(theirs)(seeds))

    def loss(x, seed):
        return (ours(seed) * x).sum()

    slope = jax.jit(jax.grad(loss))(2.0, seeds[1])
    np.testing.assert_allclose(slope, theirs(seeds[1]).sum(), rtol=1e-6)
    _, tangent = jax.jvp(lambda x: loss(x, seeds[1]), (2.0,), (1.0,))
    np.testing.assert_allclose(tangent, slope, rtol=1e-6)
    # and none of it is in a program for elsewhere
    exported = jax.export.export(jax.jit(ours), platforms=["cuda"])(seeds[0])
    assert "ostinato_draw" not in exported.mlir_module()


def test_numbers_of_another_kind_are_left_to_jax():
    import jax

    generator = keras.random.SeedGenerator(3)
    before = np.asarray(generator.state)
    with jax.threefry_partitionable(False):
        assert door.dropout_masks(generator, 2, (3, 4), 0.5, "float32") is None
    assert door.dropout_masks(generator, 2, (3, 4), 0.5, "float64") is None
    np.testing.assert_array_equal(np.asarray(generator.state), before)


@pytest.mark.parametrize("make", [
    lambda: LSTM(5, dropout=0.3, recurrent_dropout=0.2, seed=4),
    lambda: GRU(5, recurrent_dropout=0.4, seed=4),
    lambda: Bidirectional(LSTM(5, dropout=0.3, seed=4)),
])  # fmt: skip
def test_a_fit_learns_the_same_on_either_engine(make):
    def history(engine):
        keras.utils.set_random_seed(2)
        with ostinato.use_engine(engine):
            model = keras.Sequential([keras.layers.Input((6, 3)), make(), keras.layers.Dense(1)])
            model.compile(optimizer="sgd", loss="mse")
            rng = np.random.default_rng(0)
            x, y = rng.normal(size=(16, 6, 3)), rng.normal(size=(16, 1))
            return model.fit(x, y, batch_size=8, epochs=3, verbose=0).history["loss"]

    np.testing.assert_allclose(history("fused"), history("scan"), rtol=1e-5)
