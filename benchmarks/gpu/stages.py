"""The stages, each a process with a limit of its own: one that hangs or fails costs no other."""

import importlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

from benchmarks.gpu import ROOT
from benchmarks.gpu.context import Context, LostCardError
from ostinato.layers import planning

ALL_SECONDS = 470.0
LOST = 4
_TOOLS = ("/usr/local/cuda/bin", "/opt/cuda/bin")


class Stage(NamedTuple):
    """A question.

    Attributes:
        name: Its name.
        module: Which module of this folder answers it.
        backend: The backend that it runs on.
        seconds: How long it may take.
        part: Which part of the module's questions.
        sanitizer: The tool of compute-sanitizer that it runs under, or "".
    """

    name: str
    module: str
    backend: str = "torch"
    seconds: float = 30
    part: str = ""
    sanitizer: str = ""


# The most valuable first: what is left when time is up isn't run.
STAGES = (
    Stage("machine", "machine", seconds=25),
    Stage("check-torch", "check", seconds=60),
    Stage("check-jax", "check", "jax", 45),
    Stage("right-torch", "right", seconds=40, part="cudnn"),
    Stage("right-block", "right", seconds=35, part="block"),
    Stage("right-cluster", "right", seconds=35, part="cluster"),
    Stage("right-grid", "right", seconds=35, part="grid"),
    Stage("right-jax", "right", "jax", 40, part="cudnn"),
    Stage("steps-torch", "steps", seconds=105),
    Stage("packed", "packed", seconds=30),
    Stage("options", "options", seconds=40),
    Stage("own", "own", seconds=35),
    Stage("compiled", "compiled", seconds=30),
    Stage("fit-torch", "fit", seconds=20),
    Stage("fit-jax", "fit", "jax", 25),
    Stage("memcheck", "tiny", seconds=40, sanitizer="memcheck"),
    Stage("racecheck", "tiny", seconds=40, sanitizer="racecheck"),
    Stage("steps-jax", "steps", "jax", 40),
)


def answer(
    stage: Stage, results: Path, seconds: float, fake: bool = False, without: str = ""
) -> int:
    """Runs a stage in this process: an exit status, which is LOST where the card is."""
    context = Context(stage.name, results, seconds, fake, stage.part, without)
    if without:  # nor does the plan take it by itself, where it has been checked
        planning.is_checked = lambda card: False
    try:
        importlib.import_module(f"benchmarks.gpu.{stage.module}").run(context)
    except LostCardError as error:
        context.tell(f"The card is lost to this process: {error}", lost=True)
        return LOST
    return min(1, context.wrong)


def run_all(stages: list[Stage], results: Path, log: TextIO) -> int:
    """Runs stages one after the other: how many weren't well."""
    began, bad = time.monotonic(), 0
    for stage in stages:
        left = ALL_SECONDS - (time.monotonic() - began)
        limit = min(stage.seconds, left)
        command = _command(stage, results, limit, "")
        if limit < 5 or command is None:
            why = "time is up" if limit < 5 else "compute-sanitizer isn't installed"
            _say(log, f"== {stage.name}: not run, {why}")
            continue
        _say(log, f"== {stage.name}, of {limit:.0f} s")
        start = time.monotonic()
        code = watched(command, limit, log, {"KERAS_BACKEND": stage.backend})
        bad += code != 0
        rest = limit - (time.monotonic() - start)
        if code == LOST and stage.module != "right" and not stage.sanitizer and rest > 8:
            _say(log, f"== {stage.name} again, without the engine cuda")
            again = _command(stage, results, rest, "cuda")
            code = watched(again or [], rest, log, {"KERAS_BACKEND": stage.backend})
        said = "stopped at its limit" if code is None else f"exit {code}"
        _say(log, f"== {stage.name}: {said}, {time.monotonic() - start:.1f} s")
    return bad


def _command(stage: Stage, results: Path, limit: float, without: str) -> list[str] | None:
    ours = [sys.executable, "-u", "-m", "benchmarks.gpu", stage.name, "--inside"]
    # It ends by itself before it's ended.
    ours += ["--output", str(results.parent), "--seconds", f"{limit - 3:.0f}"]
    ours += ["--without", without]
    if not stage.sanitizer:
        return ours
    path = os.pathsep.join((os.environ.get("PATH", ""), *_TOOLS))
    tool = shutil.which("compute-sanitizer", path=path)
    asked = ["--tool", stage.sanitizer, "--error-exitcode", "9", "--print-limit", "20"]
    return None if tool is None else [tool, *asked, *ours]


def watched(
    command: list[str], limit: float, log: TextIO, environment: dict[str, str]
) -> int | None:
    """Runs a command, prints and keeps what it says: its exit status, or None at the limit."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        until = time.monotonic() + limit
        while (left := until - time.monotonic()) > 0:
            if not select.select([process.stdout], [], [], left)[0]:
                break
            text = os.read(process.stdout.fileno(), 1 << 16)
            if not text:
                return process.wait(max(1.0, left))
            _say(log, text.decode(errors="replace"), end="")
        os.killpg(process.pid, signal.SIGKILL)
        return None


def _say(log: TextIO, text: str, end: str = "\n") -> None:
    for place in (sys.stdout, log):
        print(text, end=end, file=place, flush=True)
