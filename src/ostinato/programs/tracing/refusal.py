"""Why a cell can't be a program."""

import linecache
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any


class Untraceable(Exception):  # noqa: N818 (a refusal with its reason, no fault)
    """A cell whose step can't be a program.

    Attributes:
        reason: Why, as a clause that needs no context.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def because_of(error: BaseException, frameworks: tuple[str, ...]) -> Untraceable:
    """What an error in a cell's own code means, with the line where it was.

    Args:
        error: What was raised while its `call` ran on symbols.
        frameworks: The packages whose lines are none of the cell's own.
    """
    line = _own_line(error.__traceback__, frameworks)
    said = " ".join(str(error).split())
    said = said.partition(" Arguments received by ")[0].partition(" Call arguments ")[0][:160]
    return Untraceable(f"{line}can't be run on symbols: {type(error).__name__}: {said}")


def _own_line(trace: TracebackType | None, frameworks: tuple[str, ...]) -> str:
    found = ""
    for frame, number in traceback.walk_tb(trace):
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in frameworks:
            continue
        file = frame.f_code.co_filename
        text = linecache.getline(file, number, frame.f_globals).strip()
        found = f"line {number} of {Path(file).name}, `{text}`, " if text else ""
    return found or "its `call` "


def named(thing: Any) -> str:
    """An operation or layer as a reason names it."""
    return type(thing).__name__
