"""The machine that numbers are from: its processor, and how many cores this process may use."""

import os
import platform
from pathlib import Path

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS or Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    name = _of_linux("model name")
    return name or platform.processor() or platform.machine()


def vectors() -> str:
    """The widest vectors that the processor has, as Linux says; "" where nothing does."""
    flags = _of_linux("flags").split()
    if not flags:
        return ""
    return next((name for flag, name in _VECTORS.items() if flag in flags), "no AVX2")


def _of_linux(name: str) -> str:
    """What Linux says of the first core under a name, or ""."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
