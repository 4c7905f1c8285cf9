"""Weights in int8: streams against the same numbers in float64, files, refusals."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from keras import layers

import ostinato
import reference
from ostinato import native
from ostinato.int8 import rounded
from ostinato.layers import GRU, LSTM, RNN, SimpleRNN
from ostinato.nests import flatten
from ostinato.streaming.compiled import Compiled
from support import on_one_backend
from tools.stream_zoo import ZOO, Own, gru, lstm, stack
from tools.streamed import N, assert_nests_close, data_for, floats

pytestmark = [
    on_one_backend,
    pytest.mark.skipif(native.why_not() is not None, reason="no native engine here"),
]

# Half a step of digits is up to 1/8192 of a vector's largest number (native/core/int8.h).
DIGITS = 2e-3
KINDS = [
    (SimpleRNN, {}),
    (LSTM, {}),
    (GRU, {}),
    (GRU, {"reset_after": False}),
    (LSTM, {"use_bias": False, "activation": "softsign", "recurrent_activation": "hard_sigmoid"}),
    (GRU, {"use_bias": False}),
]


def dequantized(kernel):
    """A kernel as int8 has it, in float64."""
    whole, scales = rounded(kernel)
    return whole.astype("float64") * scales


def rescaled(model, numbers):
    """The weights of a program whose kernels are what int8 has of them."""
    found, plain = list(numbers), []
    while found:
        weight = found.pop(0)
        plain.append(weight * found.pop(0) if weight.dtype == "int8" else weight)
    return replace(model, weights=tuple(np.asarray(weight, model.dtype) for weight in plain))


@pytest.mark.parametrize(("units", "features"), [(1, 1), (5, 17), (33, 64), (64, 3), (260, 130)])
@pytest.mark.parametrize(("layer", "options"), KINDS)
def test_a_stream_against_float64(layer, options, units, features):
    rng = np.random.default_rng(units)
    made = layer(units, return_sequences=True, **options)
    made.build((None, None, features))
    made.set_weights([rng.normal(size=w.shape) / w.shape[0] ** 0.5 for w in made.get_weights()])
    given = [np.asarray(weight, "float64") for weight in made.get_weights()]
    kernel, recurrent, *bias = given
    names = {SimpleRNN: "simple_rnn", LSTM: "lstm", GRU: "gru"}
    wanted = {
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "reset_after": True,
        **options,
    }
    wanted.pop("use_bias", None)
    told = reference.Options(names[layer], **wanted)
    x = floats(N, 30, features)
    weights = reference.Weights(dequantized(kernel), dequantized(recurrent), *bias or [None])
    expected = reference.run(told, weights, x.astype("float64")).outputs
    exact = reference.run(told, reference.Weights(kernel, recurrent, *bias or [None]), x).outputs
    got = ostinato.quantize(ostinato.stream(made, streams=N)).run(x)
    assert np.abs(got - expected).max() < DIGITS * max(1, np.abs(expected).max())
    if features > 1:  # of a single number a column has nothing to round
        assert np.abs(exact - expected).max() > np.abs(got - expected).max()


@pytest.mark.parametrize(
    "name",
    [
        "LSTM", "GRU reset before of 64 to 33", "RNN of cells under a mask", "dicts",
        "Embedding with a mask", "all merges", "trained BatchNormalization",
        "cells of one's own under a mask",
    ],
)  # fmt: skip
def test_what_else_a_stream_has(name, tmp_path):
    case, path = ZOO[name], tmp_path / "model.stream"
    model = case.make()
    data = data_for(model, case.padding)
    plain = ostinato.stream(model, streams=N)
    before = data_for(model, case.padding, seed=2)
    plain.run(before)
    stream = ostinato.quantize(plain)
    assert (stream.precision, plain.precision) == ("int8", "float32")
    assert_nests_close(stream.state, plain.state, 0)  # it goes on where the other is
    same = Compiled(rescaled(plain._runner.program, stream._runner.program.weights), N)
    same.write_states(plain._runner.read_states())
    got = stream.run(data)
    outputs = [np.empty_like(leaf) for leaf in flatten(got)]
    xs = tuple(np.ascontiguousarray(leaf) for leaf in flatten(data))
    assert same.run(xs, tuple(outputs), xs[0].shape[1])
    for one, other in zip(flatten(got), outputs, strict=True):
        assert np.abs(one - other).max() < 4 * DIGITS * max(1, np.abs(other).max())
    stream.reset()
    stream.run(before)
    stream.save(path)
    loaded = ostinato.Stream.load(path)
    assert loaded.precision == "int8"
    assert_nests_close(loaded.run(data), stream.run(data), 0)
    with pytest.raises(ValueError, match=r"quantize: stream of .*: .* in int8 already"):
        ostinato.quantize(loaded)


def large():
    """A model of 8 MB."""
    return stack(lstm(512), gru(256), layers.Dense(9, "softmax"), features=300)


def test_its_file_is_a_quarter_the_size_and_needs_no_keras(tmp_path):
    plain, path, was = ostinato.stream(large()), tmp_path / "int8", tmp_path / "float32"
    stream = ostinato.quantize(plain)
    plain.save(was)
    stream.save(path)
    assert path.stat().st_size < 0.26 * was.stat().st_size
    code = (
        "import sys, numpy, ostinato\n"
        "x = numpy.linspace(-1, 1, 900, dtype='float32').reshape(3, 300)\n"
        "stream = ostinato.Stream.load(sys.argv[1])\n"
        "again = ostinato.quantize(ostinato.Stream.load(sys.argv[2]))\n"
        "y = stream.run(x)\n"
        "assert (again.run(x) == y).all() and 'keras' not in sys.modules\n"
        "print(y.tobytes().hex())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, path, was], check=True, capture_output=True, text=True
    )
    x = np.linspace(-1, 1, 900, dtype="float32").reshape(3, 300)
    assert found.stdout.strip() == stream.run(x).tobytes().hex()
    with np.load(path) as members:
        assert json.loads(str(members["about"]))["format"] == "ostinato stream 3"


def test_a_file_that_says_int8_in_the_wrong_place_is_refused(tmp_path):
    stream = ostinato.quantize(ostinato.stream(stack(lstm(5), layers.Dense(2))))
    path = tmp_path / "model.stream"
    stream.save(path)
    with np.load(path) as members:
        arrays = {name: members[name] for name in members.files}
    for name, other in [("weight0", "float32"), ("weight1", "int8"), ("weight4", "int8")]:
        with path.open("wb") as file:
            np.savez(file, **{**arrays, name: arrays[name].astype(other)})
        with pytest.raises(ValueError, match="another shape or dtype"):
            ostinato.Stream.load(path)
    about = json.loads(str(arrays["about"]))
    with path.open("wb") as file:
        np.savez(file, **{**arrays, "about": np.array(json.dumps({**about, "dtype": "float64"}))})
    with pytest.raises(ValueError, match="float64"):
        ostinato.Stream.load(path)


def test_refresh_quantizes_anew():
    model = stack(lstm(20), layers.Dense(3))
    stream, x = ostinato.quantize(ostinato.stream(model)), floats(6, 3)
    first = stream.run(x)
    model.set_weights([2 * weight for weight in model.get_weights()])
    stream.refresh()
    stream.reset()
    np.testing.assert_array_equal(stream.run(x), ostinato.quantize(ostinato.stream(model)).run(x))
    assert np.abs(stream.run(x) - first).max() > 0.01


def test_what_is_no_number_stays_in_its_row():
    stream = ostinato.quantize(ostinato.stream(stack(gru(20), layers.Dense(3)), streams=N))
    clean, x = stream.run(floats(N, 6, 3)), floats(N, 6, 3)
    x[1, 2, 0], x[3, 4, 1] = np.nan, np.inf
    stream.reset()
    got = stream.run(x)
    np.testing.assert_array_equal(got[[0, 2]], clean[[0, 2]])
    np.testing.assert_array_equal(got[1, :2], clean[1, :2])
    assert np.isnan(got[1, 2:]).all()
    assert np.isnan(got[3, 4:]).all()


def test_refusals():
    with pytest.raises(ValueError, match="quantize: expected a Keras model or layer, or a stream"):
        ostinato.quantize(3)
    in_double = ostinato.stream(ZOO["float64"].make())
    with pytest.raises(ValueError, match=r"quantize: stream of .*float32, got float64"):
        ostinato.quantize(in_double)
    own = RNN(Own(3), name="mine")
    own.build((None, None, 2))
    with pytest.raises(ValueError, match=r"quantize: stream of mine: .* got none"):
        ostinato.quantize(ostinato.stream(own))
    with ostinato.use_engine("scan"):
        by_keras = ostinato.stream(stack(lstm(4)))
    with pytest.raises(ValueError, match="expected a stream on the native engine"):
        ostinato.quantize(by_keras)
    model = stack(lstm(4))
    model.layers[-1].cell.kernel.assign(np.full((3, 16), np.nan))
    with pytest.raises(ValueError, match=r"quantize: stream of .*NaN or an infinity"):
        ostinato.quantize(ostinato.stream(model))
