"""The house rules (CONTRIBUTING.md, "Rules"), read off the package's source."""

import ast
import functools
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from ostinato.engines.table import NAMES

ROOT = Path(__file__).parents[2] / "src" / "ostinato"
FILES = sorted(ROOT.rglob("*.py"))

# Data flows down, and so do imports. What is in no list is a tool over the layers.
FOUNDATION, DOORS, CELLS, PROGRAMS, ENGINES, PLAN, LAYERS, TOOLS = range(8)
RANKS = {
    "nests": FOUNDATION,
    "structure": FOUNDATION,
    "backend": FOUNDATION,
    "int8": FOUNDATION,
    "native": FOUNDATION,
    "checkpoints": FOUNDATION,
    "runs": FOUNDATION,
    "cudnn": FOUNDATION,
    "routines": FOUNDATION,
    "signatures": FOUNDATION,
    "tensors": DOORS,
    "doors": DOORS,
    "cells": CELLS,
    "cuda": PROGRAMS,
    "programs": PROGRAMS,
    "engines": ENGINES,
    "plan": PLAN,
    "settings": PLAN,
    "layers": LAYERS,
}
FRAMEWORKS = {"jax", "jaxlib", "torch", "tensorflow"}
RECURRENT = {
    *("RNN", "SimpleRNN", "GRU", "LSTM", "SimpleRNNCell", "GRUCell", "LSTMCell"),
    *("StackedRNNCells", "Bidirectional"),
}
# What runs a saved stream, and all that it imports, has no Keras.
RUN_WITHOUT_KERAS = {
    "ostinato.nests",
    *(f"ostinato.streaming.{name}" for name in ("program", "compiled", "files", "stream")),
}
# A section of the guide that fails is shown, and fails the run at its end. Whatever a cell's code
# raises on symbols is the reason why the cell isn't compiled.
CATCHES_ALL = {
    "ostinato.guide.course",
    "ostinato.programs.tracing.run",
    "ostinato.programs.proving",  # in a thread, for the one that waits
    "ostinato.programs.compiling",
}
# Makes PyTorch's modules, where it's installed, whatever Keras runs on.
MAKES_TORCH_MODULES = "ostinato.conversion.writing_torch"
# Keras's `model.quantize` leaves a layer as it is, with a warning, that raises this, and no other.
TOLD_BY_NOT_IMPLEMENTED = "ostinato.layers.cell"
# What measures frameworks and Keras's layers uses them as their users do.
MEASURES_FRAMEWORKS = "ostinato.bench"
MEASURES_KERAS = {"ostinato.guide.timing", "ostinato.bench.prepared"}
# Keras's RNN draws one dropout mask a sequence for cells of a class that it doesn't export.
KNOWN_TO_KERAS = "ostinato.layers.dropout_protocol"
# The report of the guide shows it as it stands: code as a reader of the guide would write it.
SHOWN = "ostinato.guide.examples"
MAX_LINES_OF_FILE = 450
MAX_LINES_OF_FUNCTION = 60


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def rank(module) -> int:
    parts = module.split(".")
    return RANKS.get(parts[1], TOOLS) if len(parts) > 1 else TOOLS


def for_types_only(tree) -> set:
    """The nodes under `if TYPE_CHECKING:`."""
    blocks = [
        n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    return {inner for block in blocks for inner in ast.walk(block)}


@functools.cache
def imports(path) -> tuple[str, ...]:
    """Every module or `module.name` that a file imports, wherever in it."""
    tree = parsed(path)
    skipped = for_types_only(tree)
    found = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def imported_modules(path) -> set[str]:
    """The modules of the package that a file imports."""
    ours = [name for name in imports(path) if name.split(".")[0] == "ostinato"]
    return {name if name in MODULES else name.rpartition(".")[0] for name in ours}


def dotted(node) -> str:
    """`keras.layers.LSTM` of the expression that spells it; "" of any other."""
    if isinstance(node, ast.Name):
        return node.id
    base = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{base}.{node.attr}" if base else ""


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def public_definitions(node, prefix=""):
    """Classes and functions that a reader may call, with their qualified names."""
    for child in node.body:
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef)) or child.name.startswith("_"):
            continue
        yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from public_definitions(child, f"{prefix}{child.name}.")


def offences(find) -> list[str]:
    """`file: offence` for all that `find(path)` finds."""
    return [f"{path.relative_to(ROOT)}: {found}" for path in FILES for found in find(path)]


def test_the_package_is_found():
    assert {"ostinato.layers.rnn", "ostinato.engines.scan", "ostinato.doors.jax"} <= MODULES.keys()


def test_imports_point_down():
    def upward(path):
        mine = rank(module_of(path))
        return [name for name in imported_modules(path) if rank(name) > mine]

    assert not offences(upward)


def test_imports_have_no_cycle():
    TopologicalSorter({m: imported_modules(path) - {m} for m, path in MODULES.items()}).prepare()


def test_only_doors_import_a_framework():
    def frameworks(path):
        module = module_of(path)
        if rank(module) == DOORS or module.startswith(MEASURES_FRAMEWORKS):
            return []
        if module == MAKES_TORCH_MODULES:
            return [name for name in imports(path) if name.split(".")[0] in FRAMEWORKS - {"torch"}]
        return [name for name in imports(path) if name.split(".")[0] in FRAMEWORKS]

    assert not offences(frameworks)


def test_a_saved_stream_runs_without_keras():
    seen, to_see = set(), RUN_WITHOUT_KERAS | {"ostinato", "ostinato.streaming"}
    while to_see:
        seen |= to_see
        to_see = {m for module in to_see for m in imported_modules(MODULES[module])} - seen
    assert {"ostinato.native", *RUN_WITHOUT_KERAS} <= seen < MODULES.keys()
    foreign = {
        f"{module}: {name}"
        for module in seen
        for name in imports(MODULES[module])
        if name.split(".")[0] in FRAMEWORKS | {"keras"}
    }
    # What says which backend Keras runs on, asks Keras only where it has been imported.
    assert foreign <= {"ostinato.backend: keras"}, foreign


@pytest.mark.parametrize("framework", ["jax", "torch", "tensorflow"])
def test_each_door_imports_its_own_framework_only(framework):
    packages = {name.split(".")[0] for name in imports(ROOT / "doors" / f"{framework}.py")}
    assert packages & FRAMEWORKS == {framework}


def test_only_its_own_file_and_the_table_know_an_engine_by_name():
    names = {path.stem for path in (ROOT / "engines").glob("*.py")} & set(NAMES)
    assert names == set(NAMES)

    def named(path):
        if path.parent.name == "engines" and path.stem in {*NAMES, "table"}:
            return []
        if rank(module_of(path)) == DOORS:  # where the native operation has that name
            return []
        nodes = list(ast.walk(parsed(path)))
        # For readers, and so in docstrings, they're listed.
        listed = {node.value for node in nodes if isinstance(node, ast.Expr)}
        constants = {node for node in nodes if isinstance(node, ast.Constant)} - listed
        return [f"line {node.lineno}" for node in constants if speaks_of_one(node.value)]

    def speaks_of_one(value):
        quoted = {f"{quote}{name}{quote}" for quote in "'\"" for name in NAMES}
        return value in NAMES or any(name in str(value) for name in quoted)

    assert not offences(named)


def test_no_file_imports_an_engine():
    modules = {f"ostinato.engines.{name}" for name in NAMES}
    assert modules < MODULES.keys()
    assert not offences(lambda path: imported_modules(path) & modules)


def test_keras_is_used_by_its_public_names():
    def private(path):
        nodes = list(ast.walk(parsed(path)))
        named = [*imports(path)]
        named += [dotted(node) for node in nodes if isinstance(node, ast.Attribute)]
        named += [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
        return [name for name in named if re.match(r"keras\.(src\b|(\w+\.)*_(?!_))", name)]

    assert not offences(private)


def test_no_recurrent_class_of_keras_is_used():
    def recurrent(path):
        if module_of(path) == KNOWN_TO_KERAS:
            return []
        names = imports(path)
        used = [name for name in names if name.startswith("keras.layers.")]
        bases = {"keras.layers"} | ({"layers"} if "keras.layers" in names else set())
        attributes = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)]
        used += [dotted(node) for node in attributes if dotted(node.value) in bases]
        return [name for name in used if name.rpartition(".")[2] in RECURRENT]

    assert not offences(recurrent)


def test_keras_layers_are_looked_up_by_name_for_timing_only():
    def looked_up(path):
        if module_of(path) in MEASURES_KERAS:
            return []
        calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
        return [
            f"line {call.lineno}"
            for call in calls
            if dotted(call.func) in ("getattr", "vars")
            and dotted(call.args[0]).endswith("keras.layers")
        ]

    assert not offences(looked_up)


def test_no_exception_is_caught_blindly():
    def blind(path):
        if module_of(path) in CATCHES_ALL:
            return
        for node in ast.walk(parsed(path)):
            caught = []
            if isinstance(node, ast.ExceptHandler):
                caught = list(ast.walk(node.type)) if node.type else [ast.Name("Exception")]
            elif isinstance(node, ast.Call) and dotted(node.func).endswith("suppress"):
                caught = node.args
            if {"Exception", "BaseException"} & {dotted(inner) for inner in caught}:
                yield f"line {node.lineno}"

    assert not offences(blind)


def test_nothing_raises_not_implemented():
    def unimplemented(path):
        if module_of(path) == TOLD_BY_NOT_IMPLEMENTED:
            return []
        raises = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Raise)]
        return [
            f"line {node.lineno}"
            for node in raises
            if "NotImplementedError" in {dotted(inner) for inner in ast.walk(node)}
        ]

    assert not offences(unimplemented)


def test_files_are_short():
    def long(path):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        return [f"{lines} lines"] if lines > MAX_LINES_OF_FILE else []

    assert not offences(long)


def test_functions_are_short():
    def long(path):
        sizes = [(f.name, f.end_lineno - f.lineno + 1) for f in functions(parsed(path))]
        return [f"{name}, {lines} lines" for name, lines in sizes if lines > MAX_LINES_OF_FUNCTION]

    assert not offences(long)


def test_what_is_public_has_a_docstring():
    def undocumented(path):
        tree = parsed(path)
        public = [] if module_of(path) == SHOWN else public_definitions(tree)
        named = [("the module", tree), *public]
        return [name for name, node in named if not ast.get_docstring(node)]

    assert not offences(undocumented)


def test_what_is_public_is_annotated():
    def unannotated(path):
        for name, node in public_definitions(parsed(path)):
            if isinstance(node, ast.FunctionDef) and module_of(path) != SHOWN:
                a = node.args
                arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
                typed = [x for x in arguments if x is not None and x.arg not in ("self", "cls")]
                if node.returns is None or any(x.annotation is None for x in typed):
                    yield name

    assert not offences(unannotated)


def test_nothing_is_left_to_do():
    def notes(path):
        return re.findall(r"\b(?:TODO|FIXME|XXX)\b", path.read_text(encoding="utf-8"))

    assert not offences(notes)
