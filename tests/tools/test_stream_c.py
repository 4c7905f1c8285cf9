"""A stream written as C: compiled, and run beside the stream that it was made of."""

import contextlib
import re
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, tree

import ostinato
from docs import page
from engines.gradients import double_precision
from ostinato import native
from ostinato.layers import RNN, GRUCell, LSTMCell
from ostinato.streaming.c99.cells import columns_of
from support import on_one_backend, one_in
from tools import c_streams
from tools.c_streams import SANITIZED, STRICT
from tools.stream_zoo import KINDS, ZOO, ahead, give_weights, gru, lstm, pointwise, read, stack
from tools.streamed import VOCABULARY, N, data_for, floats

pytestmark = [
    on_one_backend,
    pytest.mark.skipif(bool(native.why_not()), reason="what Keras runs has no program"),
]
needs_gcc = pytest.mark.skipif(c_streams.compiler("gcc") is None, reason="there is no gcc here")
PAGE = Path(__file__).parents[2] / "docs" / "streaming.md"
ACTIVATIONS = [name for name in native.activation_names() if name != "linear"]
# Those that are exact to their own size, however small it is.
RELATIVELY = ("tanh", "sigmoid", "exponential", "elu", "silu", "tanh_shrink", "softplus")
WAYS = {
    "gcc": ("gcc", (*STRICT, *SANITIZED), "c"),
    "clang": ("clang", (*STRICT, *SANITIZED), "c"),
    "g++": ("g++", ("-std=c++11", *STRICT[1:], "-O3"), "c++"),
}


def side_by_side(first, *parts):
    """A model of all parts, each of which reads the same."""
    x = keras.Input((None, 3))
    y = first(x)
    return give_weights(keras.Model(x, [part(y) for part in parts]))


def plain(x):
    return x


def every_pointwise_layer(first):
    """Each layer of one timestep, and each activation."""
    functions = [layers.Activation(name) for name in ACTIVATIONS]
    more = [*functions, layers.Softmax(), layers.PReLU(shared_axes=[1])]
    return side_by_side(first, *pointwise(), *more)


def every_cell(first):
    """Cells of all kinds, sizes and options."""
    found = []
    for name, layer in KINDS.items():
        gate = {} if name == "SimpleRNN" else {"recurrent_activation": "hard_sigmoid"}
        found += [layer(6), layer(5, use_bias=False), layer(1, activation="softsign", **gate)]
        found += [layer(17, activation="linear"), ahead(layer)]
    return side_by_side(first, *found, RNN([LSTMCell(9), GRUCell(8)], return_sequences=True))


CASES = {
    "layers": (lambda: every_pointwise_layer(plain), None),
    "layers under a mask": (lambda: every_pointwise_layer(layers.Masking()), 0.0),
    "cells": (lambda: every_cell(plain), None),
    "cells under a mask": (lambda: every_cell(layers.Masking()), 0.0),
    "cells under a mask, outputs zero": (
        lambda: side_by_side(layers.Masking(), lstm(4, zero_output_for_mask=True)), 0.0
    ),
    "biases as layers begin, most of them zero": (
        lambda: keras.Sequential([keras.Input((None, 3)), lstm(4), layers.Dense(2)]), None
    ),
    "large": (lambda: stack(lstm(67), gru(32), layers.Dense(33, activation="softmax")), None),
    **{
        name: (ZOO[name].make, ZOO[name].padding)
        for name in (
            *("all merges", "odd widths under a mask", "dicts", "Embedding with a mask"),
            *("a shared layer", "models in models", "Add of two masks", "a mask on a mask"),
            *("a mask that nothing obeys", "an input that nothing reads"),
            *("another mask value", "adapted Normalization", "float64", "mixed_bfloat16"),
            *("a voice detector", "windows behind zeros", "a mean under a mask"),
            *("cells of one's own under a mask", "cells of one's own with several states"),
            *("an activation of one's own", "a cell of one's own in float64", "windows in float64"),
        )
    },
}  # fmt: skip
TOLERANCES = {"models in models": 4e-6}


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """The cases as C: the streams with their data, and what was written, in a folder."""
    folder, found = tmp_path_factory.mktemp("streams"), {}
    for i, (name, (make, padding)) in enumerate(CASES.items()):
        with double_precision() if "float64" in name else contextlib.nullcontext():
            model = make()
            data = data_for(model, padding)
            stream = ostinato.stream(model, streams=N)
        found[name] = stream, data, c_streams.write(stream, folder, f"m{i}")
    return folder, found


def compiled(way, folder, all_written):
    """The program of a folder's streams, or a skip where there's no such compiler."""
    name, options, language = WAYS[way]
    command = c_streams.compiler(name)
    if command is None:
        pytest.skip(f"there is no {name} here")
    return c_streams.build(all_written, folder, command, options, language)


def in_python(stream, data, reset_at):
    """A stream's outputs, where row 1 begins anew before a timestep."""
    stream.reset()
    before = stream.run(tree.map_structure(lambda x: x[:, :reset_at], data))
    stream.reset(rows=[1])
    after = stream.run(tree.map_structure(lambda x: x[:, reset_at:], data))
    pieces = zip(tree.flatten(before), tree.flatten(after), strict=True)
    return [np.concatenate(pair, 1) for pair in pieces]


@pytest.mark.parametrize("way", one_in(len(WAYS), WAYS))
def test_equals_the_stream(streams, way):
    folder, found = streams
    all_written = [each for _, _, each in found.values()]
    program = compiled(way, folder, all_written)
    results = c_streams.run(program, all_written, [data for _, data, _ in found.values()], 5)
    for (name, (stream, data, _)), result in zip(found.items(), results, strict=True):
        tolerance = 1e-12 if "float64" in name else TOLERANCES.get(name, 1e-6)
        for got, expected in zip(result, in_python(stream, data, 5), strict=True):
            np.testing.assert_allclose(got, expected, tolerance, tolerance, err_msg=name)


@needs_gcc
def test_the_example_of_the_page(tmp_path):
    (example,) = [b.text for b in page.blocks(PAGE) if b.language == "c"]
    (tmp_path / "main.c").write_text(example)
    stream = ostinato.stream(stack(lstm(4), layers.Dense(2)))
    stream.save_c(tmp_path / "voice.c")
    (line,) = [b.text for b in page.blocks(PAGE) if "cc " in b.text and b.language == "sh"]
    command = line.split("\n")[0].split()
    assert command[0] == "cc"
    subprocess.run([*c_streams.compiler("gcc"), *STRICT, *command[1:]], cwd=tmp_path, check=True)
    x = floats(9, 3)
    given = "\n".join(" ".join(map(repr, row)) for row in x.tolist())
    ran = subprocess.run(
        [tmp_path / "voice"], input=given.encode(), capture_output=True, check=True
    )
    got = np.array(ran.stdout.split(), "float32").reshape(9, 2)
    np.testing.assert_allclose(got, stream.run(x), 1e-6, 1e-6)


def run_one(model, folder, data, reset_at=0, options=("-O2",)):
    """What a model's C gives, and what its stream gives."""
    stream = ostinato.stream(model, streams=len(data))
    each = c_streams.write(stream, folder, "m")
    program = c_streams.build([each], folder, c_streams.compiler("gcc"), options)
    (got,) = c_streams.run(program, [each], [data], reset_at)
    return got, in_python(stream, data, reset_at)


@needs_gcc
def test_a_long_run_and_a_nan_that_stays_in_its_stream(tmp_path):
    model = side_by_side(plain, lstm(5), gru(4), *pointwise())
    data = data_for(model, rows=2, timesteps=700)
    data[0, 650, 1], data[1, 30:32] = np.nan, 1e6
    got, expected = run_one(model, tmp_path, data, 40)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, 1e-6, 1e-6)
    assert np.isnan(got[0][0, 650:]).all()
    assert np.isfinite(got[0][0, :650]).all()
    assert np.isfinite(got[0][1]).all()


@needs_gcc
def test_activations_over_their_whole_range(tmp_path):
    near = np.concatenate([np.linspace(-10, 10, 2000), np.linspace(-110, 110, 997)])
    rare = [*(0.0, -0.0, 1e-38, -1e-45, 1e-7, 88.5, 88.8, -103.5), *(1e30, -1e30, np.inf)]
    rare += [-1e20, np.nan]  # of -inf mish is 0 times that, or what 0 was rounded to
    x = np.concatenate([near, rare]).astype("float32").reshape(2, -1, 1)
    given = keras.Input((None, 1))
    outputs = [layers.Activation(name)(given) for name in ACTIVATIONS]
    got, expected = run_one(keras.Model(given, outputs), tmp_path, x, options=("-O3",))
    for name, mine, theirs in zip(ACTIVATIONS, got, expected, strict=True):
        # gelu and those like it cancel, far below zero, in the stream as in C.
        near_zero = 1e-37 if name in RELATIVELY else 1e-6
        np.testing.assert_allclose(mine, theirs, 1e-6, near_zero, err_msg=name)
        if name in ("relu", "relu6", "leaky_relu", "hard_shrink", "soft_shrink", "hard_tanh"):
            np.testing.assert_array_equal(mine, theirs, err_msg=name)


@needs_gcc
def test_what_only_moves_numbers_is_so_to_the_bit(tmp_path):
    x = keras.Input((None, 3))
    y = layers.Masking()(x)
    joined = layers.Concatenate()([layers.Maximum()([x, layers.ReLU()(x)]), x])
    data = data_for(keras.Model(x, y), 0.0)
    got, expected = run_one(keras.Model(x, [x, y, joined, layers.Add()([x, x])]), tmp_path, data)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@needs_gcc
def test_the_step_in_place_and_ids_without_a_row(tmp_path):
    model = read(layers.Embedding(VOCABULARY, 3), lstm(2))
    ostinato.stream(model).save_c(tmp_path / "words.c")
    ostinato.stream(stack(gru(3))).save_c(tmp_path / "Words2.c")
    (tmp_path / "main.c").write_text("""
#include "words.h"
#include "Words2.h"
#include <string.h>
int main(void) {
  static words_stream a, b;
  Words2_stream c, d;
  float y[words_y_size] = {0.0f}, x[Words2_x_size] = {1.0f, 2.0f, -1.0f}, z[Words2_y_size];
  words_reset(&a);
  if (words_step(&a, 3, y) != 0 || (y[0] > -1e-9f && y[0] < 1e-9f)) return 1;
  b = a;
  if (words_step(&a, -1, y) != 1 || words_step(&a, 11, y) != 1) return 2;
  if (memcmp(&a, &b, sizeof a) != 0) return 3;
  Words2_reset(&c);
  d = c;
  Words2_step(&c, x, z);
  Words2_step(&d, x, x);
  return memcmp(x, z, sizeof x) == 0 ? 0 : 4;
}
""")
    names = ["words.c", "Words2.c", "main.c", "-lm", "-o", "main"]
    subprocess.run([*c_streams.compiler("gcc"), *STRICT, *names], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"], check=False).returncode == 0


@needs_gcc
def test_names_that_the_writer_itself_speaks_of(tmp_path):
    names = ("REAL", "RESTRICT", "x", "y", "self", "i", "expf", "name")
    for name in names:
        ostinato.stream(lstm_alone()).save_c(tmp_path / f"{name}.c")
    sources = [f"{name}.c" for name in names]
    command = [*c_streams.compiler("gcc"), *STRICT, "-c", *sources]
    subprocess.run(command, cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (5, "expected the path of a C file"),
        ("voice.h", "such as 'voice.c'"),
        ("voice", "such as 'voice.c'"),
        ("2voices.c", "begins with a letter"),
        ("my voice.c", "letters, digits and underscores"),
        ("voice-1.c", "letters, digits and underscores"),
        ("stimme_ü.c", "letters, digits and underscores"),
        ("int.c", "'int' is a keyword"),
        ("class.c", "'class' is a keyword"),
        ("math.c", "<math.h> is a header"),
        ("_voice.c", "begins with a letter"),
        ("a__b.c", "side by side"),
        (".c", "such as 'voice.c'"),
    ],
)
def test_paths_that_are_no_name_in_c(path, message, tmp_path):
    where = tmp_path / path if isinstance(path, str) else path
    with pytest.raises(ValueError, match=rf"^stream of \w+: save_c: .*{message}"):
        ostinato.stream(lstm_alone()).save_c(where)
    assert not list(tmp_path.iterdir())


def lstm_alone():
    return stack(lstm(2))


@pytest.mark.parametrize("way", WAYS)
def test_products_in_int8_are_the_streams(way, tmp_path):
    """Where what a product takes is the same to the bit, so are the whole numbers that it adds."""
    written, data, expected = [], [], []
    for i, depth in enumerate((1, 3, 64, 2048, 2049, 5000)):
        model = stack(layers.Dense(5, use_bias=i % 2 == 0), features=depth)
        signs = np.where(np.arange(depth) % 3, 1, -1)
        kernel, *bias = model.get_weights()
        kernel[:, 0] = 0.5 * signs
        model.set_weights([kernel, *bias])
        sizes = np.float32(10.0) ** np.arange(-37, 33, 5, "float32").reshape(2, 7, 1)
        x = floats(2, 7, depth, seed=i) * sizes
        x[0, 3], x[0, 4], x[1, 5, 0], x[1, 6, -1] = 1e-40, 0, np.nan, np.inf
        x[1, 2] = signs  # the first column's sums are as large as they get
        stream = ostinato.quantize(ostinato.stream(model, streams=2))
        written.append(c_streams.write(stream, tmp_path, f"m{i}"))
        data.append(x)
        expected.append(stream.run(x))
    program = compiled(way, tmp_path, written)
    for (got,), wanted in zip(c_streams.run(program, written, data), expected, strict=True):
        assert np.isnan(wanted[1, 5:]).all()
        size = np.abs(wanted).max(axis=-1, keepdims=True) + 1e-30
        np.testing.assert_allclose(got / size, wanted / size, 1e-6, 1e-6)


@needs_gcc
def test_cells_in_int8_are_the_streams(tmp_path):
    cells = [layer(units) for units in (7, 33) for layer in KINDS.values()]
    convolution = layers.Conv1D(4, 3, padding="causal")
    model = side_by_side(layers.Masking(), *cells, RNN([LSTMCell(9), GRUCell(8)]), convolution)
    data = data_for(model, 0.0, timesteps=60)
    stream = ostinato.quantize(ostinato.stream(model, streams=N))
    each = c_streams.write(stream, tmp_path, "small")
    program = c_streams.build([each], tmp_path, c_streams.compiler("gcc"), (*STRICT, "-O2"))
    (got,) = c_streams.run(program, [each], [data], 40)
    in_floats = in_python(ostinato.stream(model, streams=N), data, 40)
    # A state between two whole numbers may be rounded to one in C and to the other in the stream:
    # a step of at most 1/4096 of the largest, times a weight.
    for mine, theirs, exact in zip(got, in_python(stream, data, 40), in_floats, strict=True):
        assert np.abs(mine - theirs).max() < 1 / 4096
        assert np.median(np.abs(mine - theirs)) < 1e-7
        assert np.median(np.abs(theirs - exact)) > 1e-4


def test_streams_that_have_no_c(tmp_path):
    in_keras = ostinato.stream(stack(layers.UnitNormalization()))
    with pytest.raises(ValueError, match=r"save_c: .*this one isn't: .*UnitNormal"):
        in_keras.save_c(tmp_path / "voice.c")
    with pytest.raises(FileNotFoundError):
        ostinato.stream(lstm_alone()).save_c(tmp_path / "nowhere" / "voice.c")
    assert not list(tmp_path.iterdir())


def test_every_built_in_kind_has_c_and_another_is_refused_by_name():
    columns = {name: columns_of(name) - kind.gates for name, kind in native.kinds().items()}
    assert set(columns.values()) <= {0, 1}, columns  # GRU's candidate has two
    with pytest.raises(ValueError, match="'coupled_lstm' has no C"):
        columns_of("coupled_lstm")


def test_a_stream_from_a_file_and_names_that_would_end_a_comment(tmp_path):
    x = keras.Input((None, 2), name="pitch_now")
    model = keras.Model(x, lstm(2, name="a*_b")(x), name="model_?? _x")
    stream = ostinato.stream(model)
    stream.save(tmp_path / "m.stream")
    ostinato.Stream.load(tmp_path / "m.stream").save_c(tmp_path / "loaded.c")
    stream.save_c(tmp_path / "first.c")
    texts = [(tmp_path / name).read_text() for name in ("first.c", "loaded.c")]
    assert texts[0].replace("first", "loaded") == texts[1]
    header = (tmp_path / "loaded.h").read_text()
    assert {"x: pitch_now, 2", "state of a__b: (2,)"} <= set(re.findall(r"x: .*|state.*\)", header))
    assert header.startswith("/* model___ _x, one timestep")
