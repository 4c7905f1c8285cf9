"""Kernels of `ostinato.cuda` by names: graphs of torch.compile and JAX's programs hold only those.

What kernels take and give, they say themselves (`ostinato.cuda` isn't imported here).
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple


class Known(NamedTuple):
    """What is found by a name.

    Attributes:
        kernels: The kernels.
        how: Makes what `kernels.prepared` takes.
        afterwards: The gradient of each operand, of what the way back has given.
        plain: The results of operands, in the framework's own operations.
    """

    kernels: Any
    how: Callable[..., Any]
    afterwards: Callable[..., Any]
    plain: Callable[..., Any]


_KNOWN: dict[str, Known] = {}
_COUNT = itertools.count()


def register_kernels(*known: Any) -> str:
    """The name by which operations find kernels; see `ostinato.doors`."""
    name = f"kernels_{next(_COUNT)}"
    _KNOWN[name] = Known(*known)
    return name


def known(name: str) -> Known:
    """What a name stands for."""
    return _KNOWN[name]
