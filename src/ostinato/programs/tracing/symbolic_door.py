"""The door to the backend as symbols need it: keras.ops alone.

Our own cells do their mathematics through `ostinato.doors`, with the backend's own functions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from keras import ops

from ostinato.doors import door
from ostinato.programs.tracing.taught import Taught


def _affine(x: Any, kernel: Any, bias: Any) -> Any:
    product = ops.matmul(x, kernel)
    return product if bias is None else product + bias


def _gates(functions: Sequence[Callable[..., Any]], kernel: Any) -> Callable[..., list[Any]]:
    def apply(z: Any, h: Any) -> list[Any]:
        parts = ops.split(_affine(h, kernel, z), len(functions), -1)
        return [function(part) for function, part in zip(functions, parts, strict=True)]

    return apply


_IN_KERAS_OPS: dict[str, Callable[..., Any]] = {
    "affine": _affine,
    "gates": _gates,
    "read": lambda variable, dtype: ops.cast(variable, dtype),
    "packed": lambda kernel: kernel,
    "blend": lambda start, end, weight: start + weight * (end - start),
    "multiply_add": lambda addend, first, second: addend + first * second,
    "lean": lambda function: function,
    "consuming": lambda function: function,
    "dropout_masks": lambda *asked: None,  # by keras.random, whose draws a trace knows
}


def _for(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda own: function


_TAUGHT = [Taught(door, name, _for(function)) for name, function in _IN_KERAS_OPS.items()]


@contextmanager
def in_keras_ops() -> Iterator[None]:
    """While inside, in this thread, the door's functions of a cell's mathematics take symbols."""
    with ExitStack() as stack:
        for taught in _TAUGHT:
            stack.enter_context(taught.used())
        yield
