"""The first example programs on less data: each does as its page says, and beats its baseline."""

import csv
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest

from ostinato import native
from support import in_long, one_in

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = (
    "mnist_rows",
    "japanese_vowels",
    "basic_motions",
    "missing_values",
    "accelerate_model",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.config.backend() != "jax", reason="the programs are the same on every backend"
    ),
]
needs_aeon = pytest.mark.skipif(
    importlib.util.find_spec("aeon") is None,
    reason="its data comes with aeon: pip install --no-deps aeon",
)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a program in this process, its files in tmp_path."""
    monkeypatch.syspath_prepend(EXAMPLES)
    # The programs' look isn't to leak into the guide's pictures.
    with matplotlib.rc_context():
        yield lambda name, *options: importlib.import_module(name).main(
            ["--output", str(tmp_path), *options]
        )


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


@pytest.mark.parametrize("name", PROGRAMS)
def test_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 120


# What their pages say of these takes long to see: tests in `make long` do.
BRIEFLY = {
    "mnist_rows": ["--digits", "1200", "--epochs", "1"],
    "accelerate_model": ["--digits", "600", "--epochs", "1", "--rounds", "1"],
    "japanese_vowels": ["--epochs", "2"],
    "missing_values": ["--epochs", "1"],
}


@needs_aeon
@pytest.mark.parametrize("name", one_in(2, BRIEFLY))
def test_runs_to_its_end(run, tmp_path, name):
    run(name, *BRIEFLY[name])
    assert is_picture(next(tmp_path.rglob(f"{name}.png")))


@in_long
def test_mnist_rows_killed_and_run_again_ends_as_if_it_had_not_been(run, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("--digits", "4000", "--epochs", "5")
    expected = run("mnist_rows", "--output", str(whole), *options)
    assert expected["accuracy"] > expected["baseline"] + 0.05
    assert is_picture(whole / "mnist_rows" / "mnist_rows.png")

    child = subprocess.run(
        [sys.executable, "-c", KILLED, "--output", str(killed), *options],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == -9, child.stderr
    assert len(rows(killed)) == 2
    resumed = run("mnist_rows", "--output", str(killed), *options)

    assert resumed["log"] == expected["log"]
    assert rows(killed) == rows(whole)
    for ours, theirs in zip(
        resumed["model"].get_weights(), expected["model"].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert resumed["accuracy"] == expected["accuracy"]
    assert not (killed / "mnist_rows" / "backup").exists()  # done: the next run begins anew


# Dies in the middle of its third epoch, as by `kill -9`.
KILLED = """
import os, signal, sys
sys.path.insert(0, "")
import mnist_rows, keras

class Dying(keras.callbacks.CSVLogger):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 20):
            os.kill(os.getpid(), signal.SIGKILL)

keras.callbacks.CSVLogger = Dying
mnist_rows.main(sys.argv[1:])
"""


def rows(folder):
    with (folder / "mnist_rows" / "log.csv").open() as file:
        return list(csv.reader(file))[1:]


@in_long
@needs_aeon
def test_japanese_vowels_need_their_masks(run, tmp_path):
    found = run("japanese_vowels", "--epochs", "15")
    right = {name: accuracy for name, (accuracy, _) in found["results"].items()}
    assert right["padded to 100, masked"] == right["padded to 29, masked"] > found["baseline"]
    assert right["like lengths, masked"] > found["baseline"]
    assert right["padded to 100, no mask"] < 0.5
    assert right["cut to 7"] < right["padded to 29, masked"]
    assert abs(right["the same, Keras's GRU"] - right["padded to 100, masked"]) < 0.01
    assert found["apart"] < 3e-5  # of scores of up to 10; float32's rounding, over 29 timesteps
    assert is_picture(tmp_path / "japanese_vowels.png")


@needs_aeon
def test_basic_motions_are_known_sooner_than_by_the_baselines(run, tmp_path):
    shares = run("basic_motions", "--epochs", "10")
    assert shares.shape == (40, 3)
    ours, *baselines = shares[9]  # after one second
    assert ours > max(baselines)
    assert shares[-1, 0] > 0.95
    assert is_picture(tmp_path / "basic_motions.png")


@in_long
def test_an_accelerated_model_is_the_same_and_faster(run, tmp_path):
    found = run("accelerate_model", "--digits", "4000", "--epochs", "3", "--rounds", "2")
    assert found["accuracy"] > found["naive"]
    assert found["apart"] < 1e-5
    assert found["drift"] < 1e-4
    if native.why_not() is None:
        before, after = found["times"]
        assert (after < before).all(), found["times"]
    plain = keras.saving.load_model(tmp_path / "after.keras")
    assert type(plain.layers[1]) is keras.layers.GRU
    assert is_picture(tmp_path / "accelerate_model.png")


def test_a_missing_data_package_is_named(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps aeon"):
        importlib.import_module("_shared").read_archive("JapaneseVowels", "TRAIN")


def test_a_number_has_to_be_above_zero(run, capsys):
    with pytest.raises(SystemExit):
        run("mnist_rows", "--epochs", "0")
    assert "expected a whole number above zero, got 0" in capsys.readouterr().err


@in_long
@needs_aeon
def test_missing_values_is_named_by_a_cell_of_ones_own_that_also_streams(run, tmp_path, capsys):
    found = run("missing_values", "--epochs", "40")
    assert found["GRU-D"] > found["baseline"] + 0.02 > found["LSTM"]
    assert found["gap"] < 1e-4
    assert "compiled" in capsys.readouterr().out
    assert is_picture(tmp_path / "missing_values.png")
