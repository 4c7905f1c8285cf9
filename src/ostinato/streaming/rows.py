"""Which of many streams are open, and which of them a call is for."""

from typing import Any

import numpy as np

from ostinato.streaming.checks import number_to_open, numbers_of_rows


class Rows:
    """The numbers of streams that are open; those of closed ones are given out again.

    Args:
        count: How many there are at first; None of a single one, whose arrays have no axis of them.

    Attributes:
        is_single: Whether it's such a one.
        room: How many numbers there are, open or closed.
        open: The open ones in order, (n,) of int64; None where all are.
        count: How many are open.
    """

    def __init__(self, count: int | None) -> None:
        self.is_single = count is None
        self.room = self.count = 1 if count is None else count
        self.open: np.ndarray | None = None
        self._is_open = np.ones(self.room, bool)

    @property
    def lead(self) -> tuple[int, ...]:
        """The axis of streams that arrays of all have."""
        return () if self.is_single else (self.count,)

    def copy(self) -> "Rows":
        """The same numbers, open and closed, for another object."""
        made = Rows(None if self.is_single else self.room)
        made._is_open = self._is_open.copy()
        made.count, made.open = self.count, self.open
        return made

    @property
    def numbers(self) -> np.ndarray:
        """The open ones in order, (n,) of int64."""
        found = self.open  # once: another thread may be closing some
        return np.arange(self.room) if found is None else found.copy()

    def chosen(self, owner: str, rows: Any) -> np.ndarray | None:
        """The streams that a call is for, (n,) of int64; None where it's for all, and all are open.

        Raises:
            ValueError: if there's no such stream.
        """
        return self.open if rows is None else self.named(owner, rows)

    def named(self, owner: str, rows: Any) -> np.ndarray:
        """The streams that are named, (n,) of int64.

        Raises:
            ValueError: if there's no such stream, or none is named.
        """
        chosen = numbers_of_rows(owner, rows, self.room)
        if self.open is not None and not self._is_open[chosen].all():
            closed = int(chosen[~self._is_open[chosen]][0])
            raise ValueError(f"{owner}: expected open streams, got {closed}, which is closed.")
        return chosen

    def next(self, owner: str, more: Any) -> np.ndarray:
        """The numbers of so many more, closed ones first.

        Raises:
            ValueError: if it's no number of streams that could be opened.
        """
        count = number_to_open(owner, more, self.count)
        closed = np.flatnonzero(~self._is_open)[:count]
        return np.concatenate([closed, np.arange(self.room, self.room + count - len(closed))])

    def add(self, chosen: np.ndarray) -> None:
        """Opens those that `next` gave."""
        new = max(0, int(chosen.max()) + 1 - self.room)
        self.room += new
        self._is_open = np.concatenate([self._is_open, np.zeros(new, bool)])
        self._change(chosen, True)

    def remove(self, chosen: np.ndarray) -> None:
        """Closes some that are open."""
        self._change(chosen, False)

    def _change(self, chosen: np.ndarray, to: bool) -> None:
        self._is_open[chosen] = to
        self.count = int(np.count_nonzero(self._is_open))
        self.open = None if self.count == self.room else np.flatnonzero(self._is_open)
