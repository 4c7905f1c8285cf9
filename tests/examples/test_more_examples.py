"""The example programs that stream, on less: each does as its page says, and beats its baseline."""

import importlib
import math
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest

import ostinato
from support import in_long

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = ("forecast", "characters", "encoder_decoder", "walking_home")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.config.backend() != "jax", reason="the programs are the same on every backend"
    ),
]


@pytest.fixture
def load(monkeypatch):
    """Imports one of the examples' modules."""
    monkeypatch.syspath_prepend(EXAMPLES)
    # The programs' look isn't to leak into the guide's pictures.
    with matplotlib.rc_context():
        yield importlib.import_module


def assert_is_picture(path):
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("name", PROGRAMS)
def test_is_short_and_chooses_the_backend_before_keras_is_imported(name):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert len(lines) < 120
    imports = [line.split()[1] for line in lines if line.startswith(("import", "from"))]
    frameworks = [place for place, name in enumerate(imports) if name in ("keras", "ostinato")]
    assert imports.index("_shared") < min(frameworks)


def test_forecast_errs_less_than_last_year_again(load, tmp_path, capsys):
    errors, held = load("forecast").main(["--epochs", "20", "--output", str(tmp_path)])
    stays, again, ours = errors.values()
    assert ours < 0.95 * again < stays
    assert 0.6 < held < 0.95  # of the weeks in a band meant for 0.8
    assert f"{ours:.2f}" in capsys.readouterr().out
    assert_is_picture(tmp_path / "forecast.png")


def test_the_forecasts_know_nothing_of_what_comes(load):
    """A year's forecast is the same whatever the record says from its first week on."""
    forecast = load("forecast")
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            ostinato.layers.LSTM(4, return_sequences=True, name="lstm"),
            keras.layers.Dense(1),
        ]
    )
    given, changed = forecast.Record(), forecast.Record()
    changed.ppm, changed.changes = changed.ppm.copy(), changed.changes.copy()
    week = given.split + forecast.QUARTER
    changed.ppm[week:] += 5
    changed.changes[week] = 7
    weeks = np.arange(2, given.split)
    inputs, targets = given.inputs(weeks, given.changes[weeks - 1]), given.changes[weeks, None]
    _, expected = forecast.live(model, given, inputs, targets)
    _, found = forecast.live(model, changed, inputs, targets)
    np.testing.assert_array_equal(found[:2], expected[:2])
    assert np.abs(found[2] - expected[2]).min() > 1


def test_a_walker_told_where_episodes_begin_finds_home_and_one_that_is_not_does_not(load, tmp_path):
    options = ["--rows", "512", "--epochs", "12", "--output", str(tmp_path)]
    errors = load("walking_home").main(options)["errors"]
    assert errors["with resets"] < 0.1 < 0.3 < errors["without"] < errors["home is here"]
    assert_is_picture(tmp_path / "walking_home.png")


# What its page says takes long to see: the test below does, in `make long`.
def test_encoder_decoder_runs_to_its_end(load, tmp_path):
    options = ["--epochs", "1", "--numbers", "1000", "--unseen", "50"]
    load("encoder_decoder").main([*options, "--output", str(tmp_path)])
    assert_is_picture(tmp_path / "encoder_decoder.png")


@in_long
def test_characters_costs_fewer_bits_than_pairs_and_writes_the_same_by_both_ways(
    load, tmp_path, capsys
):
    options = ["--epochs", "2", "--characters", "300", "--by-predict", "30"]
    bits, faster, same = load("characters").main([*options, "--output", str(tmp_path)])
    assert bits["LSTM"] < 0.9 * bits["pairs"] < bits["single characters"]
    assert same == "the same"
    assert faster > 3
    assert "The Python interpreter" in capsys.readouterr().out
    assert_is_picture(tmp_path / "characters.png")


def test_bits_by_ngrams_of_a_text_that_can_be_counted_by_hand(load):
    one, two = load("_topics").bits_by_ngrams("abab", "ab", 2)
    assert one == pytest.approx(1)  # each is one of two
    # Of "a", "b" came twice and one kind did: (2 + 1 / 2) / (2 + 1).
    assert two == pytest.approx((1 - math.log2(5 / 6)) / 2)


@in_long
def test_encoder_decoder_writes_most_unseen_numbers_without_a_fault(load, tmp_path, capsys):
    options = ["--epochs", "7", "--unseen", "500", "--output", str(tmp_path)]
    right = load("encoder_decoder").main(options)
    assert right["encoder-decoder"] > 0.8 > right["nearest seen number"]
    assert f"{right['encoder-decoder']:6.1%} right" in capsys.readouterr().out
    assert_is_picture(tmp_path / "encoder_decoder.png")


def test_the_decoder_as_a_stream_is_the_model_on_its_own_words(load):
    program = load("encoder_decoder")
    model, encoder, decoding = program.build()
    digits, _ = program.encode(np.array([7, 42, 417_230, 999_999]))
    stream = ostinato.stream(decoding, streams=4)
    written = program.write_out(encoder, stream, digits)
    start = np.full((4, 1), program.START)
    scores = model.predict([digits, np.hstack([start, written[:, :-1]])], verbose=0)
    after = np.cumsum(written == program.END, axis=1) - (written == program.END) > 0
    np.testing.assert_array_equal(np.where(after, 0, scores.argmax(axis=-1)), written)


def test_numbers_are_spelled(load):
    program = load("encoder_decoder")
    assert [" ".join(program.spell(number)) for number in (0, 13, 40, 700, 20_001, 417_230)] == [
        "zero",
        "thirteen",
        "forty",
        "seven hundred",
        "twenty thousand one",
        "four hundred seventeen thousand two hundred thirty",
    ]
