"""The engine that a user forces, by `use_engine` or by the environment variable OSTINATO_ENGINE."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ostinato.engines.table import NAMES

VARIABLE = "OSTINATO_ENGINE"


def _checked(name: str | None, source: str) -> str | None:
    if name is not None and name not in NAMES:
        expected = " or ".join(repr(engine) for engine in NAMES)
        raise ValueError(f"{source}: expected the name of an engine, {expected}, got {name!r}.")
    return name


# Read once, when the package is imported: a change in mid-process would miss whatever is compiled.
_of_process = _checked(os.environ.get(VARIABLE) or None, VARIABLE)
_of_context: ContextVar[str | None] = ContextVar("ostinato_engine", default=None)


def forced() -> str | None:
    """The engine that is forced here: by the innermost `use_engine`, else by the environment."""
    return _of_context.get() or _of_process


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Forces the engine of every recurrent layer that is called inside the `with` block.

    It holds for this thread (or task), and for what is traced inside: a function that jax.jit,
    tf.function or torch.compile has compiled before keeps the engine that it was compiled with.

    Args:
        name: "fused", "compiled" or "scan".

    Raises:
        ValueError: if there's no such engine. A layer that the forced engine can't run raises one
            when it's called.
    """
    token = _of_context.set(_checked(name, "use_engine"))
    try:
        yield
    finally:
        _of_context.reset(token)
