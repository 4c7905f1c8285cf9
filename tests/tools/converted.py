"""A trained model, and whether one made of it gives the same and trains on alike."""

import keras
import numpy as np
import zoo
from keras import ops, tree

# TensorFlow takes seconds to trace what Keras's layers do in a step of training: more than all of
# these few steps. Layers in graphs have tests of their own.
EAGERLY = keras.config.backend() == "tensorflow"


def close(actual, expected, tolerance=2e-5):
    actual, expected = tree.flatten(actual), tree.flatten(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        a, b = (ops.convert_to_numpy(ops.cast(t, "float32")) for t in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def trained(make, steps=2, **options):
    model = make()
    x, y = zoo.batches(model)
    y = y if len(y) > 1 else y[0]
    # Adam divides by a gradient's size: with its default epsilon, rounding errors of a gradient
    # that is nothing but rounding errors become whole steps.
    adam = keras.optimizers.Adam(epsilon=1e-3)
    model.compile(**{"optimizer": adam, "loss": "mse", "run_eagerly": EAGERLY, **options})
    model.fit(x, y, epochs=steps, verbose=0, shuffle=False)
    return model, x, y


def train_on(model, x, y, steps=2):
    """What `fit` returns of some more steps."""
    return model.fit(x, y, epochs=steps, verbose=0, shuffle=False).history


def assert_same_training(model, other, x, y, steps=2, tolerance=2e-5):
    """Both train on, with the same losses, and end with the same weights and optimizer."""
    expected, got = (train_on(m, x, y, steps) for m in (model, other))
    assert_trained_alike(model, other, expected, got, tolerance)


def assert_trained_alike(model, other, expected, got, tolerance=2e-5):
    """Two models have trained with the same losses, to the same weights and optimizer."""
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    close(other.get_weights(), model.get_weights(), tolerance)
    state = [[v.value for v in m.optimizer.variables] for m in (model, other)]
    close(state[1], state[0], 1e-3)
