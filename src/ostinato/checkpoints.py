"""How often a layer keeps its states for the backward pass, which computes those between again."""

import re
from numbers import Integral
from typing import Any

from ostinato.native import LEAST_CHECKPOINT

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
EXPECTED = (
    "a number of timesteps, 0 for none, or an amount of memory such as '100MB' or '1.5 GiB' (in B, "
    "KB, MB, GB, TB, or KiB to TiB)"
)

# Timesteps between checkpoints, at most: what is computed again leaves the processor's cache beyond
# that, and the states that are kept weigh next to nothing by then.
_MOST = 128
_WHERE_UNKNOWN = 128
_MOST_BYTES = 1 << 62  # no machine has as many, and a float may be infinite
# No sequence is as long, and an operation's attribute holds it.
_LONGEST = 1 << 40


def checked(value: Any, source: str) -> str:
    """What asks for checkpoints, as text that `timesteps_between` reads.

    Raises:
        ValueError: if it's neither a number of timesteps nor an amount of memory; it begins with
            `source`.
    """
    text = str(value).replace(" ", "").upper()
    # (NumPy's integers are Integral, and its booleans aren't.)
    is_one = isinstance(value, (Integral, str)) and not isinstance(value, bool)
    if not is_one or not (text.isdecimal() or _memory(text)):
        raise ValueError(f"{source}: expected {EXPECTED}, got {value!r}.")
    return text


def _memory(text: str) -> int | None:
    """An amount of memory in bytes, or None where the text is none."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(B|[KMGT]I?B)", text)
    return int(min(float(found[1]) * _UNITS[found[2]], _MOST_BYTES)) if found else None


def timesteps_between(
    asked: str | None, truncate: int, sizes: tuple[Any, Any], kept: int, states: int
) -> int:
    """How many timesteps lie between the states that one call of a layer keeps; 0: it keeps all.

    Args:
        asked: What `checked` gave, or None where nobody asks.
        truncate: Timesteps of which gradients cross no multiple; 0: they cross all.
        sizes: Batch and timesteps, each no int where it's unknown.
        kept: Bytes that a row and timestep take where all is kept.
        states: Bytes of its states alone.

    Returns:
        0, or a power of two from `LEAST_CHECKPOINT` on.
    """
    batch, timesteps = (size if isinstance(size, int) else None for size in sizes)
    if asked is None and not truncate:
        return 0
    if asked is None:
        every = _every(timesteps, kept, states)
        every = every if every <= truncate else _power_of_two(truncate // 2 + 1)
        return 0 if timesteps is not None and timesteps <= max(every, truncate) else every
    limit = _memory(asked)
    if limit is None:
        every = _power_of_two(min(int(asked), _LONGEST)) if int(asked) else 0
        return 0 if timesteps is not None and timesteps <= every else every
    if batch is not None and timesteps is not None and (timesteps + 1) * batch * kept <= limit:
        return 0
    return _every(timesteps, kept, states)


def _every(timesteps: int | None, kept: int, states: int) -> int:
    """That with which checkpoints and what is computed again take the least memory together."""
    if timesteps is None:
        return _WHERE_UNKNOWN
    every = LEAST_CHECKPOINT
    while every < _MOST and every * every * kept < timesteps * states:
        every *= 2
    return every


def _power_of_two(least: int) -> int:
    every = LEAST_CHECKPOINT
    while every < least:
        every *= 2
    return every
