"""A program on the native engine, with the states of its streams."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ostinato.streaming.packed import packed
from ostinato.streaming.program import Program


class Compiled:
    """What runs a program for N streams; a stream's way to the native engine.

    Attributes:
        program: The program, its weights among it.
        run: `run(inputs, outputs, timesteps, rows=None, resets=None)`: tuples of dense arrays,
            (n, T, width) each, ids (n, T) of int32, of all streams or of those rows, (n,) of int64;
            writes the outputs. `resets` are booleans (n, T): where they hold a stream begins anew.
            False where an array isn't so, and nothing is done.
        why_not_native: "", as it is.
    """

    why_not_native = ""

    def __init__(self, program: Program, streams: int) -> None:
        self.program, self._packed = packed(program)
        self.states, self.inputs, self.outputs = program.states, program.inputs, program.outputs
        self._streams = streams
        self._native = self._packed.open(streams)
        self.run = self._native.run  # itself: a step has no time for a function around it

    def another(self, streams: int) -> "Compiled":
        """The same for other streams, which begin anew; the weights are shared."""
        made = object.__new__(Compiled)
        made.__dict__.update(self.__dict__)
        made._streams, made._native = streams, self._packed.open(streams)
        made.run = made._native.run
        return made

    def resize(self, streams: int) -> None:
        """More streams or less; new ones are at their beginning."""
        with self._named():
            self._native.resize(streams)
        self._streams = streams

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Begins anew, all streams or those rows."""
        with self._named():
            self._native.reset(rows)

    def read_states(self, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """The states, (N, *shape) each, or of some rows."""
        count = self._streams if rows is None else len(rows)
        arrays = [np.empty((count, *state.shape), state.dtype) for state in self.states]
        with self._named():
            self._expect(self._native.read_states(tuple(arrays), rows))
        return arrays

    def write_states(self, arrays: Sequence[np.ndarray], rows: np.ndarray | None = None) -> None:
        """Sets all states, or those of some rows."""
        with self._named():
            self._expect(self._native.write_states(tuple(arrays), rows))

    def refresh(self, program: Program) -> None:
        """Takes the weights of a program that is otherwise the same."""
        program, shared = packed(program)
        with self._named():
            shared.lend(self._native)
        self.program, self.states, self._packed = program, program.states, shared

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Puts the stream's name before what the engine says where another thread is using it."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(f"stream of {self.program.name}: {error}.") from error

    def _expect(self, done: bool) -> None:
        if not done:
            shapes = [(self._streams, *state.shape) for state in self.states]
            raise ValueError(f"stream of {self.program.name}: its cells' states aren't {shapes}.")
