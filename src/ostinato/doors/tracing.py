"""What a trace is for, read off the callers on Python's stack: frameworks tell it nowhere else.

Looked at while tracing only, so once for each trace and never at a step.
"""

import sys
from collections.abc import Iterator
from types import FrameType

EXPORTING = (
    "the model is being exported, and what is exported must run where Ostinato isn't installed"
)


def is_exporting() -> bool:
    """Whether Keras's `model.export` is at work."""
    return any(_exports(frame.f_globals.get("__name__", "")) for frame in callers())


def callers() -> Iterator[FrameType]:
    """The frames of the functions that are being called, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _exports(module: str) -> bool:
    package, *inner = module.split(".")
    return package == "keras" and "export" in inner
