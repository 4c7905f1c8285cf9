"""What docs/numerics.md says of NaN and infinity, where the page's own code can't show it."""

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers, native

pytestmark = [
    pytest.mark.skipif(keras.config.backend() != "torch", reason="one backend is enough"),
    pytest.mark.skipif(native.why_not() is not None, reason="it's about the native kernels"),
]
KINDS = ("LSTM", "GRU", "SimpleRNN")
PADDING = {"right": slice(2, None), "left": slice(0, 3)}


def spoilt_gradients(layer, masked):
    """Which gradients have a NaN: x's and each weight's, where a masked timestep's input is one."""
    import torch

    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    x[1, 2, 0] = np.nan
    mask = np.ones((3, 5), bool)
    mask[1, masked] = False
    x = torch.tensor(x, requires_grad=True)
    layer.build(x.shape)
    weights = [variable.value for variable in layer.trainable_variables]
    y = layer(x, mask=torch.tensor(mask))
    assert not y.isnan().any()
    gradients = torch.autograd.grad(y.sum(), [x, *weights])
    return [bool(gradient.isnan().any()) for gradient in gradients]


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_padding_reaches_no_gradient(kind):
    for masked in PADDING.values():
        layer = getattr(layers, kind)(4, return_sequences=True)
        assert spoilt_gradients(layer, masked) == [False] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_a_hole_reaches_the_kernel_alone(kind):
    layer = getattr(layers, kind)(4, return_sequences=True)
    assert spoilt_gradients(layer, slice(2, 3)) == [False, True, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_padding_reaches_all_gradients_elsewhere(kind):
    theirs = getattr(keras.layers, kind)(4, return_sequences=True)
    assert spoilt_gradients(theirs, slice(2, None)) == [True] * 4
    with ostinato.use_engine("scan"):
        ours = getattr(layers, kind)(4, return_sequences=True)
        assert spoilt_gradients(ours, slice(2, None)) == [True] * 4


def test_infinity_saturates():
    x = np.array([np.inf, -np.inf, -88], "float32").reshape(3, 1, 1)
    for activation, wanted in (("tanh", [1, -1, -1]), ("sigmoid", [1, 0, 0])):
        layer = layers.SimpleRNN(1, activation=activation)
        layer.build(x.shape)
        layer.set_weights([np.ones((1, 1)), np.zeros((1, 1)), np.zeros(1)])
        got = keras.ops.convert_to_numpy(layer(x)).ravel()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-38)
