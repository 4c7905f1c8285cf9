"""Where the backend's own loop is as fast as the core, the plan leaves small cells to it."""

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato import native
from ostinato.doors import door
from ostinato.layers import RNN

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason="no native engine")


class Charge(keras.layers.Layer):
    """A simulation: a number a row, and no product."""

    state_size = output_size = 1

    def call(self, inputs, states):
        flow = ops.tanh(inputs[:, :1]) * ops.sqrt(ops.abs(states[0]) + 1.0)
        new = states[0] + 0.1 * ops.sum(flow * ops.exp(-inputs), axis=-1, keepdims=True)
        return new, [new]


def engine_for(rows, training=False):
    layer = RNN(Charge())
    x = np.ones((rows, 5, 3), "float32")
    got = ops.convert_to_numpy(layer(x, training=training))
    with ostinato.use_engine("scan"):
        np.testing.assert_allclose(got, ops.convert_to_numpy(layer(x)), rtol=1e-5)
    with ostinato.use_engine("compiled"):
        np.testing.assert_allclose(got, ops.convert_to_numpy(layer(x)), rtol=1e-5)
    (row,) = ostinato.explain(layer)
    return row


def test_a_row_of_a_small_cell_is_left_to_a_compiled_loop():
    row = engine_for(1)
    if door.COMPILES_LOOPS:
        assert row.engine == "scan"
        assert "the backend's own loop is as fast for so small a cell and a batch of one" in (
            row.why_not_faster
        )
    else:
        assert row.engine == "compiled"


def test_a_batch_is_compiled():
    assert engine_for(64).engine == "compiled"
