"""Whose turn it is with a stream that threads share."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

BUSY = "a stream takes one call at a time; this one is in use in another thread"


class Turns:
    """One call at a time: another one is refused. Opening and closing wait, and are waited for.

    A call is a `with` of the object, a change a `with` of `change()`. Who changes holds both locks,
    so that whoever has the first, and not the second, knows that a call is under way.

    Attributes:
        use: Held by a call.
        is_wanted: Whether somebody waits to change: calls that follow one another in a loop let
            them go first.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._changes, self.use = Lock(), Lock()
        self.is_wanted = False

    def __enter__(self) -> None:
        if self.is_wanted or not self.use.acquire(blocking=False):
            self.begin_after_changes()

    def __exit__(self, *error: object) -> None:
        self.use.release()

    def begin_after_changes(self) -> None:
        """Takes `use` for a call, once nobody changes.

        Raises:
            RuntimeError: if another call has it.
        """
        with self._changes:
            if not self.use.acquire(blocking=False):
                raise RuntimeError(f"{self._owner}: {BUSY}.")

    @contextmanager
    def change(self) -> Iterator[None]:
        """Waits for the call that is under way, and for others who change."""
        with self._changes:
            self.is_wanted = True
            try:
                with self.use:
                    yield
            finally:
                self.is_wanted = False
