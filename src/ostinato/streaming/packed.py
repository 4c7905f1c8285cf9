"""Programs with their weights packed in the native engine: one copy of each, whoever asks for it.

Streams of one model, of one file, or of the same weights by chance share them; they stay as long as
a stream has them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ostinato import native
from ostinato.nests import flatten
from ostinato.streaming.program import Port, Program

_DTYPES = {"float32": native.FLOAT32, "float64": native.FLOAT64, "int8": native.INT8}


class Packed:
    """A program and what the native engine has made of it.

    Attributes:
        weights: The program's.
    """

    def __init__(self, program: Program, spec: Sequence[int]) -> None:
        self.weights = program.weights
        views = [(w.ctypes.data, _DTYPES[str(w.dtype)], w.shape) for w in program.weights]
        self._native = native.Program(_DTYPES[program.dtype], spec, views)
        initial = tuple(np.asarray(state.initial, order="C") for state in program.states)
        if not self._native.set_initial(initial):
            shapes = [state.shape for state in program.states]
            raise ValueError(f"stream of {program.name}: its cells' states aren't {shapes}.")
        self._turn = Lock()

    def open(self, streams: int) -> Any:
        """A `native.Program` of N streams with these weights."""
        with self._turn:  # the engine refuses a call while another is under way
            return self._native.another(streams)

    def lend(self, to: Any) -> None:
        """Gives these weights and initial states to a `native.Program` of the same operations."""
        with self._turn:
            to.share_weights(self._native)


_known: WeakValueDictionary[bytes, Packed] = WeakValueDictionary()
_lock = Lock()


def packed(program: Program) -> tuple[Program, Packed]:
    """A program packed, and the program with the same weights as all others that are so packed."""
    spec = encoded(program)
    key = _digest(program, spec)
    with _lock:
        found = _known.get(key)
        if found is None:
            found = _known[key] = Packed(program, spec)
    return replace(program, weights=found.weights), found


def _digest(program: Program, spec: Sequence[int]) -> bytes:
    digest = hashlib.blake2b(repr((program.dtype, spec)).encode())
    for array in (*program.weights, *(state.initial for state in program.states)):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view("uint8").data)
    return digest.digest()


def encoded(program: Program) -> list[int]:
    """A program as native/core/step/program.h has it, of one stream."""
    ports: list[Port] = flatten(program.inputs)
    spec = [1, *_counted([port.shape[0] if port.shape else 0 for port in ports])]
    spec += [*_counted(program.output_values), len(program.routines)]
    for routine in program.routines:
        bits = np.array(routine.floats, "float64").view("int64").tolist()
        spec += [*_counted(routine.ints), *_counted(bits)]
    return spec + [number for each in program.operations for number in each.encode()]


def _counted(numbers: Sequence[int]) -> list[int]:
    return [len(numbers), *numbers]
