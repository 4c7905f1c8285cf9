"""`python -m benchmarks [PART ...]`: all, or of peers, cliff, memory, stream, cells, report."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import cell_verdicts, cliff, memory, verdicts
from benchmarks.own_cells import CELLS
from ostinato.bench import command
from ostinato.bench.cases import KINDS, Case
from ostinato.bench.contenders import NAMES
from ostinato.bench.results import Results
from ostinato.machine import FRAMEWORKS

PARTS = ("peers", "cliff", "memory", "stream", "cells", "report")
RESULTS = Path("benchmarks/results")


def main() -> int:
    """Measures the parts that are asked for, and writes what there is to the output's folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument(
        "--backend",
        choices=FRAMEWORKS,
        default="jax",
        help="of the cliff table, the streams and cells",
    )
    parser.add_argument("--cells", nargs="+", choices=CELLS, help="cells of one's own")
    parser.add_argument("--no-memory", action="store_true", help="of cells, times alone")
    command.add_options(parser)
    parser.set_defaults(output=RESULTS)
    asked = parser.parse_args()
    parts = asked.parts or list(PARTS)
    if not set(parts) <= set(PARTS):
        parser.error(f"expected parts among {', '.join(PARTS)}, got {' '.join(parts)}")
    if "cliff" in parts:
        _cliff(asked)
    if "memory" in parts:
        _memory(asked)
    if "stream" in parts:
        _stream(asked)
    if "cells" in parts:
        _cells(asked)
    status = _peers(asked) if "peers" in parts else 0
    _report(asked)
    return status


def _peers(asked: argparse.Namespace) -> int:
    """`ostinato bench`, whose table and chart the report writes."""
    numbers = {"json": command.numbers_file(asked), "output": None}
    return command.run(argparse.Namespace(**{**vars(asked), **numbers}))


def _cliff(asked: argparse.Namespace) -> None:
    """The table of options, in a process on the backend that's asked for."""
    arguments = [str(command.numbers_file(asked))]
    choices = {"kinds": cliff.KINDS, "cases": cliff.SIZES, "modes": cliff.MODES}
    for name, known in choices.items():
        chosen = [value for value in getattr(asked, name) or known if value in known]
        if not chosen:
            return
        arguments += [f"--{name}", *chosen]
    if asked.rounds:
        arguments += ["--rounds", str(asked.rounds)]
    environment = {**os.environ, "KERAS_BACKEND": asked.backend}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.cliff", *arguments], env=environment, check=True
    )


def _memory(asked: argparse.Namespace) -> None:
    """Peak memory at L."""
    results = Results(command.numbers_file(asked))
    for kind in asked.kinds or KINDS:
        for name in memory.CONTENDERS:
            if NAMES[name].missing():
                continue
            row = memory.measure(NAMES[name], Case(kind, "L", "train"))
            print(f"{kind} L, training step, {name}: {row['bytes'] >> 20} MB", flush=True)
            results.put("memory", row, memory.KEY)


def _stream(asked: argparse.Namespace) -> None:
    """One timestep at a time, in a process on the backend that's asked for."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.streaming", str(command.numbers_file(asked))],
        env={**os.environ, "KERAS_BACKEND": asked.backend},
        check=True,
    )


def _cells(asked: argparse.Namespace) -> None:
    """Cells of one's own, in a process on the backend that's asked for."""
    arguments = [str(command.numbers_file(asked))]
    choices = {"cells": (asked.cells, CELLS), "sizes": (asked.cases, cell_verdicts.SIZES)}
    choices["modes"] = (asked.modes, cliff.MODES)
    for name, (given, known) in choices.items():
        chosen = [value for value in given or known if value in known]
        if not chosen:
            return
        arguments += [f"--{name}", *chosen]
    if asked.rounds:
        arguments += ["--rounds", str(asked.rounds)]
    if asked.no_memory:
        arguments += ["--no-memory"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.cells", *arguments],
        env={**os.environ, "KERAS_BACKEND": asked.backend},
        check=True,
    )


def _report(asked: argparse.Namespace) -> None:
    """Writes the tables, the chart and the targets, of all numbers so far."""
    results = Results(command.numbers_file(asked))
    command.write(results, asked.output, "python -m benchmarks", asked.engine)
    (asked.output / "targets.md").write_text(verdicts.page(results), encoding="utf-8")
    print(f"Wrote {asked.output / 'targets.md'}\n\n{verdicts.outcome(verdicts.verdicts(results))}")


if __name__ == "__main__":
    sys.exit(main())
