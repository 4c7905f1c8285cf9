"""What a user sets for a block of code or for the process: engine, precision, checkpoints.

Each by a context manager, else by an environment variable; where nobody has set it, it's None.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import SupportsIndex

from ostinato import checkpoints
from ostinato.engines.table import NAMES


class Setting:
    """One of some names: set for a block of code, else for the process, else None.

    The environment is read once, when the package is imported: a change in mid-process would miss
    whatever is compiled.
    """

    def __init__(self, variable: str, names: tuple[str, ...]) -> None:
        """Reads the environment variable.

        Raises:
            ValueError: if it's neither empty nor one of the names.
        """
        self._names = names
        of_process = os.environ.get(variable)
        self._of_process = self._checked(of_process, variable) if of_process else None
        self._of_block: ContextVar[str | None] = ContextVar(variable, default=None)

    def __call__(self) -> str | None:
        """What is set here: by the innermost block, else by the environment."""
        return self._of_block.get() or self._of_process

    @contextmanager
    def to(self, name: str, source: str) -> Iterator[None]:
        """Sets it in the `with` block, for this thread or task; `source` is for the error."""
        token = self._of_block.set(self._checked(name, source))
        try:
            yield
        finally:
            self._of_block.reset(token)

    def _checked(self, name: str, source: str) -> str:
        if name not in self._names:
            expected = " or ".join(map(repr, self._names))
            raise ValueError(f"{source}: expected {expected}, got {name!r}.")
        return name


class _Checkpoints(Setting):
    """A number of timesteps or an amount of memory, as text."""

    def _checked(self, name: str, source: str) -> str:
        return checkpoints.checked(name, source)


forced_engine = Setting("OSTINATO_ENGINE", NAMES)
# Else the framework's own setting holds (the doors' `product_precision`), else float32.
asked_precision = Setting("OSTINATO_PRECISION", ("float32", "bfloat16"))
asked_checkpoints = _Checkpoints("OSTINATO_CHECKPOINTS", ())


def check_whole_number(variable: str, least: int) -> None:
    """Refuses an environment variable of the native core, which would pass over what is no number.

    Raises:
        ValueError: if it's neither empty nor a whole number of at least that.
    """
    text = os.environ.get(variable, "").strip()
    if text and not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise ValueError(f"{variable}: expected a whole number of at least {least}, got {text!r}.")


check_whole_number("OSTINATO_NUM_THREADS", 1)
check_whole_number("OSTINATO_POOL_MB", 0)


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Forces the engine of every recurrent layer that is called inside the `with` block.

    It holds for this thread (or task), and for what is traced inside: a function that jax.jit,
    tf.function or torch.compile has compiled before keeps the engine that it was compiled with.

    Args:
        name: "fused", "compiled", "cudnn", "cuda" or "scan".

    Raises:
        ValueError: if there's no such engine. A layer that the forced engine can't run raises one
            when it's called.
    """
    with forced_engine.to(name, "use_engine"):
        yield


@contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Sets what native kernels compute the products of float32 layers from, in the `with` block.

    Of bfloat16s they take about half the time where the processor multiplies these (`explain` says
    so), and their operands are rounded to 8 bits; sums, states, gates and weights stay float32.
    Where it doesn't, and on other engines, nothing changes. Without this, frameworks' own settings
    hold: `jax_default_matmul_precision="bfloat16"` on JAX; on PyTorch `torch.autocast` to bfloat16,
    or `torch.set_float32_matmul_precision("medium")`; on TensorFlow the optimizer option
    `auto_mixed_precision_onednn_bfloat16`. Layers of other dtypes than float32 aren't concerned.

    It holds for this thread (or task), and for what is traced inside, as `use_engine` does.

    Args:
        name: "float32" or "bfloat16".

    Raises:
        ValueError: if it's neither.
    """
    with asked_precision.to(name, "use_precision"):
        yield


@contextmanager
def use_checkpoints(every: SupportsIndex | str) -> Iterator[None]:
    """Has layers keep less for their gradients, in the `with` block, and compute the rest again.

    In training a layer keeps its gates and states of all timesteps. With checkpoints it keeps the
    states of every k-th timestep only, and the backward pass computes those in between again, k at
    a time. Results and gradients are the same to the bit; a training step takes up to
    1.3 times as long. It concerns the engines "fused" and "compiled"; others keep what they keep.

    It holds for this thread (or task), and for what is traced inside, as `use_engine` does.

    Args:
        every: A number of timesteps, which is rounded up to a power of two of at least 32; or an
            amount of memory, as "100MB" or "1.5 GiB": a call of a layer that would keep more than
            that then keeps as little as it can; or 0 for no checkpoints.

    Raises:
        ValueError: if it's none of these.
    """
    with asked_checkpoints.to(every, "use_checkpoints"):  # type: ignore[arg-type]
        yield
