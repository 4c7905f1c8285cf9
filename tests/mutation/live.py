"""A plugin of pytest: once all tests are collected, each mutant in a fork, its code swapped in."""

import gc
import importlib
import sys

import cosmic_ray.mutating  # noqa: F401 (here, and not in each fork)
import pytest

from mutation.campaign import Campaign
from mutation.covering import forget
from mutation.mutants import PACKAGE, mutated
from mutation.swapping import OutsideFunctionsError, live_functions, swap
from mutation.trying import Forks, quick_examples, until_one_fails


class Live:
    """In place of running the tests, runs a campaign with them."""

    def __init__(self, make_campaign, jobs: int, budget: float):
        self.make_campaign, self.jobs, self.budget = make_campaign, jobs, budget

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self):
        quick_examples()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        self.items = {item.nodeid: item for item in session.items}
        session.config._tmp_path_factory.getbasetemp()  # one for all forks
        self.campaign: Campaign = self.make_campaign(set(self.items))
        if "keras" in sys.modules:  # not with tests/no_backend
            sys.modules["keras"].utils.set_random_seed(0)  # imports TensorFlow: 4 s
        for name in self.campaign.modules():
            importlib.import_module(name)  # else tests would do so, and find no mutant
        self.functions = live_functions(str(PACKAGE))
        forget()
        gc.collect()
        gc.freeze()  # nothing of this is looked through again in a fork
        Forks(self.jobs).run(self.campaign, self.attempt, self.campaign.done)
        return True

    def attempt(self, job) -> dict:
        """In a fork: what becomes of a mutant."""
        mutant, tests = job
        if mutant is not None:
            text = mutated(mutant)
            if text is None:
                return {"outcome": "not made"}
            file = PACKAGE / mutant.file
            before = compile(file.read_text(encoding="utf-8"), str(file), "exec")
            try:
                if not swap(self.functions, before, compile(text, str(file), "exec")):
                    return {"outcome": "at import"}
            except SyntaxError:
                return {"outcome": "not made"}
            except OutsideFunctionsError:
                return {"outcome": "at import"}
        items = [self.items[test] for test in tests]
        return until_one_fails(items, self.campaign.of.seconds, self.budget)
