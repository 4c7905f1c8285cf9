"""The script of checks for a GPU, tried without one: its stages at tiny sizes, and their limits."""

import io
import json
import sys

import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("its stages on JAX take long to compile", allow_module_level=True)

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import running, stages
from benchmarks.gpu.context import Context

TORCH = (
    "machine",
    "check-torch",
    "right-torch",
    "right-grid",
    "steps-torch",
    "packed",
    "options",
    "own",
    "compiled",
)


@pytest.mark.parametrize("name", [*TORCH, "memcheck"])
def test_a_stage_runs_to_its_end(name, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    (stage,) = (stage for stage in stages.STAGES if stage.name == name)
    before = keras.config.dtype_policy()
    assert stages.answer(stage, results, 60, fake=True) == 0
    assert keras.config.dtype_policy() is before
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert rows
    assert {row["stage"] for row in rows} == {name}
    assert not [row for row in rows if "error" in row or "refused" in row or "left_out" in row]
    assert rows[0]["text"] in capsys.readouterr().out


def test_the_script_takes_stages_and_the_folder_that_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setattr(sys, "argv", ["gpu", "machine", "fit-jax", "--fake"])
    assert script.main() == 0
    rows = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert {json.loads(row)["stage"] for row in rows} == {"machine"}  # JAX isn't here
    monkeypatch.setattr(sys, "argv", ["gpu", "machin"])
    with pytest.raises(SystemExit):
        script.main()
    assert "got machin" in capsys.readouterr().err


def test_what_is_wrong_is_counted(tmp_path, monkeypatch):
    from benchmarks.gpu import right

    monkeypatch.setitem(right.TOLERANCES, "float32", 0.0)
    context = Context("right", tmp_path / "results", fake=True)
    right._check(context, "cudnn", right.Case("gru"), "float32", is_bidirectional=False)
    right._check(context, "cudnn", right.Case("lstm", "gelu"), "float32", is_bidirectional=False)
    assert context.wrong == 2
    assert "WRONG cudnn" in context.results.read_text()
    assert "activation is gelu" in context.results.read_text()


def test_what_there_is_no_time_for_is_said(tmp_path):
    context = Context("a stage", tmp_path / "results", seconds=1)
    assert list(context.within("abc", needs=2)) == []
    assert json.loads(context.results.read_text())["left_out"] == ["a", "b", "c"]


def test_a_stage_that_loses_the_card_ends_and_is_asked_again_without_cuda(tmp_path, monkeypatch):
    def lost(result):
        raise RuntimeError("CUDA error: unspecified launch failure")

    results = tmp_path / "results.jsonl"
    (stage,) = (stage for stage in stages.STAGES if stage.name == "own")
    with monkeypatch.context() as patch:
        patch.setattr(running, "_waited", lost)
        assert stages.answer(stage, results, 60, fake=True) == stages.LOST
    assert "The card is lost" in results.read_text()
    asked, codes = [], iter([stages.LOST, 0])
    monkeypatch.setattr(stages, "watched", lambda command, *_: asked.append(command) or next(codes))
    assert stages.run_all([stage], results, io.StringIO()) == 1
    assert [command[-1] for command in asked] == ["", "cuda"]


def test_a_stage_that_hangs_is_ended_and_what_it_said_is_kept():
    log = io.StringIO()
    program = "import time; print('begun', flush=True); time.sleep(60)"
    assert stages.watched([sys.executable, "-c", program], 0.5, log, {}) is None
    assert stages.watched([sys.executable, "-c", "exit(3)"], 30, log, {}) == 3
    assert log.getvalue() == "begun\n"
