"""`ops.custom_gradient` on symbols: a value that brings the gradients of what it's made of along.

Keras has it run a framework's function, which can't take symbols. What a cell decorates outside of
its call can't be seen here, and is refused where that framework refuses it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import keras

from ostinato.programs.tracing.history import symbols_in
from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.taught import Taught


class CustomGradient(keras.Operation):
    """Stands for a value with gradients of its own.

    Attributes:
        number: The number of its upstream among all of a run.
    """

    def __init__(self, number: int) -> None:
        super().__init__(name=f"custom_gradient_{number}")
        self.number = number

    def compute_output_spec(self, value: Any, sources: Any, gradients: Any) -> Any:
        """A symbol like the value."""
        return keras.KerasTensor(value.shape, dtype=value.dtype)


@cache
def _holder() -> type | None:
    """Keras's class of decorated functions, where it has one: on PyTorch."""
    kind = type(keras.ops.custom_gradient(lambda x: (x, lambda upstream: upstream)))
    return kind if kind.__module__.partition(".")[0] == "keras" else None


class CustomGradients:
    """The custom gradients of one run.

    Attributes:
        upstreams: The symbol of each one's upstream.
    """

    def __init__(self) -> None:
        self.upstreams: list[Any] = []

    @contextmanager
    def used(self) -> Iterator[None]:
        """While inside, `ops.custom_gradient` takes symbols."""
        holder = _holder()
        with ExitStack() as stack:
            stack.enter_context(Taught(keras.ops, "custom_gradient", self._decorating).used())
            if holder is not None:
                stack.enter_context(Taught(holder, "__call__", self._calling).used())
            yield

    def _calling(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """On PyTorch what is decorated outside of a call is an object that holds the function."""

        def call(decorated: Any, *args: Any, **kwargs: Any) -> Any:
            if not symbols_in((args, kwargs)):
                return own(decorated, *args, **kwargs)
            return self._on_symbols(decorated.forward_fn, args, kwargs)

        return call

    def _decorating(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
            on_tensors = own(function)

            def either(*args: Any, **kwargs: Any) -> Any:
                if not symbols_in((args, kwargs)):
                    return on_tensors(*args, **kwargs)
                return self._on_symbols(function, args, kwargs)

            return either

        return custom_gradient

    def _on_symbols(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        value, gradient = function(*args, **kwargs)
        if not isinstance(value, keras.KerasTensor):
            raise Untraceable("a function with a custom gradient gives several values")
        upstream = keras.KerasTensor(value.shape, dtype=value.dtype)
        number = len(self.upstreams)
        self.upstreams.append(upstream)
        given = gradient(upstream)
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        if len(given) != len(args):
            raise Untraceable(
                f"a custom gradient gives {len(given)} gradients of {len(args)} arguments"
            )
        pairs = [
            (source, one)
            for source, one in zip(args, given, strict=True)
            if isinstance(source, keras.KerasTensor) and one is not None
        ]
        sources, gradients = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return CustomGradient(number).symbolic_call(value, sources, gradients)
