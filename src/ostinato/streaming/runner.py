"""What a stream has that runs its timesteps."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ostinato.nests import Nest
from ostinato.streaming.program import Program, State


class Runner(Protocol):
    """What runs timesteps, and keeps the states of N streams."""

    @property
    def inputs(self) -> Nest:
        """A nest of ports."""

    @property
    def outputs(self) -> Nest:
        """A nest of ports."""

    @property
    def states(self) -> tuple[State, ...]:
        """What is kept."""

    @property
    def program(self) -> Program | None:
        """What a file can hold."""

    @property
    def why_not_native(self) -> str:
        """Why the native engine doesn't run it, or ""."""

    @property
    def run(self) -> Callable[..., bool]:
        """Runs timesteps on dense arrays, of some rows; False where one doesn't fit."""

    def another(self, streams: int) -> "Runner":
        """The same for other streams."""

    def resize(self, streams: int) -> None:
        """More streams, the new ones at their beginning."""

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Begins anew."""

    def read_states(self, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """The states, (N, *shape) each, or of some rows."""

    def write_states(self, arrays: Sequence[np.ndarray], rows: np.ndarray | None = None) -> None:
        """Sets all states, or those of some rows."""
