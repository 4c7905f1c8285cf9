"""The contract of a cell: what is read off it before it's called, and what it returns."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from keras import tree

from ostinato.cells.checks import name_of
from ostinato.structure import Shape, Structure, describe, sizes


def state_sizes(cell: Any) -> Structure:
    """A cell's states as a structure of `Shape`s; a single state becomes a list of one."""
    read = sizes(cell.state_size, f"state_size of {name_of(cell)}")
    return [read] if isinstance(read, Shape) else read


def output_sizes(cell: Any) -> Structure | None:
    """A cell's outputs as a structure of `Shape`s, or None where it has no `output_size`."""
    declared = getattr(cell, "output_size", None)
    return None if declared is None else sizes(declared, f"output_size of {name_of(cell)}")


def first_state_size(cell: Any) -> Shape:
    """What a cell without an `output_size` puts out, by Keras's rule."""
    states: list[Shape] = tree.flatten(state_sizes(cell))
    if not states:
        raise ValueError(
            f"{name_of(cell)}: expected an `output_size`, since it has no state that its output "
            "could be like."
        )
    return states[0]


def call_method(cell: Any) -> Callable[..., Any]:
    """The method that holds a cell's mathematics: `call`, or `__call__` of a plain object."""
    method: Callable[..., Any] = getattr(cell, "call", None) or cell.__call__
    return method


def takes(cell: Any, argument: str) -> bool:
    """Whether a cell's `call` takes a keyword argument, by name or through **kwargs."""
    parameters = parameters_of(call_method(cell))
    return argument in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def takes_states(cell: Any) -> bool:
    """Whether a cell's `call` takes inputs and states by position."""
    method = call_method(cell)
    parameters = list(parameters_of(method).values())[1 if hasattr(method, "__func__") else 0 :]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    others = ("training", "mask", "constants")
    count = sum(p.kind in by_position and p.name not in others for p in parameters)
    return count >= 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def parameters_of(method: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a method or function; remembered, as a look costs 40 us."""
    return _parameters(getattr(method, "__func__", method))


@functools.lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def needs_constants(cell: Any) -> bool:
    """Whether a cell's `call` can't do without constants."""
    parameter = parameters_of(call_method(cell)).get("constants")
    return parameter is not None and parameter.default is parameter.empty


def output_and_states(owner: str, cell: Any, result: Any) -> tuple[Any, Any]:
    """What a cell's `call` returned, as the two that it has to be."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise ValueError(
            f"{owner}: `call` of {name_of(cell)} must return (output, new_states), got "
            f"{describe(result)}."
        )
    return result[0], result[1]
