"""The machine that a run is on, and what is installed there: for reports and benchmarks."""

import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from ostinato import __version__, native

FRAMEWORKS = {"jax": "JAX", "torch": "PyTorch", "tensorflow": "TensorFlow"}
PACKAGES = (
    "jax",
    "keras",
    "numpy",
    "onnxruntime",
    "openvino",
    "tensorflow",
    "tensorflow-cpu",
    "tf_keras",
    "torch",
)
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}


@functools.cache
def describe() -> dict[str, Any]:
    """This machine, how busy it was before, what is installed, and the native engine's target."""
    return {
        "cpu": ", ".join(filter(None, (_processor(), _vectors()))),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(load(), 1),
        "ostinato": __version__,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "native": native.why_not() or f"{native.target()}, {native.threads()} threads",
    }


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS or Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float:
    """How many threads have wanted to run over the last minute; 0 where the system doesn't tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def load_on_cores() -> float:
    """How much of the load must lie on the cores of this process, as no others can take it."""
    return max(0.0, load() - ((os.cpu_count() or 1) - cores()))


def crowded(threads: int, cores: int, load: float) -> str | None:
    """Says that threads may wait for one another; None where each has a free core, or it's alone.

    Args:
        threads: How many threads the operations of a process use.
        cores: How many cores it may use.
        load: How many threads want to run on those cores already.
    """
    free = max(0, cores - int(load))  # less than one in the mean is no program that holds a core
    if threads <= max(1, free):
        return None
    return f"{threads} threads, but free cores: {free} of {cores} (load {load:.1f})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    return _of_linux("model name") or platform.processor() or platform.machine()


def _vectors() -> str:
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
