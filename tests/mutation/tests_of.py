"""Which tests run a line, and in what order to try them: read from what covering.py wrote."""

import ast
import collections
import functools
import json
from pathlib import Path

from mutation.mutants import PACKAGE, Mutant

SLOW = 0.5  # seconds of a test that comes late, whatever it runs


class Map:
    """Of each line of the package the tests that run it, and of each test its CPU time."""

    def __init__(self, folder: Path):
        import coverage

        self.seconds: dict[str, float] = {}
        for file in sorted(folder.glob("seconds.*.jsonl")):
            for line in file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.seconds[record["test"]] = record["seconds"]
        self._of_file = collections.defaultdict(list)
        for test in self.seconds:
            self._of_file[test.partition("::")[0]].append(test)
        self._lines = collections.defaultdict(lambda: collections.defaultdict(set))
        for file in sorted(folder.glob("lines.*")):
            data = coverage.CoverageData(str(file))
            data.read()
            for source in data.measured_files():
                if Path(source).is_relative_to(PACKAGE):
                    lines = self._lines[str(Path(source).relative_to(PACKAGE))]
                    for line, contexts in data.contexts_by_lineno(source).items():
                        lines[line].update(contexts)

    def runs_at_import(self, file: str, line: int) -> bool:
        """Whether a line, or its statement, runs when its file is imported."""
        return any("" in self._lines[file].get(at, ()) for at in (line, *_extent(file, line)))

    def at_line(self, file: str, line: int) -> set[str]:
        """The tests that run a line; of one that isn't a line of its own, its statement."""
        lines = self._lines[file]
        for number in (range(line, line + 1), _extent(file, line)):
            contexts = set().union(*(lines.get(at, ()) for at in number)) - {""}
            if contexts:
                return self._tests(contexts)
        return set()

    def at_uses(self, file: str, line: int) -> set[str]:
        """For a line that runs at import: the tests that run what depends on it, as far as seen."""
        first, last, names = _bound(file, line)
        found = set()
        for at in range(first, last + 1):
            found |= self._tests(self._lines[file].get(at, set()) - {""})
        for source in self._lines:
            for at in _uses(source, frozenset(names)):
                found |= self._tests(self._lines[source].get(at, set()) - {""})
        return found

    def _tests(self, contexts: set[str]) -> set[str]:
        found = set()
        for context in contexts:
            file, _, name = context.partition("::")
            found.update(self._of_file[file] if name == "*" else [context])
        return found & self.seconds.keys()

    def in_order(self, tests: set[str], file: str, line: int) -> list[str]:
        """In turn the quickest, and one that runs what few others do of the line's function.

        Of both each test function's first, then each one's second.
        """
        quick = self._first_of_each(sorted(tests, key=lambda test: (self.seconds[test], test)))
        rarity = self._rarity(file, line)
        rare = self._first_of_each(
            sorted(tests, key=lambda test: (self.seconds[test] > SLOW, rarity.get(test, 0), test))
        )
        return [*dict.fromkeys(test for pair in zip(quick, rare, strict=True) for test in pair)]

    def _first_of_each(self, tests: list[str]) -> list[str]:
        turns = collections.Counter()
        ordered = []
        for place, test in enumerate(tests):
            function = test.partition("[")[0]
            ordered.append((turns[function], place, test))
            turns[function] += 1
        return [test for *_, test in sorted(ordered)]

    @functools.lru_cache(maxsize=64)  # noqa: B019 (there is one map)
    def _rarity(self, file: str, line: int) -> dict[str, int]:
        """Of each test how many run that line of a function which the fewest run."""
        first, last = _function(file, line)
        found = {}
        for at in range(first, last + 1):
            tests = self._tests(self._lines[file].get(at, set()) - {""})
            for test in tests:
                found[test] = min(len(tests), found.get(test, len(tests)))
        return found


@functools.cache
def _tree(file: str):
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


@functools.cache
def _extent(file: str, line: int) -> range:
    """The lines of the smallest statement around a line; of one with a body, those before that."""
    found = range(line, line + 1)
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno:
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            if line <= end:
                found = range(node.lineno, end + 1)
    return found


@functools.cache
def _function(file: str, line: int) -> tuple[int, int]:
    """The lines of the innermost function around a line."""
    found = line, line
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= node.end_lineno:
            found = node.lineno, node.end_lineno
    return found


@functools.cache
def _bound(file: str, line: int) -> tuple[int, int, frozenset[str]]:
    """Around a line at import: the lines of its function or class, and the names that it binds."""
    first, last, names = line, line, set()
    for node in ast.walk(_tree(file)):
        if not isinstance(node, ast.stmt):
            continue
        begins = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if begins <= line <= node.end_lineno:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first, last, names = begins, node.end_lineno, {node.name}
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                stored = [each for target in targets for each in ast.walk(target)]
                names = {each.id for each in stored if isinstance(each, ast.Name)}
                first, last = begins, node.end_lineno
    return first, last, frozenset(names)


@functools.cache
def _uses(file: str, names: frozenset[str]) -> frozenset[int]:
    """The lines of a file that read one of the names, or an attribute of that name."""
    return frozenset(
        node.lineno
        for node in ast.walk(_tree(file))
        if getattr(node, "id", getattr(node, "attr", None)) in names
    )


def tests_of(mutant: Mutant, of: Map) -> list[str]:
    """The tests that run a mutant's line, in order."""
    return of.in_order(of.at_line(mutant.file, mutant.line), mutant.file, mutant.line)


def tests_of_uses(mutant: Mutant, of: Map) -> list[str]:
    """The tests of what a mutant that runs at import changes."""
    return of.in_order(of.at_uses(mutant.file, mutant.line), mutant.file, mutant.line)
