"""Why a cell can't be a program."""

import linecache
import re
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
    said = _said(error)
    line = _own_line(error.__traceback__, frameworks)
    if isinstance(error, Untraceable):
        return Untraceable(said.replace(_ITS_CALL, line, 1) if said.startswith(_ITS_CALL) else said)
    meanings = (meaning for part, meaning in _MEANINGS.items() if part in said)
    what = next(meanings, f"can't be run on symbols: {type(error).__name__}: {said}")
    within = _PREFIX.match(_COLOUR.sub("", str(error)))
    where = f" (in {within[1]})" if within else ""
    return Untraceable(f"{line}{what}{where}")


def untried(error: BaseException) -> Untraceable:
    """That a program can't be tried beside its cell, which fails on numbers."""
    return Untraceable(
        "it can't be tried on numbers, with gradients, to see that its program is right: "
        f"{type(error).__name__}: {_said(error)}"
    )


_ITS_CALL = "its call "
_OF_A_FRAMEWORK = "calls a function of the framework's own, where only keras.ops can be traced"
_BRANCHES = "takes a tensor for true or false, which isn't known before the cell runs"
# What Keras and the frameworks say where they're given a symbol, and what the cell does then.
_MEANINGS = {
    "__jax_array__": _OF_A_FRAMEWORK,
    "as input to a TensorFlow function": _OF_A_FRAMEWORK,
    "as input to a JAX function": _OF_A_FRAMEWORK,
    "must be Tensor, not": _OF_A_FRAMEWORK,
    "Argument '<KerasTensor": _OF_A_FRAMEWORK,
    "got <class 'keras": _OF_A_FRAMEWORK,
    "got (KerasTensor": _OF_A_FRAMEWORK,
    "but got KerasTensor": _OF_A_FRAMEWORK,
    "does not support ufuncs": "calls a function of NumPy's, where only keras.ops can be traced",
    "cannot be used as a boolean": _BRANCHES,
    "You cannot convert it to a NumPy array": "turns a tensor into a NumPy array",
    "add new elements of state": "makes weights or layers",
    "`add_loss()` can only be called": "adds a loss",
    "'KerasTensor' object has no attribute": "takes a tensor's own method or attribute, where only "
    "keras.ops can be traced",
    "'KerasTensor' object does not support item assignment": "writes into a tensor",
}
_COLOUR = re.compile(r"\x1b\[\d*m")
_PREFIX = re.compile(r"^Exception encountered when calling (.*?)(?:\.call)?\(\)\.\s+")
MOST_SAID = 160  # of an error's text, which may be a page


def _said(error: BaseException) -> str:
    """What an error says, without what Keras puts around it; of a long text the beginning."""
    text = _PREFIX.sub("", _COLOUR.sub("", str(error)))
    text = " ".join(text.partition("Arguments received by")[0].split()).rstrip(".")
    return text if len(text) <= MOST_SAID else f"{text[:MOST_SAID]}..."


def _own_line(trace: TracebackType | None, frameworks: tuple[str, ...]) -> str:
    found = ""
    for frame, number in traceback.walk_tb(trace):
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in frameworks:
            continue
        file = frame.f_code.co_filename
        text = linecache.getline(file, number, frame.f_globals).strip()
        found = f"line {number} of {Path(file).name}, `{text}`, " if text else ""
    return found or _ITS_CALL


def named(thing: Any) -> str:
    """An operation or layer as a reason names it."""
    return type(thing).__name__
