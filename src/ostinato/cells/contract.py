"""The contract of a cell: what is read off it before it's called, and what it returns."""

import inspect
import numbers
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import tree

from ostinato.cells.checks import name_of
from ostinato.doors import remembered
from ostinato.structure import (
    Shape,
    SharedShape,
    Structure,
    describe,
    is_count,
    is_torch_size,
    repack,
    sizes,
)

# Of built cells whose `state_size` doesn't say what their states are; see `state_sizes`.
_FOUND: "weakref.WeakKeyDictionary[Any, Structure]" = weakref.WeakKeyDictionary()


class CellOfCells:
    """What marks a cell that is made of those in its `cells`, and has the states of each."""

    cells: list[Any]


def state_sizes(cell: Any, initial: Structure = None) -> Structure:
    """A cell's states as a structure of `Shape`s; a single state becomes a list of one.

    An int is a vector of so many units, unless the initial states that the cell makes for itself
    have other axes: these are what its timesteps get. Where it's -1, as in Keras's ConvLSTM cells,
    they alone tell what the states are, once the cell is built; until then it has none. (Ours has
    another `state_size` by then.)

    Args:
        cell: The cell.
        initial: What its `get_initial_state` has just given, where it was called anyway; a cell
            that draws random states would draw others for being asked again.
    """
    if isinstance(cell, CellOfCells):
        return [_sizes_in_stack(inner) for inner in cell.cells]
    is_unbuilt = isinstance(cell, keras.layers.Layer) and not cell.built
    if is_unbuilt and _is_open(cell.state_size):
        return []
    if is_unbuilt or not _has_open_sizes(cell.state_size) or not _makes_states(cell):
        return _declared_sizes(cell)
    try:
        return _FOUND[cell]
    except KeyError:
        _FOUND[cell] = found = _sizes_by_states(cell, initial)
        return found
    except TypeError:  # it can't be weakly referred to, or hashed
        return _sizes_by_states(cell, initial)


def _declared_sizes(cell: Any) -> Structure:
    read = sizes(cell.state_size, f"state_size of {name_of(cell)}")
    return [read] if isinstance(read, Shape) else read


def _sizes_in_stack(cell: Any) -> Structure:
    """As in the stack's `state_size`: a single size in no container."""
    read, size = state_sizes(cell), cell.state_size
    is_single = isinstance(sizes(size, "state_size"), Shape) if not _is_open(size) else False
    return read[0] if is_single else read


def _sizes_by_states(cell: Any, initial: Structure) -> Structure:
    if initial is None or any(None in getattr(s, "shape", ()) for s in tree.flatten(initial)):
        initial = _Starting(cell).compute_output_spec()
    are_tensors = all(hasattr(state, "shape") for state in tree.flatten(initial))
    if _is_open(cell.state_size) and are_tensors:
        initial = initial if isinstance(initial, (tuple, list, dict)) else [initial]
        return tree.map_structure(_size_of_state, initial)
    declared = _declared_sizes(cell)
    fitted = repack(declared, initial)
    if fitted is None or not are_tensors:
        return declared  # it's refused where the states are needed
    return tree.map_structure(
        lambda size, state: size if len(state.shape) == 1 + len(size) else _size_of_state(state),
        declared,
        fitted,
    )


class _Starting(keras.Operation):
    """A cell's `get_initial_state`, run on symbols, so that no seed of Keras's moves."""

    def __init__(self, cell: Any) -> None:
        super().__init__()
        self._cell = cell

    def call(self) -> Structure:
        """The initial states of one row."""
        cell = self._cell
        return own_initial_states(cell, 1, getattr(cell, "compute_dtype", "float32"))


def _size_of_state(state: Any) -> Shape:
    return Shape(*state.shape[1:]) if len(state.shape) else SharedShape()


def own_initial_states(cell: Any, batch_size: Any, dtype: str) -> Structure:
    """What a cell's own `get_initial_state` gives; Keras 2's took inputs, batch_size and dtype.

    One that takes `**kwargs` gets the batch size alone, as from Keras 3. A Python number is a state
    of floats that all rows share.
    """
    own = cell.get_initial_state
    keywords = {"batch_size": batch_size, "inputs": None, "dtype": dtype}
    parameters = parameters_of(own)
    given = {name: value for name, value in keywords.items() if name in parameters}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        given["batch_size"] = batch_size
    return tree.map_structure(_as_array, own(**given))


def _as_array(state: Any) -> Any:
    is_number = isinstance(state, numbers.Real) and not hasattr(state, "shape")
    return np.asarray(state, "float32") if is_number else state


def _makes_states(cell: Any) -> bool:
    return not _is_of_package(type(cell)) and getattr(cell, "get_initial_state", None) is not None


@remembered
def _is_of_package(cls: Any) -> bool:
    """Whether a cell's class is ours or derives from one: its states are as it says."""
    package = __package__.partition(".")[0]
    return any(base.__module__.partition(".")[0] == package for base in cls.__mro__)


def _is_open(size: Any) -> bool:
    return is_count(size) and size < 0


def _has_open_sizes(size: Any) -> bool:
    """Whether a `state_size` holds ints, which say less than shapes do."""
    if isinstance(size, dict):
        size = list(size.values())
    if isinstance(size, (tuple, list)) and not is_torch_size(size):
        return any(map(_has_open_sizes, size))
    return is_count(size)


def output_sizes(cell: Any) -> Structure | None:
    """A cell's outputs as a structure of `Shape`s, or None where it has no `output_size`."""
    declared = getattr(cell, "output_size", None)
    return None if declared is None else sizes(declared, f"output_size of {name_of(cell)}")


def first_state_size(cell: Any) -> Shape:
    """The output's size of a cell without an `output_size`: by Keras's rule its first state's."""
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


@remembered
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def needs_constants(cell: Any) -> bool:
    """Whether a cell's `call` can't do without constants."""
    parameter = parameters_of(call_method(cell)).get("constants")
    return parameter is not None and parameter.default is parameter.empty


def output_and_states(owner: str, cell: Any, result: Any) -> tuple[Any, Any]:
    """A cell's output and new states, out of what its `call` returned; refuses what's no pair."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise ValueError(
            f"{owner}: `call` of {name_of(cell)} must return (output, new_states), got "
            f"{describe(result)}."
        )
    return result[0], result[1]
