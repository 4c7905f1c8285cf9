"""A plugin of pytest: which tests run which lines of the package, and the CPU time of each.

    PYTHONPATH=tests OSTINATO_COVERING=FOLDER pytest -p mutation.covering ...

writes FOLDER/lines.WORKER (of coverage.py, a context a test) and FOLDER/seconds.WORKER.jsonl.
"""

import json
import os
import sys
import time
from pathlib import Path

import coverage
import pytest

FOLDER = Path(os.environ.get("OSTINATO_COVERING", "."))
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
PACKAGE = Path(__file__).resolve().parents[2] / "src" / "ostinato"
CACHED = tuple(
    f"ostinato.{area}" for area in ("plan", "engines", "layers", "conversion", "streaming")
)


def forget():
    """Empties the caches of what is changed: else the first test alone would run those lines."""
    for name, module in [*sys.modules.items()]:
        if name.startswith(CACHED):
            for value in [*vars(module).values()]:
                for cached in (value, *_held_by(value)):  # PyTorch's `remembered` holds one
                    if hasattr(cached, "cache_clear") and cached.__module__ == name:
                        cached.cache_clear()


def _held_by(value):
    return [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]


class Covering:
    """Switches contexts: a test's lines are its own; those of a wider fixture are its file's."""

    def __init__(self):
        data = FOLDER / f"lines.{WORKER}"
        self.coverage = coverage.Coverage(data_file=str(data), source=[str(PACKAGE)])
        self.coverage.start()
        self.seconds = (FOLDER / f"seconds.{WORKER}.jsonl").open("w", encoding="utf-8")
        self.context = ""

    def switch(self, context):
        """Names what runs from here on; gives what ran before."""
        before, self.context = self.context, context
        self.coverage.switch_context(context)
        return before

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        forget()
        self.switch(item.nodeid)
        begun = time.process_time()
        result = yield
        record = {"test": item.nodeid, "seconds": round(time.process_time() - begun, 4)}
        self.seconds.write(json.dumps(record) + "\n")
        self.seconds.flush()
        self.switch("")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        before = self.switch(f"{request.node.nodeid.partition('::')[0]}::*")
        result = yield
        self.switch(before)
        return result

    def pytest_unconfigure(self):
        self.coverage.stop()
        self.coverage.save()
        self.seconds.close()


def pytest_configure(config):
    """Covers in xdist's workers, or where there are none."""
    if not getattr(config.option, "numprocesses", None) or WORKER != "main":
        config.pluginmanager.register(Covering())
