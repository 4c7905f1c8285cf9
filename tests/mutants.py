"""Which changes of the code no test notices: mutants, drawn at random, one at a time.

    pip install cosmic-ray
    KERAS_BACKEND=torch .venv/bin/python tests/mutants.py plan engines --sample 20 --seed 1

Cosmic Ray makes the changes. Each is tried in a fork of a process that has imported Keras and
PyTorch and nothing of ours, which takes a tenth of a process of its own; so this runs on PyTorch,
which bears a fork before its first computation. Nothing on disk is changed: a child compiles the
mutant in place of the file. What a test starts as a process of its own doesn't see it.

A survivor is a change without consequences (of speed alone, or of a message's words), or a test
that's missing.
"""

import argparse
import collections
import difflib
import importlib.machinery
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "src" / "ostinato"
# What is changed, and the tests that are nearest to it, the quickest first.
AREAS = {
    "plan": (["plan.py"], ["test_plan.py", "engines/test_fused.py"]),
    "engines": (["engines"], ["test_plan.py", "engines", "layers/test_precision.py"]),
    "layers": (["layers"], ["layers", "test_plan.py", "engines/test_fused.py"]),
    "conversion": (["conversion"], ["tools/test_accelerate.py", "tools"]),
    "streaming": (["streaming"], ["tools/test_stream.py", "tools"]),
    "programs": (
        ["programs"],
        ["programs/test_derivatives.py", "programs/test_routines.py", "programs"],
    ),
}


def files_of(area: str) -> list[Path]:
    """The sources of an area."""
    places = [PACKAGE / name for name in AREAS[area][0]]
    return [
        file for place in places for file in sorted([place, *place.rglob("*.py")]) if file.is_file()
    ]


def mutants_of(file: Path) -> list[tuple[Path, str, int]]:
    """Every change that Cosmic Ray could make: the file, the operator, which of its places."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = [*ast_nodes(get_ast(file.read_text(encoding="utf-8")))]
    found = []
    for name in plugins.operator_names():
        operator = plugins.get_operator(name)
        if not operator.arguments():
            places = sum(1 for node in nodes for _ in operator().mutation_positions(node))
            found += [(file, name, place) for place in range(places)]
    return found


def mutated(file: Path, name: str, place: int) -> str:
    """The file's text with one change."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    return mutate_code(file.read_text(encoding="utf-8"), plugins.get_operator(name)(), place)


def test_in_child(file: Path, text: str, tests: list[str], seconds: float) -> str:
    """What becomes of a mutant: killed, survived, or out of time."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        get_code = importlib.machinery.SourceFileLoader.get_code

        def of_mutant(loader, name):
            if Path(loader.path) == file:
                return compile(text, loader.path, "exec")
            return get_code(loader, name)

        importlib.machinery.SourceFileLoader.get_code = of_mutant
        paths = [str(TESTS / test) for test in tests]
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *paths])))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "out of time"


test_in_child.__test__ = False


def shown(before: str, after: str) -> str:
    """The lines that differ."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("areas", nargs="+", choices=AREAS)
    parser.add_argument("--sample", type=int, default=20, help="mutants of each area")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300, help="limit of one mutant's tests")
    options = parser.parse_args()
    if os.environ.get("KERAS_BACKEND") != "torch":
        parser.error("expected KERAS_BACKEND=torch: the other backends can't be forked")
    sys.path.insert(0, str(TESTS))
    import keras  # noqa: F401 (imported for the children)

    counts = collections.Counter()
    for area in options.areas:
        every = [mutant for file in files_of(area) for mutant in mutants_of(file)]
        drawn = random.Random(options.seed).sample(every, min(options.sample, len(every)))
        print(f"\n{area}: {len(drawn)} of {len(every)} mutants", flush=True)
        unchanged = every[0][0].read_text(encoding="utf-8")
        if test_in_child(every[0][0], unchanged, AREAS[area][1], 4 * options.seconds) != "survived":
            print("its tests fail without any change, or take too long: nothing can be said")
            return 1
        for file, name, place in drawn:
            text = mutated(file, name, place)
            outcome = test_in_child(file, text, AREAS[area][1], options.seconds)
            counts[area, outcome] += 1
            what = name.rpartition("/")[2]
            print(f"{outcome}: {file.relative_to(PACKAGE)}: {what}", flush=True)
            if outcome != "killed":
                print(shown(file.read_text(encoding="utf-8"), text), flush=True)
    for (area, outcome), count in sorted(counts.items()):
        print(f"{area}: {count} {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
