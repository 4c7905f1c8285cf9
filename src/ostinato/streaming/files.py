"""Streams and states in files: NumPy's .npz, with a description in JSON; nothing in it is code."""

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.streaming.nest import decode, encode, map_leaves
from ostinato.streaming.program import Operation, Port, Program, State

FORMAT = "ostinato stream 1"
STATE_FORMAT = "ostinato stream state 1"

PathLike = str | os.PathLike[str]


def write(
    path: PathLike, program: Program, streams: int | None, states: Sequence[np.ndarray]
) -> None:
    """Writes a stream."""
    about = {
        "format": FORMAT,
        "name": program.name,
        "dtype": program.dtype,
        "streams": streams,
        "inputs": encode(map_leaves(_port_as_list, program.inputs)),
        "outputs": encode(map_leaves(_port_as_list, program.outputs)),
        "output_values": program.output_values,
        "operations": [asdict(operation) for operation in program.operations],
        "states": [
            [state.layer, state.shape, state.dtype, state.is_extra] for state in program.states
        ],
    }
    arrays = {f"weight{i}": weight for i, weight in enumerate(program.weights)}
    arrays |= {f"initial{i}": state.initial for i, state in enumerate(program.states)}
    arrays |= {f"state{i}": state for i, state in enumerate(states)}
    _write(path, about, arrays)


def read(path: PathLike) -> tuple[Program, int | None, list[np.ndarray]]:
    """The program of a stream, how many streams it had, and their states.

    Raises:
        ValueError: if the file isn't one that `write` wrote.
    """
    about, arrays = _read(path, FORMAT, "a stream that `Stream.save` wrote")
    try:
        states = tuple(
            State(layer, tuple(shape), dtype, is_extra, arrays[f"initial{i}"])
            for i, (layer, shape, dtype, is_extra) in enumerate(about["states"])
        )
        operations = tuple(Operation(**values) for values in about["operations"])
        count = sum(name.startswith("weight") for name in arrays)
        program = Program(
            about["name"],
            about["dtype"],
            map_leaves(_port_of, decode(about["inputs"])),
            map_leaves(_port_of, decode(about["outputs"])),
            tuple(about["output_values"]),
            operations,
            states,
            tuple(np.ascontiguousarray(arrays[f"weight{i}"]) for i in range(count)),
        )
        return program, about["streams"], [arrays[f"state{i}"] for i in range(len(states))]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a whole stream's file, got one without {error}.") from (
            error
        )


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
    about, arrays = _read(path, STATE_FORMAT, "states that `save_state` wrote")
    expected = [(state.layer, (streams, *state.shape), state.dtype) for state in states]
    found = [arrays[name] for name in sorted(arrays, key=lambda name: int(name[len("state") :]))]
    got = [
        (layer, array.shape, str(array.dtype))
        for layer, array in zip(about["layers"], found, strict=True)
    ]
    if got != expected:
        raise ValueError(f"{owner}: expected the states {expected} in {path}, got {got}.")
    return [np.ascontiguousarray(array) for array in found]


def _port_as_list(port: Port) -> str:
    return json.dumps([port.name, port.shape, port.dtype])


def _port_of(text: str) -> Port:
    name, shape, dtype = json.loads(text)
    return Port(name, tuple(shape), dtype)


def _write(path: PathLike, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    with Path(path).open("wb") as file:  # np.savez would add .npz to a bare name
        np.savez(file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def _read(path: PathLike, form: str, what: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
    except (KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected {what}, got something else: {error}.") from error
    if not isinstance(about, dict) or about.get("format") != form:
        got = about.get("format") if isinstance(about, dict) else about
        raise ValueError(f"{path}: expected {what} ({form!r}), got {got!r}.")
    return about, arrays
