"""Dtype policies."""

from itertools import product

import keras
import numpy as np
import pytest
from keras import ops

from ostinato.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    GRUCell,
    LSTMCell,
    SimpleRNN,
    SimpleRNNCell,
)
from support import CellOfUnits, array, assert_close, numpy, sample

X = array(0, 3, 5, 4)
MAKERS = {
    "LSTM": lambda **k: LSTM(6, **k),
    "GRU": lambda **k: GRU(6, **k),
    "SimpleRNN": lambda **k: SimpleRNN(6, **k),
    "RNN": lambda dtype, **k: RNN(
        [LSTMCell(6, dtype=dtype), GRUCell(6, dtype=dtype)], dtype=dtype, **k
    ),
    "Bidirectional": lambda dtype, **k: Bidirectional(LSTM(3, dtype=dtype, **k), dtype=dtype),
}
HALF = ["bfloat16", "float16"]
# Each `fit` is a program to compile: there each layer, and each dtype, at least once.
EVERY_POLICY = sample(
    [*product(MAKERS, ["mixed_bfloat16", "mixed_float16", "float64"])],
    *[("LSTM", "mixed_float16"), ("GRU", "mixed_bfloat16"), ("SimpleRNN", "float64")],
    *[("RNN", "mixed_bfloat16"), ("Bidirectional", "mixed_float16")],
)
EACH_HALF = sample(
    [*product(MAKERS, HALF)],
    *[("LSTM", "bfloat16"), ("GRU", "float16"), ("RNN", "float16"), ("Bidirectional", "bfloat16")],
)


@pytest.mark.parametrize(("kind", "policy"), EVERY_POLICY)
def test_every_policy_computes_and_trains(kind, policy):
    if policy == "float64" and keras.config.backend() == "jax":
        import jax

        with jax.enable_x64(True):
            return check_policy(kind, policy)
    return check_policy(kind, policy)


def check_policy(kind, policy):
    layer = MAKERS[kind](dtype=policy, return_sequences=True)
    mask = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 0, 0, 0]], bool)
    output = layer(X, mask=mask)
    compute = keras.dtype_policies.get(policy).compute_dtype
    assert keras.backend.standardize_dtype(output.dtype) == compute
    assert {w.dtype for w in layer.weights} == {keras.dtype_policies.get(policy).variable_dtype}
    reference = MAKERS[kind](dtype="float32", return_sequences=True)
    reference.build(X.shape)
    reference.set_weights(layer.get_weights())
    difference = numpy(output).astype("float32") - numpy(reference(X, mask=mask))
    assert np.abs(difference).max() < {"float64": 1e-6}.get(policy, 0.05)
    model = keras.Sequential([keras.Input((None, 4)), layer])
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    losses = model.fit(X, array(1, 3, 5, 6), epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0]


def test_integer_inputs_are_taken_as_floats_by_built_in_cells():
    layer = LSTM(3)
    x = np.arange(24).reshape(2, 3, 4) % 3
    assert np.abs(numpy(layer(x)) - numpy(layer(x.astype("float32")))).max() < 1e-6


def test_integer_inputs_stay_integers_for_other_cells():
    class Lookup(keras.layers.Layer):
        state_size = 2
        output_size = 2

        def build(self, input_shape):
            self.table = self.add_weight(shape=(5, 2), name="table")

        def call(self, inputs, states):
            row = keras.ops.take(self.table, inputs[:, 0], axis=0)
            return row + states[0], [row + states[0]]

    layer = RNN(Lookup())
    tokens = np.array([[[1], [2], [4]]], "int32")
    output = numpy(layer(tokens))
    assert np.abs(output - numpy(layer.cell.table.value)[[1, 2, 4]].sum(0)).max() < 1e-6


INITIALIZERS = {
    "orthogonal": "orthogonal",
    "truncated normal": keras.initializers.VarianceScaling(2.0, distribution="truncated_normal"),
    "identity": keras.initializers.Identity(),
    "a function": lambda shape, dtype: keras.ops.full(shape, 0.1234567, dtype),
}


def as_float32(tensor):
    return numpy(keras.ops.cast(tensor, "float32"))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_half_precision_starts_from_float32_rounded(initializer, dtype):
    def weights(dtype):
        keras.utils.set_random_seed(5)
        given = INITIALIZERS[initializer]
        layer = SimpleRNN(
            6, kernel_initializer=given, recurrent_initializer=given, dtype=dtype, seed=1
        )
        layer.build((None, None, 6))
        return layer.weights

    for half, whole in zip(weights(dtype), weights("float32"), strict=True):
        assert half.dtype == dtype
        assert np.array_equal(as_float32(half), as_float32(keras.ops.cast(whole, dtype)))


@pytest.mark.parametrize("of_cell", ["mixed_bfloat16", "float32"])
@pytest.mark.parametrize("of_layer", ["mixed_bfloat16", "float32"])
def test_a_cell_is_asked_for_its_output_in_its_own_dtype(of_layer, of_cell):
    """It declares no size, so it's run on symbols; TensorFlow adds no unlike dtypes."""

    class Sums(CellOfUnits):
        def call(self, inputs, states):
            h = ops.matmul(inputs, self.kernel) + states[0]
            return h, [h]

    one = RNN(Sums(3, dtype=of_cell), dtype=of_layer)
    several = RNN([Sums(3, dtype=of_cell), Sums(2, dtype=of_layer)], dtype=of_layer)
    inputs = keras.Input((5, 4))
    compute = keras.dtype_policies.get(of_layer).compute_dtype
    for layer, units in ((one, 3), (several, 2)):
        output = layer(inputs)
        assert (tuple(output.shape), output.dtype) == ((None, units), compute)
        assert keras.backend.standardize_dtype(layer(X).dtype) == compute


def states_of(layer):
    return keras.tree.flatten(layer.states)


@pytest.mark.parametrize(("kind", "dtype"), EACH_HALF)
def test_half_precision_trains_keeps_states_and_is_saved(kind, dtype, tmp_path):
    layer = MAKERS[kind](dtype=dtype, return_sequences=True, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=(3, 5, 4)), layer])
    mask = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], bool)
    whole = MAKERS[kind](dtype="float32", return_sequences=True, stateful=True)
    reference = keras.Sequential([keras.Input(batch_shape=(3, 5, 4)), whole])
    whole.set_weights([as_float32(weight) for weight in layer.weights])
    assert_close(as_float32(layer(X, mask=mask)), whole(X, mask=mask), 0.03)
    for each in (model, reference):
        each.compile(keras.optimizers.SGD(3.0), loss="mse")
        each.fit(X, array(1, 3, 5, 6), verbose=0, batch_size=3, shuffle=False)
    assert_close(list(map(as_float32, layer.weights)), list(whole.weights), 0.03)
    assert_close(list(map(as_float32, states_of(layer))), list(states_of(whole)), 0.03)
    model.save(tmp_path / "a.keras")
    layer.reset_state()
    for other in (keras.saving.load_model(tmp_path / "a.keras"), keras.models.clone_model(model)):
        assert {weight.dtype for weight in other.weights} == {dtype}
        other.set_weights(model.get_weights())
        assert np.array_equal(as_float32(other(X)), as_float32(model(X)))
        layer.reset_state()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("cls", [LSTMCell, GRUCell, SimpleRNNCell])
def test_a_half_cell_runs_by_itself_with_dropout(cls, dtype):
    cell = cls(6, dropout=0.5, recurrent_dropout=0.5, dtype=dtype)
    output, _ = cell(X[:, 0], cell.get_initial_state(3), training=True)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    layer = RNN(cell, dtype=dtype)
    assert np.isfinite(as_float32(layer(X, training=True))).all()
