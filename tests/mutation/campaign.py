"""Which mutants are tried with which tests, and what becomes of them: the journal."""

import collections
import itertools
import json
from pathlib import Path

from mutation.mutants import PACKAGE, Mutant, mutated
from mutation.tests_of import Map

OFTEN = 8  # tests that have killed most in the same statement, or file, and so come first

MANY = 2  # survivors of one line, after which its other mutants come last: they mostly survive, too


class Journal:
    """A line of JSON a mutant, so that a run that ends goes on from there."""

    def __init__(self, file: Path):
        self.file = file
        self.records = {}
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.records[record["key"]] = record

    def add(self, record: dict):
        self.records[record["key"]] = record
        with self.file.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(record) + "\n")


class Campaign:
    """Gives jobs: a mutant, or None for the code as it is, and tests. Takes what came of them."""

    def __init__(self, mutants: list[Mutant], tests_of, of: Map, journal: Journal, known: set[str]):
        self.of, self.journal, self.known = of, journal, known
        self._tests_of = tests_of
        self._todo = collections.deque(mutants)
        self._late = collections.deque()
        self._survivors = collections.Counter()  # by line, of those whose tests took too long
        self._killers = collections.defaultdict(collections.Counter)
        self._sound: set[str] = set()  # tests that pass alone, in a fork, on the code as it is
        self._unsound: set[str] = set()
        self._held = collections.defaultdict(list)  # by the test that killed them, not yet seen so
        self._to_see = collections.deque()

    def modules(self) -> list[str]:
        """Of all mutants the modules, by name."""
        files = dict.fromkeys(mutant.file for mutant in self._todo)
        names = (file.removesuffix(".py").removesuffix("/__init__") for file in files)
        return [f"ostinato.{name.replace('/', '.')}" for name in names]

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            if self._to_see:
                return None, [self._to_see.popleft()]
            if not self._todo and not self._late:
                raise StopIteration
            late = not self._todo
            mutant = (self._late if late else self._todo).popleft()
            if not late and self._survivors[mutant.file, mutant.line] >= MANY:
                self._late.append(mutant)
                continue
            if tests := self._in_order(mutant):
                return mutant, tests
            at_import = self.of.runs_at_import(mutant.file, mutant.line)
            outcome = "at import" if at_import else "no test"
            self._record(mutant, {"outcome": outcome, "seconds": 0, "of": 0})

    def _in_order(self, mutant):
        tests = [
            test
            for test in self._tests_of(mutant, self.of)
            if test in self.known and test not in self._unsound
        ]
        there, first = set(tests), {}  # a dict for its order
        for where in ((mutant.file, mutant.statement), mutant.file):
            killers = (test for test, _ in self._killers[where].most_common() if test in there)
            first.update(dict.fromkeys(itertools.islice(killers, OFTEN)))
        return [*first, *(test for test in tests if test not in first)]

    def done(self, job, result):
        mutant, tests = job
        if mutant is None:
            self._seen(tests[0], result["outcome"] == "survived")
            return
        result["of"] = len(tests)
        killer = result.get("by")
        if result["outcome"] != "killed" or killer not in self.known or killer in self._sound:
            self._record(mutant, result)
            return
        if killer not in self._held:
            self._to_see.append(killer)
        self._held[killer].append((mutant, result))

    def _seen(self, test, sound):
        (self._sound if sound else self._unsound).add(test)
        if not sound:
            print(f"fails by itself, without any change: {test}", flush=True)
        for mutant, result in self._held.pop(test):
            if sound:
                self._record(mutant, result)
            else:
                self._todo.append(mutant)

    def _record(self, mutant, result):
        if result["outcome"] == "survived" and result["ran"] < result["of"]:
            self._survivors[mutant.file, mutant.line] += 1
        if result["outcome"] == "killed" and result.get("by") in self.known:
            for where in ((mutant.file, mutant.statement), mutant.file):
                self._killers[where][result["by"]] += 1
        record = {"key": mutant.key, "file": mutant.file, "line": mutant.line}
        record["operator"] = mutant.operator.rpartition("/")[2]
        if result["outcome"] not in ("killed", "at import"):
            record["change"] = change(mutant)
        self.journal.add({**record, **result})


def change(mutant: Mutant) -> list[str]:
    """The lines that differ: before, after."""
    before = (PACKAGE / mutant.file).read_text(encoding="utf-8").splitlines()
    after = (mutated(mutant) or "").splitlines()
    for old, new in zip(before, after, strict=False):
        if old != new:
            return [old.strip(), new.strip()]
    return ["", ""]
