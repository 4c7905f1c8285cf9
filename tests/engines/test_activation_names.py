"""The functions that the kernel knows: by Keras's names, and only where it's the same function."""

import keras
import numpy as np
import pytest

from ostinato import native
from ostinato.engines.activations import activation_name

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
NAMES = native.activation_names() if native.why_not() is None else ()


def test_every_activation_of_the_core_is_keras():
    assert len(set(NAMES)) == len(NAMES)
    for name in NAMES:
        assert keras.activations.get(name).__name__ == name


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(keras.ops, name)])
def test_a_function_of_keras_ops_is_known_only_if_it_is_the_activation(name):
    """keras.ops.gelu is the approximation by default, keras.activations.gelu the exact function."""
    operation, activation = getattr(keras.ops, name), getattr(keras.activations, name)
    if name in ("tanh", "sigmoid", "relu"):
        assert activation_name(operation) == name
    if activation_name(operation) is not None:
        z = np.linspace(-9, 9, 101, dtype="float32")
        mine, theirs = (keras.ops.convert_to_numpy(f(z)) for f in (operation, activation))
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)
