"""A program of JAX's that may be lowered for several platforms: a branch for each of them.

Which one it is, JAX says when it lowers a program, after all of it is traced: a function that is
under jit runs where its arguments are, which nobody knows while tracing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax import lax

from ostinato.doors import jax_cudnn
from ostinato.doors.jax_native import traced_for
from ostinato.doors.tracing import is_exporting

__all__ = ["by_device", "lowered_for", "may_be_lowered_for"]

# JAX's names of devices, by the kinds that they are.
_PLATFORMS = {"cpu": "cpu", "cuda": "gpu"}


def may_be_lowered_for(x: Any) -> tuple[str, ...]:
    """The kinds of device; see `ostinato.doors`.

    In a process without CUDA there's one: cuDNN's and our own kernels are made for the card that is
    there, so what is lowered for CUDA nevertheless is a scan.
    """
    if not isinstance(x, jax.core.Tracer) or not jax_cudnn._has_cuda() or is_exporting():
        return ()
    first = jax_cudnn.device_of(x)
    if first not in _PLATFORMS:
        return ()
    return first, *(device for device in _PLATFORMS if device != first)


def lowered_for(device: str) -> AbstractContextManager[None]:
    """Inside, what is being traced is taken to go to such a device."""
    return traced_for(_PLATFORMS[device])


def by_device(branches: dict[str, Callable[[], Any]]) -> Any:
    """What the branch for the device gives that a program is lowered for; of any other the first's.

    All are traced, and JAX drops the others while it lowers the program.
    """
    first = next(iter(branches.values()))
    return lax.platform_dependent(default=first, **branches)
