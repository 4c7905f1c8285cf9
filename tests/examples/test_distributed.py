"""Training over two processes and over two devices of one: the losses are those of one alone."""

import importlib
import re
import subprocess
import time
from pathlib import Path

import keras
import pytest

from support import in_long, on_one_backend

EXAMPLES = Path(__file__).parents[2] / "examples"
BACKENDS = ("jax", "torch", "tensorflow")
PROGRAM = EXAMPLES / f"distributed_{keras.config.backend()}.py"

pytestmark = pytest.mark.slow


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the program in so many processes, which find one another by loopback."""
    monkeypatch.syspath_prepend(EXAMPLES)
    parallel = importlib.import_module("_parallel")

    def run(processes, *options, program=PROGRAM):
        with (tmp_path / "log").open("w+") as log:
            output = {"stdout": log, "stderr": subprocess.STDOUT}
            try:
                parallel.launch(program, ["--epochs=2", *options], processes, 300, **output)
            finally:
                log.seek(0)
                print(log.read())
            log.seek(0)
            return losses(log.read())

    return run


def losses(printed):
    """By epoch: of one process, and of all."""
    found = re.findall(r"loss by epoch ([\d. ]+);", printed)
    return [[float(loss) for loss in line.split()] for line in found]


def check(alone, together):
    assert together == pytest.approx(alone, rel=1e-5)
    assert alone[1] < 0.95 * alone[0]


@in_long
def test_two_processes(run):
    # On JAX with two devices each: one process's devices alone are in native/sharded_on_jax.py.
    options = ["--devices=2"] if keras.config.backend() == "jax" else []
    check(*run(2, *options))


@in_long
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="MirroredStrategy")
def test_two_devices(run):
    check(*run(1, "--devices=2"))


@on_one_backend
def test_a_process_that_fails_ends_all(run, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\nos.environ['RANK'] == '1' and sys.exit(2)\ntime.sleep(60)"
    )
    begin = time.monotonic()
    with pytest.raises(SystemExit, match=r"they returned \[-9, 2\]"):
        run(2, program=program)
    assert time.monotonic() - begin < 50


@on_one_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes=3"], "expected 256 rows to part among 3 devices, equally"),
        (["--devices=3"], "expected 256 rows to part among 6 devices, equally"),
        (["--processes=0"], "expected numbers of 1 and more"),
        (["--epochs=1"], "2 epochs: the first isn't timed"),
    ],
)
def test_numbers_that_cannot_be(options, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    parallel = importlib.import_module("_parallel")
    with pytest.raises(SystemExit):
        parallel.arguments("Trains.", options, processes=2, devices=1, epochs=4)
    assert message in capsys.readouterr().err


@on_one_backend
@pytest.mark.parametrize("name", BACKENDS)
def test_is_short(name):
    assert len((EXAMPLES / f"distributed_{name}.py").read_text().splitlines()) < 120
