"""The engines, in order; each is the object `ENGINE` of the file of its name."""

import functools
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ostinato.engines.interface import Engine

# Fastest first; the last runs anything. Names alone, as the command line has no framework yet.
NAMES = ("fused", "compiled", "cudnn", "cuda", "scan")
# What they're called by, where others have to speak of one.
OF_BUILTIN = "fused"  # of built-in cells, on the core
OF_PROGRAMS = "compiled"  # of cells that are made into programs, on the core
OF_CARDS = "cuda"  # of cells that are made into programs, built-in ones too, on a GPU
PORTABLE = NAMES[-1]  # of any cell, anywhere

NVIDIA = "cuda"  # no engine, but the kind of device


@functools.cache
def engines() -> "tuple[Engine, ...]":
    """The engines, fastest first."""
    modules = (importlib.import_module(f"{__package__}.{name}") for name in NAMES)
    return tuple(module.ENGINE for module in modules)
