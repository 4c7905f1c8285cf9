"""A contender's process: as the parent sees it, and what it does itself.

`python -m ostinato.bench.process NAME` answers requests that come pickled on its standard input,
each a tuple of a method's name and its arguments, until that ends. What a library prints goes to
standard error.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ostinato.bench.cases import Case
from ostinato.bench.contenders import Contender, parse
from ostinato.bench.prepared import Prepared, load, prepare

# Seconds of a run that needs no warming up. At 0.1 the first run after the others' turns was what
# counted, and paid for memory that the system had taken back meanwhile (LSTM L, training, on
# JAX: 150 to 210 ms, where step after step takes 120).
LONG = 1.0


class ContenderFailedError(Exception):
    """A contender's process ended; the message is the last line that it wrote."""


class OutOfTimeError(ContenderFailedError):
    """A contender's process took longer than it may, and was ended."""


class Process:
    """One contender's process, started when it's first asked, and again after it has failed."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process

    def ask(self, method: str, *arguments: Any, limit: float = threading.TIMEOUT_MAX) -> Any:
        """What a method of `Worker` answers.

        Args:
            method: The method's name.
            *arguments: What it's called with.
            limit: Seconds that it may take.

        Raises:
            OutOfTimeError: if it takes longer; the process is ended.
            ContenderFailedError: if the process ends instead.
        """
        if self._process is None:
            self._process = self._start()
        pipe = self._process
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            pipe.kill()

        # Not every system can wait for a pipe with a limit; the end of a process closes it on all.
        watch = threading.Timer(min(limit, threading.TIMEOUT_MAX), end)
        watch.daemon = True
        watch.start()
        try:
            pickle.dump((method, *arguments), pipe.stdin)
            pipe.stdin.flush()
            return pickle.load(pipe.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            reason = self._last_words()
            self.stop()
            if late.is_set():
                raise OutOfTimeError(f"no result in {limit:.3g} s") from None
            raise ContenderFailedError(reason) from None
        finally:
            watch.cancel()

    def stop(self) -> None:
        """Ends the process, if there's one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "ostinato.bench.process", self.contender.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=self.contender.environment(),
        )

    def _last_words(self) -> str:
        assert self._process is not None
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self._errors.truncate(0)
        return lines[-1] if lines else f"exit status {status}"


@contextlib.contextmanager
def processes(contenders: Iterable[Contender]) -> Iterator[list[Process]]:
    """A process for each contender; all are ended at last."""
    started = [Process(contender) for contender in contenders]
    try:
        yield started
    finally:
        for process in started:
            process.stop()


class Worker:
    """Answers requests; the public methods are what may be asked."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._prepared: Prepared | None = None
        self._last = 0.0  # seconds of the last run

    def load(self) -> None:
        """Imports what takes long to import."""
        load(self._contender)

    def prepare(self, case: Case) -> tuple[list[Any], str]:
        """Makes a case ready: its results, and the engine that computes them."""
        self._prepared = None  # the memory of the case before
        self._prepared = prepare(self._contender, case)
        start = time.perf_counter()
        results = self._prepared.run()
        self._last = time.perf_counter() - start
        return self._prepared.values(results), self._prepared.engine

    def round(self, seconds: float) -> list[float]:
        """Runs the case for about so long, at least once: seconds of each run."""
        if self._prepared is None:
            raise RuntimeError("bench: expected a prepared case before a round.")
        if self._last < LONG:
            self._prepared.run()  # wakes threads, fills caches, gets memory
        times: list[float] = []
        start = now = time.perf_counter()
        while not times or now < start + seconds:
            times.append(self._prepared.seconds())
            self._last, now = time.perf_counter() - now, time.perf_counter()
        return times

    def rest(self) -> None:
        """Drops the case."""
        self._prepared = None


def main() -> None:
    """Serves until the parent closes the pipe."""
    requests = sys.stdin.buffer
    # A copy of standard output for the answers; whatever else is printed joins standard error.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        worker = Worker(parse(sys.argv[1]))
        while True:
            try:
                name, *arguments = pickle.load(requests)
            except EOFError:
                return
            pickle.dump(getattr(worker, name)(*arguments), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    main()
