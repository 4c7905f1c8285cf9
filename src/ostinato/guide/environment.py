"""On what the guide was run: versions, backend, machine, date."""

import datetime
import importlib.metadata
import platform

import keras

from ostinato import __version__, native
from ostinato.bench.machine import cores, processor

FRAMEWORKS = {
    "jax": ("JAX", ("jax",)),
    "torch": ("PyTorch", ("torch",)),
    "tensorflow": ("TensorFlow", ("tensorflow", "tensorflow-cpu")),
}


def describe() -> dict[str, str]:
    """Returns the names and values of the environment, in the order in which to show them."""
    now = datetime.datetime.now().astimezone()
    return {
        "Ostinato": __version__,
        "Keras": keras.version(),
        "Backend": framework(),
        "Native engine": engine(),
        "NumPy": importlib.metadata.version("numpy"),
        "Python": platform.python_version(),
        "Cores": str(cores()),
        "Processor": processor(),
        "System": f"{platform.system()} {platform.machine()}",
        "Date": f"{now:%Y-%m-%d %H:%M %Z}",
    }


def framework() -> str:
    """Returns the name and version of Keras's backend."""
    name, packages = FRAMEWORKS[keras.config.backend()]
    for package in packages:
        try:
            return f"{name} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return name


def engine() -> str:
    """Returns what the native engine runs on here, or why it doesn't."""
    return native.why_not() or f"{native.target()}, {native.threads()} threads"
