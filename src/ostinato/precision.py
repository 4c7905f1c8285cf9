"""What products of float32 layers are computed from, as the user has asked: float32, or bfloat16.

By `use_precision`, else by the environment variable OSTINATO_PRECISION, else by the framework's own
setting (the doors' `product_precision`). Nobody's asking is float32.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

VARIABLE = "OSTINATO_PRECISION"
NAMES = ("float32", "bfloat16")


def _checked(name: str | None, source: str) -> str | None:
    if name is not None and name not in NAMES:
        expected = " or ".join(map(repr, NAMES))
        raise ValueError(f"{source}: expected {expected}, got {name!r}.")
    return name


# Read once, as OSTINATO_ENGINE is.
_of_process = _checked(os.environ.get(VARIABLE) or None, VARIABLE)
_of_context: ContextVar[str | None] = ContextVar("ostinato_precision", default=None)


def asked() -> str | None:
    """What is asked for here, of us: by the innermost `use_precision`, else by the environment."""
    return _of_context.get() or _of_process


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
    token = _of_context.set(_checked(name, "use_precision"))
    try:
        yield
    finally:
        _of_context.reset(token)
