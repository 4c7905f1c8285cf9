"""Streams and states in files: NumPy's .npz, with a description in JSON; nothing in it is code."""

import json
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ostinato import native
from ostinato.nests import decode, encode, flatten, map_leaves
from ostinato.routines import Routine
from ostinato.streaming import checks
from ostinato.streaming.program import Operation, Port, Program, State

FORMAT = "ostinato stream 1"
# With cells of one's own, which those that read the format above know nothing of.
FORMAT_WITH_ROUTINES = "ostinato stream 2"
# With weights of int8, likewise.
FORMAT_WITH_INT8 = "ostinato stream 3"
# With operations that look back over timesteps.
FORMAT_WITH_WINDOWS = "ostinato stream 4"
STATE_FORMAT = "ostinato stream state 1"
_OF_WINDOWS = ("taps", "dilation")

# What NumPy and the standard library raise on files that were cut, changed, or are something else.
_NOT_A_FILE_OF_OURS = (
    *(AttributeError, EOFError, KeyError, MemoryError, NotImplementedError, OSError, OverflowError),
    *(RecursionError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)

PathLike = str | os.PathLike[str]


def write(
    path: PathLike, program: Program, streams: int | None, states: Sequence[np.ndarray]
) -> None:
    """Writes a stream."""
    about = {
        "format": _format_of(program),
        "name": program.name,
        "dtype": program.dtype,
        "streams": streams,
        "inputs": encode(map_leaves(_port_as_list, program.inputs)),
        "outputs": encode(map_leaves(_port_as_list, program.outputs)),
        "output_values": program.output_values,
        "operations": [_operation_as_dict(operation) for operation in program.operations],
        "states": [
            [state.layer, state.shape, state.dtype, state.is_extra] for state in program.states
        ],
    }
    arrays = {f"weight{i}": weight for i, weight in enumerate(program.weights)}
    if program.routines:
        about["routines"] = len(program.routines)
        about["routine_operations"] = native.routine_operations()
    for i, routine in enumerate(program.routines):
        arrays[f"routine{i}"] = np.array(routine.ints, "int64")
        arrays[f"literals{i}"] = np.array(routine.floats, "float64")
    arrays |= {f"initial{i}": state.initial for i, state in enumerate(program.states)}
    arrays |= {f"state{i}": state for i, state in enumerate(states)}
    _write(path, about, arrays)


def _operation_as_dict(operation: Operation) -> dict[str, Any]:
    """Its fields; without those of windows where it's none: the older formats don't have them."""
    fields = asdict(operation)
    return {name: fields[name] for name in fields if name not in _OF_WINDOWS or fields[name]}


def _format_of(program: Program) -> str:
    if program.looks_back:
        return FORMAT_WITH_WINDOWS
    if program.has_int8:
        return FORMAT_WITH_INT8
    return FORMAT_WITH_ROUTINES if program.routines else FORMAT


def read(path: PathLike) -> tuple[Program, int | None, list[np.ndarray]]:
    """The program of a stream, how many streams it had, and their states.

    Raises:
        ValueError: if the file isn't one that `write` wrote.
    """
    forms = (FORMAT, FORMAT_WITH_ROUTINES, FORMAT_WITH_INT8, FORMAT_WITH_WINDOWS)
    about, arrays = _read(path, forms, "a stream that `Stream.save` wrote")
    try:
        found = _program_of(about, arrays)
        _check(*found)
        return found
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: expected a whole stream's file, got one with {reason}.") from (
            error
        )


def _program_of(
    about: dict[str, Any], arrays: dict[str, np.ndarray]
) -> tuple[Program, int | None, list[np.ndarray]]:
    states = tuple(
        State(layer, tuple(shape), dtype, is_extra, arrays[f"initial{i}"])
        for i, (layer, shape, dtype, is_extra) in enumerate(about["states"])
    )
    count = sum(name.startswith("weight") for name in arrays)
    program = Program(
        about["name"],
        about["dtype"],
        map_leaves(_port_of, decode(about["inputs"])),
        map_leaves(_port_of, decode(about["outputs"])),
        tuple(about["output_values"]),
        tuple(Operation(**values) for values in about["operations"]),
        states,
        tuple(np.asarray(arrays[f"weight{i}"], order="C") for i in range(count)),
        _routines_of(about, arrays),
    )
    return program, about["streams"], [arrays[f"state{i}"] for i in range(len(states))]


def _routines_of(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Routine, ...]:
    """The routines, whose numbers of operations mean what they did where the file was written."""
    count = about.get("routines", 0)
    _expect(_is_integer(count) and 0 <= count <= len(arrays), "a number of routines", count)
    if not count:
        return ()
    known, written = native.routine_operations(), about["routine_operations"]
    if tuple(written) != known[: len(written)]:
        raise ValueError(
            "a cell of one's own in operations of another version of Ostinato: save the stream "
            "with this one"
        )
    found = []
    for i in range(count):
        ints, floats = arrays[f"routine{i}"], arrays[f"literals{i}"]
        got = (ints.ndim, str(ints.dtype), floats.ndim, str(floats.dtype))
        _expect(got == (1, "int64", 1, "float64"), "a routine's integers and floats", got)
        found.append(Routine(tuple(ints.tolist()), tuple(floats.tolist())))
    return tuple(found)


def _check(program: Program, streams: int | None, states: Sequence[np.ndarray]) -> None:
    """Refuses what doesn't fit together; the engine checks the operations and their weights.

    Raises:
        ValueError: if something doesn't.
    """
    count = 1 if streams is None else streams
    _expect(type(program.name) is str, "a name", program.name)
    _expect(program.dtype in ("float32", "float64"), "float32 or float64", program.dtype)
    _expect(_is_integer(count) and count > 0, "a number of streams", streams)
    for weight in program.weights:
        known = (program.dtype, "int8") if program.has_int8 else (program.dtype,)
        _expect(weight.dtype in known, f"weights of {' or '.join(known)}", weight.dtype)
    for state, array in zip(program.states, states, strict=True):
        _expect(type(state.layer) is str, "a layer's name", state.layer)
        _expect(state.dtype in (program.dtype, "bool"), "a dtype of states", state.dtype)
        for values, lead in ((state.initial, ()), (array, (count,))):
            got = (values.shape, str(values.dtype))
            _expect(got == ((*lead, *state.shape), state.dtype), f"a state like {state}", got)
    for operation in program.operations:
        _expect(_is_operation(operation), "an operation of a stream", operation)
    inputs, outputs = flatten(program.inputs), flatten(program.outputs)
    widths = [port.shape[0] if port.shape else 0 for port in inputs]
    widths += [each.width for each in program.operations if each.out >= 0]
    for port in (*inputs, *outputs):
        dtype = program.dtype if port.shape else "int32"
        _expect(port.dtype == dtype and len(port.shape) < 2, f"an array of {dtype}", port)
        _expect(type(port.name) is str and all(map(_is_integer, port.shape)), "an array", port)
    for port, value in zip(outputs, program.output_values, strict=True):
        _expect(_is_integer(value) and 0 <= value < len(widths), "a value's number", value)
        _expect(port.shape == (widths[value],), f"an output of {widths[value]} units", port)


def _is_operation(operation: Operation) -> bool:
    names = native.activation_names()
    activations = (operation.activation, operation.recurrent_activation)
    numbers = [value for value in vars(operation).values() if value not in activations]
    return all(map(_is_integer, numbers)) and set(activations) <= set(names)


def _is_integer(value: object) -> bool:
    """Whether it's an integer, no boolean, that the engine can take."""
    return type(value) is int and abs(value) < 1 << 63


def _expect(holds: bool, what: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{got!r} where {what} should be")


def write_state(path: PathLike, states: Sequence[State], arrays: Sequence[np.ndarray]) -> None:
    """Writes states alone."""
    about = {"format": STATE_FORMAT, "layers": [state.layer for state in states]}
    _write(path, about, {f"state{i}": array for i, array in enumerate(arrays)})


def read_state(
    path: PathLike, states: Sequence[State], streams: int, owner: str
) -> list[np.ndarray]:
    """The states that `write_state` wrote, checked against those wanted.

    Raises:
        ValueError: if they're others.
    """
    about, arrays = _read(path, (STATE_FORMAT,), "states that `save_state` wrote")
    expected = [(state.layer, (streams, *state.shape), state.dtype) for state in states]
    names = about.get("layers")
    found = [arrays[f"state{i}"] for i in range(len(arrays)) if f"state{i}" in arrays]
    if not isinstance(names, list) or not len(names) == len(found) == len(arrays):
        raise ValueError(f"{path}: expected the states of as many layers, got {names}.")
    got = [
        (layer, array.shape, str(array.dtype)) for layer, array in zip(names, found, strict=True)
    ]
    # Files of before layers of one name went by their paths have the names alone.
    bare = [(layer.rpartition("/")[2], *rest) for layer, *rest in expected]
    if got not in (expected, bare):
        raise ValueError(f"{owner}: expected the states {expected} in {path}, got {got}.")
    return [np.ascontiguousarray(array) for array in found]


def _port_as_list(port: Port) -> str:
    return json.dumps([port.name, port.shape, port.dtype])


def _port_of(text: str) -> Port:
    name, shape, dtype = json.loads(text)
    return Port(name, tuple(shape), dtype)


def _write(path: PathLike, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    target = checks.path("save: expected the path of a file", path)
    with target.open("wb") as file:  # np.savez would add .npz to a bare name
        np.savez(file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def _loaded(file: Any) -> tuple[Any, dict[str, np.ndarray]]:
    if not zipfile.is_zipfile(file):  # NumPy would take it for a pickle, and say how to allow that
        raise ValueError("what is no archive of arrays (.npz), or not a whole one")
    file.seek(0)
    with np.load(file, allow_pickle=False) as members:
        if "about" not in members.files:
            raise ValueError(f"an archive of other entries: {sorted(members.files)[:6]}")
        arrays = {name: members[name] for name in members.files}
    return json.loads(str(arrays.pop("about"))), arrays


def _read(
    path: PathLike, forms: Sequence[str], what: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    source = checks.path(f"expected the path of {what}", path)
    try:
        with source.open("rb") as opened:
            about, arrays = _loaded(opened)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except _NOT_A_FILE_OF_OURS as error:
        raise ValueError(f"{path}: expected {what}, got {error}.") from error
    if not isinstance(about, dict) or about.get("format") not in forms:
        got = about.get("format") if isinstance(about, dict) else about
        raise ValueError(f"{path}: expected {what} ({' or '.join(map(repr, forms))}), got {got!r}.")
    return about, arrays
