"""From a cell to a program: its `call` is run on symbols, and what it did to them is translated."""

from ostinato.programs.tracing.refusal import Untraceable, untried
from ostinato.programs.tracing.run import Like
from ostinato.programs.tracing.timestep import Timestep
from ostinato.programs.tracing.traced import Traced, trace

__all__ = ["Like", "Timestep", "Traced", "Untraceable", "trace", "untried"]
