"""What has been seen to be right: a stamp for a card, its driver, NVRTC and our sources.

`ostinato check-gpu` leaves it; without it nobody but the user takes the kernels (`use_engine`).
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from ostinato.cuda import driver, nvrtc

_HERE = Path(__file__).parent
_PACKAGE = _HERE.parent
# What kernels are made from and launched by, beside a door's extension; and what has been tried.
_FOLDERS = ("cells", "programs", "engines", "doors", "gpu_check")
_SOURCES = (_HERE, *(_PACKAGE / name for name in _FOLDERS))


@functools.cache
def _sources() -> str:
    """A digest of our own sources."""
    digest = hashlib.sha256()
    files = (file for folder in _SOURCES for file in sorted(folder.rglob("*")))
    for file in files:
        if file.suffix in (".py", ".cuh"):
            digest.update(f"{file.relative_to(_PACKAGE)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def place(card: int, launcher: str) -> Path:
    """Where a stamp lies.

    Args:
        card: Which card.
        launcher: What launches the kernels: the framework, and code of ours that isn't Python.
    """
    told = f"{_sources()} {driver.described(card)} {driver.card(card)} {nvrtc.version()} {launcher}"
    return nvrtc.directory() / f"checked-{hashlib.sha256(told.encode()).hexdigest()[:32]}.json"


def is_there(card: int, launcher: str) -> bool:
    """Whether there's a stamp.

    It's looked for once a process, as layers ask in every call: what another process leaves or
    takes away later, this one doesn't see.
    """
    return _is_there(place(card, launcher))


@functools.lru_cache(maxsize=64)
def _is_there(path: Path) -> bool:
    return nvrtc.kept(path) is not None


def leave(card: int, launcher: str, **told: Any) -> Path:
    """Leaves a stamp, for people with what is told."""
    path = place(card, launcher)
    told = {"card": driver.described(card), "launcher": launcher, **told}
    nvrtc.keep(path, f"{json.dumps(told, indent=1)}\n".encode())
    _is_there.cache_clear()
    return path


def take(card: int, launcher: str) -> None:
    """Takes a stamp away, if there's one.

    Raises:
        OSError: It can't be taken away.
    """
    _is_there.cache_clear()  # another process may have left it
    if is_there(card, launcher):
        place(card, launcher).unlink(missing_ok=True)  # or have taken it away meanwhile
        _is_there.cache_clear()
