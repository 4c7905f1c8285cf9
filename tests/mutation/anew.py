"""A mutant of what runs at import: in a fork that imports the package anew.

The process that forks has imported the frameworks and nothing of ours. Nothing on disk is changed:
the child compiles the mutant in place of the file.
"""

import importlib.machinery
from pathlib import Path

import cosmic_ray.mutating  # noqa: F401 (here, and not in each fork)
import pytest

from mutation.mutants import PACKAGE, mutated
from mutation.trying import Forks, quick_examples, until_one_fails

FILES = 5  # of tests: collecting takes longer than most of them


class Chosen:
    """A plugin: of what is collected runs these tests, in their order, until one fails."""

    def __init__(self, tests: list[str], seconds: dict, budget: float):
        self.tests, self.seconds, self.budget = tests, seconds, budget
        self.result = {"outcome": "killed", "by": "collection"}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self):
        quick_examples()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        if not session.testsfailed:
            items = {item.nodeid: item for item in session.items}
            chosen = [items[test] for test in self.tests if test in items]
            self.result = until_one_fails(chosen, self.seconds, self.budget)
        return True


def chosen(tests: list[str]) -> list[str]:
    """Those tests that lie in the first files."""
    files = [*dict.fromkeys(test.partition("::")[0] for test in tests)][:FILES]
    return [test for test in tests if test.partition("::")[0] in files]


class Anew:
    """Runs a campaign, each mutant in a process that imports the package for it."""

    def __init__(self, campaign, options: list[str], jobs: int, budget: float):
        self.campaign, self.options, self.jobs, self.budget = campaign, options, jobs, budget

    def run(self):
        Forks(self.jobs).run(self.campaign, self.attempt, self.campaign.done)

    def attempt(self, job) -> dict:
        """In a fork: what becomes of a mutant."""
        mutant, tests = job
        if mutant is not None:
            text = mutated(mutant)
            if text is None:
                return {"outcome": "not made"}
            _put(PACKAGE / mutant.file, text)
        plugin = Chosen(chosen(tests), self.campaign.of.seconds, self.budget)
        files = [*dict.fromkeys(test.partition("::")[0] for test in plugin.tests)]
        pytest.main([*self.options, *files], plugins=[plugin])
        return plugin.result


def _put(file: Path, text: str):
    """Has a file's import compile this text."""
    get_code = importlib.machinery.SourceFileLoader.get_code

    def of_mutant(loader, name):
        if Path(loader.path) == file:
            return compile(text, loader.path, "exec")
        return get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = of_mutant
