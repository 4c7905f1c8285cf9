"""Layers with weights in int8: numbers, engines, files, and what they refuse."""

import warnings
from itertools import product

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato import native
from ostinato.doors import door
from ostinato.int8 import rounded
from ostinato.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    ConvLSTM1D,
    GRUCell,
    LSTMCell,
    SimpleRNN,
)
from support import elsewhere_in_long, on_one_backend, sample

needs_native = pytest.mark.skipif(native.why_not() is not None, reason="no native engine here")
# Half a step of digits is up to 1/8192 of a vector's largest number (native/core/int8.h).
DIGITS = 2e-3


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
def steep(x):
    return ops.tanh(2 * x)


class Kept(LSTM):
    """One that may do anything else."""


def sequential(*layers, features=7):
    return keras.Sequential([keras.Input((None, features)), *layers])


def both_states():
    x = keras.Input((None, 7))
    y, h, c = LSTM(20, return_sequences=True, return_state=True, go_backwards=True)(x)
    return keras.Model(x, [y, GRU(20, use_bias=False)(y, initial_state=h), c])


MODELS = {
    "SimpleRNN": lambda: sequential(SimpleRNN(33, return_sequences=True), SimpleRNN(5)),
    "LSTM, masked": lambda: sequential(
        keras.layers.Masking(), LSTM(33, return_sequences=True), LSTM(4, zero_output_for_mask=True)
    ),
    "GRU, both": lambda: sequential(
        GRU(40, return_sequences=True), GRU(20, reset_after=False, return_sequences=True)
    ),
    "Bidirectional": lambda: sequential(
        keras.layers.Masking(),
        Bidirectional(LSTM(20, return_sequences=True)),
        Bidirectional(GRU(3)),
    ),
    "cells": lambda: sequential(
        RNN([LSTMCell(9), GRUCell(17, reset_after=False)], return_sequences=True), RNN(GRUCell(3))
    ),
    "an activation of one's own": lambda: sequential(LSTM(20, activation=steep)),
    "states": both_states,
    "nested": lambda: sequential(
        sequential(LSTM(20, return_sequences=True)), keras.layers.Dense(3)
    ),
}


def rounded_weights(model):
    """Gives a model's cells the kernels that int8 has of them."""
    for layer in model._flatten_layers():
        if hasattr(layer, "recurrent_kernel"):
            for kernel in (layer.kernel, layer.recurrent_kernel):
                whole, scales = rounded(numpy(kernel))
                kernel.assign(whole * scales)


def results(model, x):
    found = model(x, training=False)
    return [numpy(y) for y in (found if isinstance(found, (list, tuple)) else [found])]


def padded(rows=3, timesteps=9):
    x = floats(rows, timesteps, 7)
    x[0, :2] = x[-1, 4:] = x[0, 5] = 0
    return x


@pytest.mark.parametrize("name", sample(MODELS, "GRU, both", "Bidirectional", "cells", "states"))
def test_numbers_engines_and_files(name, tmp_path):
    model = MODELS[name]()
    weights = [w + 0.2 * floats(*w.shape, seed=3) for w in model.get_weights()]
    model.set_weights(weights)
    small = ostinato.quantize(model)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)  # what is given stays as it is
    x = padded()
    expected_engine = "scan" if "own" in name or native.why_not() else "fused"
    for row in ostinato.explain(small):
        assert (row.engine, "int8" in row.precision) == (expected_engine, True)
    got, original = results(small, x), results(model, x)
    rounded_weights(model)
    expected = results(model, x)
    with ostinato.use_engine("scan"):
        portable = results(ostinato.quantize(model), x)
    far = 0
    for one, other, by_scan, exact in zip(got, expected, portable, original, strict=True):
        scale = max(0.1, np.abs(other).max())
        assert np.abs(one - other).max() < DIGITS * scale
        assert np.abs(by_scan - other).max() < 1e-5 * scale
        far = max(far, np.abs(exact - other).max())
    assert far > 1e-4  # else nothing was rounded
    small.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(results(loaded, x), got, strict=True):
        np.testing.assert_array_equal(one, other)
    again = type(small).from_config(small.get_config())
    again.set_weights(small.get_weights())
    for one, other in zip(results(again, x), got, strict=True):
        np.testing.assert_array_equal(one, other)
    predicted = small.predict(x, verbose=0)
    np.testing.assert_allclose(predicted[0] if len(got) > 1 else predicted, got[0], atol=2e-5)


@needs_native
@pytest.mark.parametrize(
    ("layer", "sizes"),
    sample(
        [*product([LSTM, GRU], [(1, 70), (2, 3), (5, 40), (70, 3)])],
        *[(LSTM, (1, 70)), (GRU, (70, 3))],
    ),
)
def test_rows_and_timesteps(layer, sizes):
    rows, timesteps = sizes
    made = layer(300, return_sequences=True, return_state=True)
    made.build((None, None, 7))
    x, small = floats(rows, timesteps, 7), ostinato.quantize(made)
    got = results(small, x)
    with ostinato.use_engine("scan"):
        expected = results(small, x)
    for one, other in zip(got, expected, strict=True):
        assert np.abs(one - other).max() < DIGITS
    assert small(x[:, :0])[0].shape == (rows, 0, 300)
    assert small(x[:0])[0].shape == (0, timesteps, 300)


def test_a_stateful_layer_goes_on():
    layer = LSTM(20, stateful=True, return_sequences=True)
    layer.build((3, None, 7))
    x, small = floats(3, 8, 7), ostinato.quantize(layer)
    whole = numpy(small(x))
    small.reset_state()
    parts = np.concatenate([numpy(small(x[:, :5])), numpy(small(x[:, 5:]))], axis=1)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


@elsewhere_in_long
def test_its_file_is_a_quarter_the_size(tmp_path):
    model = sequential(LSTM(300, return_sequences=True), Bidirectional(GRU(200)))
    model.save(tmp_path / "float32.keras")
    ostinato.quantize(model).save(tmp_path / "int8.keras")
    sizes = [(tmp_path / f"{name}.keras").stat().st_size for name in ("int8", "float32")]
    assert sizes[0] < 0.29 * sizes[1]


@needs_native
@on_one_backend
def test_a_stream_of_it_has_the_same_weights():
    model = sequential(LSTM(40, return_sequences=True), keras.layers.Dense(3))
    x = floats(9, 7)
    stream = ostinato.stream(ostinato.quantize(model))
    assert stream.precision == "int8"
    got = stream.run(x)
    np.testing.assert_allclose(got, results(ostinato.quantize(model), x[None])[0][0], atol=1e-5)
    both = ostinato.quantize(stream)  # Dense too
    both.reset()
    np.testing.assert_array_equal(both.run(x), ostinato.quantize(ostinato.stream(model)).run(x))
    both.refresh()
    with pytest.raises(ValueError, match="in int8 already"):
        ostinato.quantize(both)


def test_training_is_refused():
    model = sequential(LSTM(5, name="mine"), keras.layers.Dense(1))
    small, x = ostinato.quantize(model), floats(4, 3, 7)
    assert not small.layers[0].trainable_weights
    with pytest.raises(ValueError, match=r"'mine'.*int8.*can't be trained"):
        small(x, training=True)
    small.compile("sgd", "mse")
    assert np.isfinite(small.evaluate(x, floats(4, 1), verbose=0))
    with pytest.raises(ValueError, match=r"int8.*can't be trained"):
        small.fit(x, floats(4, 1), verbose=0)
    cell = small.layers[0].cell
    with pytest.raises(ValueError, match=r"int8.*can't be trained"):
        cell(x[:, 0], cell.get_initial_state(4), training=True)


@needs_native
def test_gradients_are_refused():
    layer = GRU(5)
    layer.build((None, None, 7))
    small = ostinato.quantize(layer)
    with pytest.raises((ValueError, RuntimeError), match=r"int8.*no gradients"):
        door.pulled(lambda x: (small(x),), (ops.convert_to_tensor(floats(2, 3, 7)),), ops.ones_like)


def test_refusals():
    with pytest.raises(ValueError, match="quantize: expected a Keras model or layer, or a stream"):
        ostinato.quantize([1])
    with pytest.raises(ValueError, match=r"quantize: .*expected a model with an LSTM.* got none"):
        ostinato.quantize(sequential(keras.layers.LSTM(3)))
    with pytest.raises(ValueError, match="got none"):
        ostinato.quantize(sequential(LSTM(3, dtype="mixed_bfloat16")))
    broken = sequential(LSTM(3, name="broken"))
    broken.layers[0].cell.kernel.assign(np.full((7, 12), np.inf))
    with pytest.raises(ValueError, match=r"quantize: .*broken.*kernel.*NaN or an infinity"):
        ostinato.quantize(broken)
    with pytest.raises(ValueError, match=r"ConvLSTM1DCell: `dtype`.*isn't quantized, got 'int8"):
        ostinato.layers.ConvLSTM1DCell(2, 3, dtype="int8_from_float32")
    for dtype in ("int8_from_mixed_bfloat16", "float8_from_float32"):
        with pytest.raises(ValueError, match="LSTM: `dtype`: expected 'int8_from_float32', or"):
            LSTM(3, dtype=dtype)


def test_what_stays_as_it_is_is_listed():
    x = keras.Input((None, 7))
    y = LSTM(4, return_sequences=True)(x)
    z = Kept(4, name="kept")(y)
    half = keras.layers.Add()([GRU(4, dtype="mixed_bfloat16", name="wide")(y), z])
    model = keras.Model(x, half)
    with pytest.warns(
        UserWarning, match=r"(?s)left alone.*kept.*derived.*wide.*mixed_bfloat16|wide.*kept"
    ):
        small = ostinato.quantize(model)
    modes = [getattr(layer, "quantization_mode", None) for layer in small.layers]
    assert modes.count("int8") == 1
    data = floats(2, 3, 7)
    assert np.abs(results(small, data)[0] - results(model, data)[0]).max() < 0.05
    x = keras.Input((3, 8, 2))
    convolving = keras.Model(
        x,
        LSTM(3)(
            keras.layers.Reshape((3, -1))(
                ConvLSTM1D(2, 3, padding="same", return_sequences=True)(x)
            )
        ),
    )
    with pytest.warns(UserWarning, match="there is no ConvLSTM1D with weights in int8"):
        ostinato.quantize(convolving)


def test_kerass_own_quantize_says_why_not():
    model = sequential(LSTM(4, name="mine"), keras.layers.Dense(8))
    x = floats(2, 3, 7)
    before = results(model, x)[0]
    with pytest.warns(UserWarning, match=r"LSTMCell.*in place.*`ostinato.quantize\(model\)`"):
        model.quantize("int8")
    assert model.layers[1].quantization_mode == "int8"
    assert np.abs(results(model, x)[0] - before).max() < 0.05
    with pytest.raises(NotImplementedError, match=r"expected the mode 'int8'.*got 'float8'"):
        model.layers[0].cell.quantize("float8")
    small = ostinato.quantize(sequential(LSTM(4), keras.layers.Dense(8)))
    with pytest.raises(NotImplementedError, match=r"expected the mode 'int8'.*got 'float8'"):
        small.layers[0].cell.quantize("float8")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small.quantize("int8")  # what is in int8 already stays so
    assert not any("LSTM" in str(each.message) for each in caught)
    assert np.isfinite(results(small, x)[0]).all()


def test_other_conversions_refuse_it():
    small = ostinato.quantize(sequential(LSTM(4)))
    with pytest.warns(UserWarning, match=r"(?s)restore: left alone.*int8"):
        restored = ostinato.restore(small)
    x = floats(2, 3, 7)
    np.testing.assert_allclose(results(restored, x)[0], results(small, x)[0], atol=1e-5)
    with pytest.raises(ValueError, match="int8"):
        ostinato.to_torch(small.layers[0])
