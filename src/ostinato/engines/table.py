"""The engines, in order; each is the object `ENGINE` of the file of its name."""

import functools
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ostinato.engines.interface import Engine

# Fastest first; the last runs anything. Names alone, as the command line has no framework yet.
NAMES = ("fused", "compiled", "cudnn", "cuda", "scan")
PORTABLE = NAMES[-1]
OF_PROGRAMS = "compiled"  # the one for which a cell is made into a program
NVIDIA = "cuda"  # the kind of device
OF_CARDS = "cuda"  # the same on a GPU, also of built-in cells


@functools.cache
def engines() -> "tuple[Engine, ...]":
    """The engines, fastest first."""
    modules = (importlib.import_module(f"{__package__}.{name}") for name in NAMES)
    return tuple(module.ENGINE for module in modules)
