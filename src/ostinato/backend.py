"""Which backend Keras will run on, decided before Keras is imported; no framework is imported here.

Keras doesn't look for a backend: unless told otherwise it takes TensorFlow, and where that isn't
installed its import fails somewhere inside. So what needs Keras calls `require` first, which
refuses with what to do. The command line, where nobody has had a chance to choose, calls `choose`.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

BACKENDS = ("jax", "torch", "tensorflow")
KERAS_DEFAULT = "tensorflow"


class Choice(NamedTuple):
    """A backend, and where the choice comes from."""

    name: str
    reason: str


def configured() -> Choice:
    """The backend that Keras runs on, or will run on once it's imported."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):  # else it's half imported
        return Choice(keras.config.backend(), "Keras is already imported")
    from_environment = os.environ.get("KERAS_BACKEND")
    if from_environment:
        return Choice(from_environment, "by the environment variable KERAS_BACKEND")
    path = _keras_json()
    from_file = _backend_in(path)
    if from_file:
        return Choice(from_file, f"by {path}; KERAS_BACKEND isn't set")
    return Choice(KERAS_DEFAULT, "Keras's default; KERAS_BACKEND isn't set")


def installed() -> tuple[str, ...]:
    """Those of jax, torch and tensorflow that can be imported, in this order."""
    return tuple(name for name in BACKENDS if _is_installed(name))


def require() -> None:
    """Refuses to go on where Keras is configured for a backend that can't work.

    Raises:
        ImportError: if the backend isn't one of jax, torch and tensorflow, or isn't installed. The
            message says what is configured and why, what is installed, and what to do.
    """
    name, reason = configured()
    if name not in BACKENDS:
        trouble = f"expected one of {_listed(BACKENDS)}"
    elif name not in installed():
        trouble = "which isn't installed"
    else:
        return
    raise ImportError(
        f"ostinato: Keras is configured for {name!r} ({reason}), {trouble}. {_remedy(name)}"
    )


def choose(requested: str | None = None) -> Choice:
    """Picks the backend for the command line, and tells Keras through KERAS_BACKEND.

    In this order: `requested`; what KERAS_BACKEND or keras.json names, if installed; the first
    installed of jax, torch and tensorflow. A keras.json that names TensorFlow doesn't count, since
    Keras writes such a file by itself the first time that it's imported.

    Args:
        requested: What the user asked for on the command line, or None.

    Returns:
        The backend and why it was taken.

    Raises:
        ImportError: if `requested` isn't installed or isn't a backend, if Keras already runs on
            another backend, or if none is installed.
    """
    choice = _chosen(requested)
    if "keras" in sys.modules and choice.name != configured().name:
        raise ImportError(
            f"ostinato: expected to run on {choice.name!r}, but Keras is already imported and runs "
            f"on {configured().name!r}."
        )
    os.environ["KERAS_BACKEND"] = choice.name
    return choice


def _chosen(requested: str | None) -> Choice:
    available = installed()
    if requested is not None:
        if requested not in available:
            raise ImportError(
                f"ostinato: expected an installed backend, got {requested!r}. {_remedy(requested)}"
            )
        return Choice(requested, "as asked")
    name, reason = configured()
    by_hand = "keras" in sys.modules or os.environ.get("KERAS_BACKEND") or name != KERAS_DEFAULT
    if by_hand and name in available:
        return Choice(name, reason)
    if not available:
        raise ImportError(f"ostinato: expected a backend. {_remedy(KERAS_DEFAULT)}")
    passed_over = f"; {name!r}, {reason}, isn't installed" if by_hand else ""
    return Choice(available[0], f"the first installed of {_listed(BACKENDS)}{passed_over}")


def _remedy(name: str) -> str:
    """What is installed, and what to do where the backend called `name` can't be had."""
    available = installed()
    if not available:
        return (
            f"None of {_listed(BACKENDS)} is installed: install one, for example with "
            "`pip install jax`, and name it with `export KERAS_BACKEND=jax`."
        )
    first = available[0]
    install = f"; or install {name} with `pip install {name}`"
    return (
        f"Installed: {_listed(available)}. To run on one that is, name it with "
        f"`export KERAS_BACKEND={first}`, or in Python, before Keras is imported, with "
        f'`os.environ["KERAS_BACKEND"] = "{first}"`'
        f"{install if name in BACKENDS and name not in available else ''}."
    )


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    # A folder that happens to be called jax, without any code, has no origin.
    return spec is not None and spec.origin is not None


def _keras_json() -> Path:
    """Where Keras looks for its configuration."""
    # os.path, because Path.home() raises for a user without a home, and Keras doesn't.
    user = os.path.expanduser("~")  # noqa: PTH111
    base = user if os.access(user, os.W_OK) else "/tmp"
    folder = os.environ.get("KERAS_HOME", f"{base}/.keras")
    return Path(os.path.expanduser(folder), "keras.json")  # noqa: PTH111


def _backend_in(path: Path) -> str | None:
    """The backend named in Keras's configuration file, if any."""
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):  # Keras ignores a file that isn't JSON, too
        return None
    name = config.get("backend") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def _listed(names: tuple[str, ...]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
