"""Functions that the core has formulas of its own for, in float32 beside NumPy's in float64."""

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato import native
from ostinato.layers import RNN

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason="no native engine")

N = 5000
RNG = np.random.default_rng(0)
WIDE = RNG.uniform(-20, 20, N)
SMALL = 10.0 ** RNG.uniform(-20, 0, N)
LARGE = -(10.0 ** RNG.uniform(0, 30, N))
POSITIVE = 10.0 ** RNG.uniform(-3, 3, N)
# Of the value; of the sine and cosine, which are zero where their argument isn't exact, of one.
TOLERANCE = 3e-7
CASES = {
    "sin": (ops.sin, np.sin, (WIDE, SMALL, RNG.uniform(-8e3, 8e3, N), RNG.uniform(-1e6, 1e6, N))),
    "cos": (ops.cos, np.cos, (WIDE, SMALL, RNG.uniform(-8e3, 8e3, N))),
    "arcsinh": (ops.arcsinh, np.arcsinh, (WIDE, SMALL, LARGE)),
    "log": (ops.log, np.log, (POSITIVE,)),
    "power": (lambda x: ops.power(x, 0.75), lambda x: x**0.75, (POSITIVE,)),
    "square root": (lambda x: ops.power(x, 0.5), np.sqrt, (POSITIVE,)),
    "inverse": (lambda x: ops.power(x, -1.0), lambda x: 1 / x, (POSITIVE,)),
}


class Function(keras.layers.Layer):
    """A cell that puts out a function of its input."""

    def __init__(self, function):
        super().__init__()
        self.function, self.state_size, self.output_size = function, 1, 1

    def call(self, inputs, states):
        return self.function(inputs), [states[0]]


@pytest.mark.parametrize("name", CASES)
def test_functions_are_exact(name):
    function, reference, samples = CASES[name]
    layer = RNN(Function(function), return_sequences=True)
    for sample in samples:
        x = sample.astype("float32")
        with ostinato.use_engine("compiled"):
            got = ops.convert_to_numpy(layer(x[None, :, None]))[0, :, 0]
        expected = reference(x.astype("float64"))
        size = 1.0 if name in ("sin", "cos") and np.abs(x).max() > 1 else np.abs(expected)
        assert (np.abs(got - expected) <= TOLERANCE * size).all()
