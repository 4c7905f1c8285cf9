"""The contenders' processes, as the parent sees them."""

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from ostinato.bench.contenders import Contender


class ContenderFailedError(Exception):
    """A contender's process ended; the message is the last line that it wrote."""


class Process:
    """One contender's process, started when it's first asked, and again after it has failed."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of `Worker` answers.

        Raises:
            ContenderFailedError: if the process ends instead.
        """
        if self._process is None:
            self._process = self._start()
        pipe = self._process
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        try:
            pickle.dump((method, *arguments), pipe.stdin)
            pipe.stdin.flush()
            return pickle.load(pipe.stdout)
        except (EOFError, BrokenPipeError):
            reason = self._last_words()
            self.stop()
            raise ContenderFailedError(reason) from None

    def stop(self) -> None:
        """Ends the process, if there's one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "ostinato.bench.worker", self.contender.name],
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


class Crew:
    """All processes; a context manager that ends them."""

    def __init__(self, contenders: Iterable[Contender]) -> None:
        self.processes = [Process(contender) for contender in contenders]

    def for_mode(self, mode: str) -> list[Process]:
        """Those that can do it."""
        return [p for p in self.processes if mode in p.contender.modes]

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self.processes:
            process.stop()
