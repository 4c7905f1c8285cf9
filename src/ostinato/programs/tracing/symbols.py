"""Symbols that behave as tensors do, where Keras's behave as Python objects, or not at all.

`symbol == 0` is Python's False on a KerasTensor, and `symbol[:3]` an error: a cell that says such
things would be traced wrongly, or not, though it's right on tensors. Results of operations are
KerasTensors whatever went in, so the class itself is taught.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops

from ostinato.programs.tracing.looping import cond, fori_loop, while_loop
from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.rows import shape_told
from ostinato.programs.tracing.taught import Taught


class WeightSymbol(keras.KerasTensor):
    """A symbol in a variable's place."""

    @property
    def value(self) -> "WeightSymbol":
        """A variable's value is what stands for it."""
        return self

    def assign(self, value: Any) -> None:
        """Refused: a program's weights stay as they are."""
        raise Untraceable("its call assigns to a variable")

    assign_add = assign_sub = assign


def _missing(own: Callable[..., Any]) -> Callable[..., Any]:
    def missing(symbol: Any) -> Any:
        raise AttributeError

    return missing


def _equal(own: Callable[..., Any]) -> Callable[..., Any]:
    def equal(symbol: Any, other: Any) -> Any:
        return own(symbol, other) if other is None else ops.equal(symbol, other)

    return equal


def _getitem(own: Callable[..., Any]) -> Callable[..., Any]:
    def getitem(symbol: Any, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        arrays = [place for place, item in enumerate(keys) if isinstance(item, (list, np.ndarray))]
        if len(arrays) == 1 and all(isinstance(item, slice) for item in keys[: arrays[0]]):
            return _taken(own, symbol, keys, arrays[0])
        is_one = isinstance(key, slice) or key is None or key is ...
        return own(symbol, keys if is_one else key)

    return getitem


def _taken(own: Callable[..., Any], symbol: Any, keys: tuple[Any, ...], axis: int) -> Any:
    """`symbol[:, [2, 0, 1]]`: some places of one axis, of what the other keys leave."""
    places = np.asarray(keys[axis])
    if places.dtype.kind != "i":
        raise Untraceable(f"an index is an array of {places.dtype}")
    rest = own(symbol, (*keys[:axis], slice(None), *keys[axis + 1 :]))
    return ops.take(rest, places, axis=axis)


@cache
def _takes_arrays_as_its_own() -> bool:
    """Whether an operator of a tensor of float32 makes float32 of it and an array of float64."""
    try:
        made = ops.ones((1,), "float32") + np.ones(1)
    except TypeError:
        return False
    return bool(keras.backend.standardize_dtype(made.dtype) == "float32")


def _with_arrays(own: Callable[..., Any]) -> Callable[..., Any]:
    """An operator of symbols that takes an array for what the backend's tensors take it.

    A variable's operators are Keras's operations, which keep its float64, as symbols do.
    """

    def operator(symbol: Any, other: Any) -> Any:
        is_array = isinstance(other, (np.ndarray, np.generic)) and other.dtype == "float64"
        is_of_tensors = symbol.dtype == "float32" and not isinstance(symbol, WeightSymbol)
        if is_array and is_of_tensors and _takes_arrays_as_its_own():
            other = other.astype("float32")
        return own(symbol, other)

    return operator


_OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise Untraceable(f"ops.{name} isn't among programs' operations")

    return lambda own: refuse


# What runs functions of its own. On PyTorch some of them give one of their branches, silently.
_OF_FUNCTIONS = tuple(
    function.__name__
    for function in (*(ops.switch, ops.map, ops.vectorized_map, ops.scan, ops.associative_scan),)
)


class _Elementwise(keras.Operation):
    """A function of one tensor, as an operation that takes symbols."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.call = function

    def compute_output_spec(self, x: Any) -> Any:
        """A symbol like x."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)


def _on_symbols(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of keras.activations that takes no symbols itself; its operation has a name."""
    operation = type(name, (_Elementwise,), {})
    return lambda x: operation(function)(x)


# Functions that layers hold, by their ids, and what they hold while they're traced.
FUNCTIONS = {
    id(function): _on_symbols(name, function)
    for name, function in (
        ("Mish", keras.activations.mish),
        ("HardSilu", keras.activations.hard_silu),
    )
}

_TAUGHT = (
    Taught(keras.KerasTensor, "__eq__", _equal),
    Taught(keras.KerasTensor, "shape", shape_told),
    Taught(ops, "shape", shape_told),
    Taught(keras.KerasTensor, "__getitem__", _getitem),
    Taught(keras.KerasTensor, "__jax_array__", _missing, is_property=True),  # and JAX likewise
    Taught(keras.KerasTensor, "__array_ufunc__", None),  # NumPy leaves operators to the symbol
    *(
        Taught(keras.KerasTensor, f"__{side}{name}__", _with_arrays)
        for name in _OPERATORS
        for side in ("", "r")
        if hasattr(keras.KerasTensor, f"__{side}{name}__")
    ),
    *(Taught(ops, name, _refusing(name)) for name in _OF_FUNCTIONS),
    *(Taught(ops, each.__name__, each) for each in (cond, fori_loop, while_loop)),
    Taught(keras.activations, "mish", lambda own: FUNCTIONS[id(own)]),
    Taught(keras.activations, "hard_silu", lambda own: FUNCTIONS[id(own)]),
)


@contextmanager
def as_tensors() -> Iterator[None]:
    """While inside, in this thread, symbols are compared and sliced as tensors are."""
    with ExitStack() as stack:
        for taught in _TAUGHT:
            stack.enter_context(taught.used())
        yield
