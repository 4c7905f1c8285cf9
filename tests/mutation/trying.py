"""One try: tests in a fork, until one fails; in CPU time, so a machine that's slow says nothing."""

import contextlib
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import hypothesis
from _pytest.runner import runtestprotocol

MEMORY = 12 << 30  # a mutant that takes all there is shall fail


def quick_examples():
    """hypothesis as for mutants: that an example fails is enough, the simplest isn't sought."""
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    parent = hypothesis.settings.get_profile("ci")
    hypothesis.settings.register_profile(
        "mutants", parent, phases=phases, report_multiple_bugs=False, database=None
    )
    hypothesis.settings.load_profile("mutants")


def until_one_fails(items: list, seconds: dict[str, float], budget: float) -> dict:
    """Runs tests in turn, for so many seconds: which fails, how many were run."""
    begun = time.process_time()
    for number, item in enumerate(items):
        _allow(5 + 10 * seconds.get(item.nodeid, 1))
        following = items[number + 1] if number + 1 < len(items) else None
        reports = runtestprotocol(item, log=False, nextitem=following)
        if any(report.failed for report in reports):
            return {"outcome": "killed", "by": item.nodeid, "ran": number + 1}
        if time.process_time() - begun > budget:
            return {"outcome": "survived", "ran": number + 1}
    return {"outcome": "survived", "ran": len(items)}


def _allow(seconds: float):
    """Ends this process by SIGXCPU after that much more CPU time."""
    limit = int(time.process_time() + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


class Forks:
    """Tries side by side, each in a fork of this process."""

    def __init__(self, at_once: int):
        self.at_once = at_once
        self._running: dict[int, tuple] = {}  # a child's pidfd: job, pid, pipe, its idle time
        self._poll = select.poll()
        self._looked = time.monotonic()

    def run(self, jobs: Iterable, act: Callable, done: Callable):
        """Has `act(job)` in a fork give a dict, for `done(job, dict)`, for each job.

        `jobs` is asked for the next whenever there's room, and may give what `done` has added.
        """
        jobs = iter(jobs)
        while True:
            while len(self._running) < self.at_once:
                if (job := next(jobs, None)) is None:
                    break
                self._start(job, act)
            if not self._running:
                return
            for ended, _ in self._poll.poll(1000):
                self._end(ended, done)
            self._end_idle(done)

    def _start(self, job, act):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                _quiet()
                os.write(writing, json.dumps(act(job)).encode())
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writing)
        ended = os.pidfd_open(child)
        self._poll.register(ended, select.POLLIN)
        self._running[ended] = (job, child, reading, [0, None])

    def _end(self, ended, done, why="out of time"):
        job, child, reading, _ = self._running.pop(ended)
        self._poll.unregister(ended)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and what it has started
        _, status, usage = os.wait4(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            os.set_blocking(pipe.fileno(), False)
            text = pipe.read()
        os.close(ended)
        lost = {"outcome": why if os.WIFSIGNALED(status) else "killed", "by": f"status {status}"}
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) not in (signal.SIGXCPU, signal.SIGKILL):
            lost = {"outcome": "killed", "by": f"signal {os.WTERMSIG(status)}"}
        cpu = round(usage.ru_utime + usage.ru_stime, 2)
        done(job, {**(json.loads(text) if text else lost), "seconds": cpu})

    def _end_idle(self, done):
        """Ends children that have done nothing for a minute, and aren't stopped."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 1.0), now  # less where we were stopped
        for ended, (_, child, _, idle) in [*self._running.items()]:
            state, used = _state_and_cpu_time(child)
            if used != idle[1] or state == "T":
                idle[:] = [0, used]
            idle[0] += passed
            if idle[0] > 60:
                self._end(ended, done, "idle")


def _state_and_cpu_time(child: int) -> tuple[str, int]:
    """Of a child the letter of its state; the ticks that it and what it has started have run."""
    state, used = "", 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            if int(fields[3]) == child:  # its session
                used += sum(map(int, fields[11:15]))
                state = fields[0] if file.parent.name == str(child) else state
    return state, used


def _quiet():
    os.setsid()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
