"""Which changes of the code no test notices: mutants, by Cosmic Ray, of whole areas.

    pip install cosmic-ray coverage
    export KERAS_BACKEND=torch OMP_NUM_THREADS=1
    .venv/bin/python tests/mutants.py map                       # some 10 minutes, once
    .venv/bin/python tests/mutants.py live plan.py engines      # goes on where it ended
    .venv/bin/python tests/mutants.py live plan.py engines --again --budget 20
    .venv/bin/python tests/mutants.py anew plan.py engines      # what runs at import; after `live`
    .venv/bin/python tests/mutants.py once plan.py engines      # with tests/no_backend, the rest
    .venv/bin/python tests/mutants.py report plan.py engines --survivors

`map` keeps which tests run which lines. `live` forks a process that has collected all tests: a
child swaps a mutant's code into the live functions and runs the tests of its line. A fork before
PyTorch's first computation is safe, which the other backends don't bear. Nothing on disk is changed
but the folder of results. What a test starts as a process of its own sees no mutant.

A survivor is a change without consequences (of speed alone, or of a message's words), or a test
that's missing.
"""

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mutation.campaign import Campaign, Journal
from mutation.mutants import PACKAGE, mutants_of
from mutation.report import outcomes, print_counts, print_survivors
from mutation.tests_of import Map, tests_of, tests_of_uses

TESTS = Path(__file__).resolve().parent

AREAS = ("plan.py", "engines", "layers", "conversion", "streaming", "programs")
# They start processes, train for long or are about other backends' compilers.
LEFT_OUT = ("docs", "guide", "examples", "cuda", "tools/test_bench.py", "tools/test_gpu_script.py")
ON_TORCH = ["tests", "-m", "not slow", *(f"--ignore=tests/{name}" for name in LEFT_OUT)]
ONCE = ["tests/no_backend"]
QUIET = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:terminalreporter", "--tb=native"]


def areas_mutants(areas: list[str], left_out: collections.Counter) -> list:
    """Every mutant of files or folders of the package."""
    files = []
    for area in areas:
        place = PACKAGE / area
        found = [place] if place.is_file() else sorted(place.rglob("*.py"))
        files += [str(file.relative_to(PACKAGE)) for file in found]
    return [mutant for file in files for mutant in mutants_of(file, left_out)]


def write_map(folder: Path):
    """Runs all tests, and keeps which lines they run."""
    for name, tests in (("torch", ON_TORCH), ("once", ONCE)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        variables = {"PYTHONPATH": str(TESTS), "OSTINATO_COVERING": str(folder / name)}
        command = ["pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-p", "mutation.covering"]
        subprocess.run([sys.executable, "-m", *command, *tests], env={**os.environ, **variables})


def run(how: str, todo: list, folder: Path, options: argparse.Namespace):
    """Tries mutants: how is "live", "anew" or "once"."""
    of = Map(folder / ("once" if how == "once" else "torch"))
    journal = Journal(folder / f"{how}.jsonl")
    todo = [mutant for mutant in todo if not _is_done(journal.records.get(mutant.key), options)]
    print(f"{how}: {len(todo)} mutants, beside {len(journal.records)} done", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        quiet = [*QUIET, "--assert=plain", f"--basetemp={temporary}/tests"]
        if how == "anew":
            from mutation.anew import Anew

            campaign = Campaign(todo, tests_of_uses, of, journal, of.seconds.keys())
            Anew(campaign, quiet, options.jobs, options.budget).run()
            return
        from mutation.live import Live

        def campaign_with(known):
            return Campaign(todo, tests_of, of, journal, known)

        plugin = Live(campaign_with, options.jobs, options.budget)
        pytest.main([*quiet, *(ONCE if how == "once" else ON_TORCH)], plugins=[plugin])


def _is_done(record: dict | None, options: argparse.Namespace) -> bool:
    """Whether a mutant needn't be tried; with `--again` those must whose tests took too long."""
    cut_short = record and record["outcome"] == "survived" and record["ran"] < record["of"]
    return record is not None and not (options.again and cut_short)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("map", "live", "anew", "once", "report"))
    parser.add_argument("areas", nargs="*", default=AREAS, help="files or folders of the package")
    parser.add_argument("--folder", type=Path, default=Path("build/mutants"), help="of results")
    parser.add_argument(
        "--seed", type=int, help="in an order drawn at random: a sample, if stopped"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--budget", type=float, default=1, help="seconds of tests of a mutant")
    parser.add_argument("--again", action="store_true", help="survivors of a smaller budget, too")
    parser.add_argument("--survivors", action="store_true", help="shows each")
    options = parser.parse_args()
    if os.environ.get("KERAS_BACKEND") != "torch":
        parser.error("expected KERAS_BACKEND=torch: the other backends can't be forked")
    return options


def main() -> int:
    options = read_arguments()
    options.folder = options.folder.resolve()
    os.chdir(TESTS.parent)
    if options.what == "map":
        write_map(options.folder)
        return 0
    left_out = collections.Counter()
    mutants = areas_mutants(options.areas, left_out)
    if options.seed is not None:
        random.Random(options.seed).shuffle(mutants)
    known = outcomes(options.folder)
    if options.what == "report":
        print_counts(mutants, known, left_out)
        if options.survivors:
            print_survivors(mutants, known)
        return 0
    left = {"anew": ("at import",), "once": ("survived", "no test", "at import")}
    if options.what in left:
        mutants = [m for m in mutants if known.get(m.key, {}).get("outcome") in left[options.what]]
    run(options.what, mutants, options.folder, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
