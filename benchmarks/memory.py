"""Peak memory of a training step: `python -m benchmarks.memory CONTENDER KIND SIZE` prints bytes.

A process of its own for each, which has run a small case before, so that libraries, thread pools
and compiled code don't count; Linux only, for its /proc.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ostinato.bench.cases import Case
from ostinato.bench.contenders import NAMES, Contender
from ostinato.bench.prepared import Prepared, prepare

KEY = ("kind", "size", "contender")
STEPS = 3
CONTENDERS = ("ostinato-jax", "ostinato-torch", "ostinato-tensorflow", "torch.nn")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(make: Callable[[bool], Prepared]) -> int:
    """Bytes that a few steps need beyond what is there before the first.

    Args:
        make: What is run; given True, a small case of it.
    """
    make(True).run()
    prepared = make(False)
    gc.collect()
    _CLEAR.write_text("5")  # the peak so far is forgotten
    before = _kilobytes("VmRSS")
    for _ in range(STEPS):
        prepared.run()
    return (_kilobytes("VmHWM") - before) * 1024


def measure(contender: Contender, case: Case) -> dict[str, Any]:
    """A row: the peak of a contender in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", contender.name, case.kind, case.size]
    done = subprocess.run(
        command, env=contender.environment(), stdout=subprocess.PIPE, check=True, text=True
    )
    return {
        "kind": case.kind,
        "size": case.size,
        "contender": contender.name,
        "bytes": int(done.stdout.split()[-1]),
    }


def _kilobytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"memory: expected {field} in {_STATUS}, got none.")


def main() -> None:
    name, kind, size = sys.argv[1:]
    answer(
        lambda: peak(
            lambda small: prepare(NAMES[name], Case(kind, "S" if small else size, "train"))
        )
    )


def answer(number: Callable[[], int | str]) -> None:
    """Prints a number on standard output, and all that libraries print meanwhile elsewhere."""
    answers = os.dup(1)
    os.dup2(2, 1)
    os.write(answers, f"{number()}\n".encode())


if __name__ == "__main__":
    main()
