"""A program on the native engine, with the states of its streams."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ostinato import native
from ostinato.nests import flatten
from ostinato.streaming.program import Port, Program

_DTYPES = {"float32": native.FLOAT32, "float64": native.FLOAT64, "int8": native.INT8}


class Compiled:
    """What runs a program for N streams; a stream's way to the native engine.

    Attributes:
        program: The program, its weights among it.
        run: `run(inputs, outputs, timesteps)`: tuples of dense arrays, (N, T, width) each, ids
            (N, T) of int32; writes the outputs. False where an array isn't so, and nothing is done.
        why_not_native: "", as it is.
    """

    why_not_native = ""

    def __init__(self, program: Program, streams: int) -> None:
        self.program = program
        self.states, self.inputs, self.outputs = program.states, program.inputs, program.outputs
        self._streams = streams
        weights = _views(program.weights)
        self._native = native.Program(_DTYPES[program.dtype], encoded(program, streams), weights)
        self.run = self._native.run  # itself: a step has no time for a function around it

    def read_states(self) -> list[np.ndarray]:
        """The states, (N, *shape) each."""
        arrays = [np.empty((self._streams, *state.shape), state.dtype) for state in self.states]
        with self._named():
            self._expect(self._native.read_states(tuple(arrays)))
        return arrays

    def write_states(self, arrays: Sequence[np.ndarray]) -> None:
        """Sets all states."""
        with self._named():
            self._expect(self._native.write_states(tuple(arrays)))

    def refresh(self, program: Program) -> None:
        """Takes the weights of a program that is otherwise the same."""
        with self._named():
            self._native.set_weights(_views(program.weights))
        self.program, self.states = program, program.states

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


def encoded(program: Program, streams: int) -> list[int]:
    """A program as native/core/step/program.h has it."""
    ports: list[Port] = flatten(program.inputs)
    spec = [streams, *_counted([port.shape[0] if port.shape else 0 for port in ports])]
    spec += [*_counted(program.output_values), len(program.routines)]
    for routine in program.routines:
        bits = np.array(routine.floats, "float64").view("int64").tolist()
        spec += [*_counted(routine.ints), *_counted(bits)]
    return spec + [number for each in program.operations for number in each.encode()]


def _counted(numbers: Sequence[int]) -> list[int]:
    return [len(numbers), *numbers]


def _views(arrays: Sequence[np.ndarray]) -> list[native.View]:
    return [(array.ctypes.data, _DTYPES[str(array.dtype)], array.shape) for array in arrays]
