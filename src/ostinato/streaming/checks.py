"""What users give to a stream, checked: numbers of streams and of rows, arrays, paths."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.nests import Nest, fill, match
from ostinato.streaming.program import Port

MOST_STREAMS = 1 << 24  # of one object: native/core/step/program_parts.h


def number_of_streams(owner: str, streams: Any) -> int | None:
    """How many streams are asked for; None for one without an axis of streams.

    Raises:
        ValueError: if it's no such number.
    """
    if streams is None:
        return None
    if not _is_integer(streams) or not 1 <= streams <= MOST_STREAMS:
        raise ValueError(
            f"{owner}: expected a positive number of streams or None, and at most {MOST_STREAMS}, "
            f"got {streams!r}."
        )
    return int(streams)


def number_to_open(owner: str, more: Any, there: int) -> int:
    """How many streams are to be opened where so many are.

    Raises:
        ValueError: if it's no such number.
    """
    if not _is_integer(more) or not 1 <= more <= MOST_STREAMS - there:
        raise ValueError(
            f"{owner}: expected a positive number of streams, and at most {MOST_STREAMS} with the "
            f"{there} that are open, got {more!r}."
        )
    return int(more)


def numbers_of_rows(owner: str, rows: Any, count: int) -> np.ndarray:
    """Which of `count` streams are meant, (n,) of int64.

    Raises:
        ValueError: if there's no such stream.
    """
    expected = f"{owner}: expected numbers of streams, 0 to {count - 1}"
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.ndim == 1:
        numbers = rows
    elif isinstance(rows, range):
        numbers = np.arange(rows.start, rows.stop, rows.step)
    else:
        try:
            given = [rows] if _is_integer(rows) else list(rows)
        except TypeError:
            given = [rows]  # refused next
        # A mask of booleans would pass for zeros and ones.
        for kind in set(map(type, given)):
            if not issubclass(kind, (int, np.integer)) or kind is bool:
                wrong = next(row for row in given if type(row) is kind)
                raise ValueError(f"{expected}, got {wrong!r}.")
        try:
            numbers = np.array(given, np.int64)
        except OverflowError as error:
            wrong = next(row for row in given if not 0 <= row < count)
            raise ValueError(f"{expected}, got {wrong}.") from error
    outside = (numbers < 0) | (numbers >= count)
    if outside.any():
        raise ValueError(f"{expected}, got {numbers[outside][0]}.")
    return numbers.astype(np.int64, order="C")


def path(expected: str, value: Any) -> Path:
    """The path of a file; refused, after what was expected, if it's none."""
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{expected}, got {value!r}.")
    return Path(value)


def in_an_order(owner: str, rows: Any) -> None:
    """Refuses what has none for the rows of an array, such as a set.

    Raises:
        ValueError: if it has none.
    """
    if isinstance(rows, (set, frozenset, dict)):
        raise ValueError(
            f"{owner}: expected rows in the order of the arrays, in a list say, got a "
            f"{type(rows).__name__}."
        )


def each_once(owner: str, rows: np.ndarray) -> None:
    """Refuses rows of which one is named twice.

    Raises:
        ValueError: if one is.
    """
    if len(np.unique(rows)) < len(rows):
        twice = np.bincount(rows).argmax()
        raise ValueError(f"{owner}: expected each stream once, got {twice} twice.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and type(value) is not bool


def timestep(
    owner: str, name: str, value: Any, expected: Sequence[int | str], dtype: str
) -> np.ndarray:
    """An input as a dense array of a dtype; "T" in the expected shape is any number.

    Raises:
        ValueError: if it's of another shape, or of numbers that the dtype has no place for.
    """
    wanted = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
    what = f"{owner}: expected {name} of shape {wanted} and {_kind(dtype)}"
    array = _array(what, value)
    same = len(array.shape) == len(expected) and all(
        size in ("T", got) for size, got in zip(expected, array.shape, strict=True)
    )
    if not same or not _holds_such(array, dtype):
        raise ValueError(f"{what}, got {_found(value, array)}.")
    _check_range(f"{owner}: expected {name}", array, dtype)
    return np.require(array, dtype, ("C", "A"))


def state(owner: str, value: Any, expected: tuple[int, ...], dtype: str) -> np.ndarray:
    """A state as an array of its own, of a dtype.

    Raises:
        ValueError: if it's of another shape, or of numbers that the dtype has no place for.
    """
    what = f"{owner}: expected an array of shape {expected}"
    array = _array(what, value)
    if array.shape != expected:
        raise ValueError(f"{what}, got {array.shape}.")
    if not _holds_such(array, dtype):
        raise ValueError(f"{what} and {_kind(dtype)}, got {array.dtype}.")
    _check_range(f"{owner}: expected values", array, dtype)
    return array.astype(dtype, order="C")


def _array(what: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:  # ragged; a tensor with a gradient...
        raise ValueError(f"{what}, got what NumPy makes no array of: {error}") from error


def _found(value: Any, array: np.ndarray) -> str:
    """What came; of a number no dtype, which would have done, or made the shape seem right."""
    if not array.shape and array.dtype == object:
        return type(value).__name__  # of anything at all NumPy makes an array without axes
    is_number = not array.shape and isinstance(value, (int, float, complex, np.number))
    return f"the number {value}" if is_number else f"{array.shape} of {array.dtype}"


def _kind(dtype: str) -> str:
    return "integers" if np.dtype(dtype).kind in "iu" else dtype


def _holds_such(array: np.ndarray, dtype: str) -> bool:
    """Whether an array's kind of numbers fits a dtype, if not each of its values."""
    wanted = np.dtype(dtype).kind
    kinds = "iu" if wanted in "iu" else "b" if wanted == "b" else "fiub"
    # bfloat16 is of kind V, and a float all the same.
    return array.dtype.kind in kinds or (wanted == "f" and array.dtype.name == "bfloat16")


def _check_range(what: str, array: np.ndarray, dtype: str) -> None:
    if np.dtype(dtype).kind not in "iu" or not array.size:
        return
    limits = np.iinfo(dtype)
    if int(array.max()) > limits.max or int(array.min()) < limits.min:
        raise ValueError(f"{what} within {dtype}, got {array.min()} to {array.max()}.")


def inputs(
    owner: str,
    nest: Nest,
    ports: Sequence[Port],
    values: Nest,
    lead: tuple[int, ...],
    time: tuple[str, ...],
) -> list[np.ndarray]:
    """What a timestep or, with `time` ("T",), some are given, as dense arrays of the ports' dtypes.

    Args:
        owner: Of whom an error speaks.
        nest: How they're nested.
        ports: The same, flat.
        values: What was given.
        lead: The axis of streams, if there's one.
        time: The axis of timesteps, if there's one.

    Raises:
        ValueError: It's nested otherwise, of another shape or dtype, or of different lengths.
    """
    leaves = match(nest, values)
    if leaves is None:
        raise ValueError(
            f"{owner}: expected inputs nested like {fill(nest, [port.name for port in ports])}, "
            f"got {type(values).__name__}."
        )
    arrays = [
        timestep(owner, port.name, leaf, (*lead, *time, *port.shape), port.dtype)
        for port, leaf in zip(ports, leaves, strict=True)
    ]
    lengths = {array.shape[len(lead)] for array in arrays} if time else set()
    if len(lengths) > 1:
        raise ValueError(
            f"{owner}: expected inputs of the same number of timesteps, got {sorted(lengths)}."
        )
    return arrays
