"""All operations of programs by name. One more is one entry in one of the two tables."""

import functools

from ostinato.programs.elementwise import elementwise
from ostinato.programs.operation import Operation
from ostinato.programs.structural import STRUCTURAL


@functools.cache
def operations() -> dict[str, Operation]:
    """Every operation."""
    return {**STRUCTURAL, **elementwise()}
