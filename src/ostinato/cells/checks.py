"""Checks of a cell and its states, made before any work is done; each error names the owner."""

import inspect
from typing import Any

import keras
from keras import tree

from ostinato.nests import leaf_paths
from ostinato.structure import Structure, describe, repack, with_batch
from ostinato.tensors import agree, has_axes, shape_of

STACKED = (
    "Where recurrent layers are stacked, all but the last take return_sequences=True, which gives "
    "the output of every timestep."
)


def name_of(thing: Any) -> str:
    """A layer or cell as errors call it: "LSTM layer 'lstm'", "MyCell object"."""
    kind = type(thing).__name__
    if isinstance(thing, keras.layers.Layer):
        return f"{kind} layer '{thing.name}'"
    return f"{kind} object"


def need_batch_size(thing: Any, batch_size: Any) -> None:
    """Refuses to make states for no batch size."""
    if batch_size is None:
        raise ValueError(
            f"{name_of(thing)}: expected a batch size to make initial states for, an int or a "
            "scalar tensor, got None."
        )


def read_states(
    owner: str, what: str, given: Structure, expected: Structure, batch_size: int | None
) -> Structure:
    """Given states in the containers of the layer's own, checked leaf by leaf.

    Args:
        owner: The layer.
        what: What they are, such as "initial_state".
        given: The states, in any containers.
        expected: A structure of `Shape`s.
        batch_size: B, or None where it's unknown.
    """
    states = repack(expected, given)
    if states is None:
        raise ValueError(
            f"{owner}: expected {what} to be {len(tree.flatten(expected))} tensors like "
            f"{describe(expected)}, got {describe(given)}.{_about_names(given)}"
        )
    triples = zip(leaf_paths(expected), tree.flatten(states), tree.flatten(expected), strict=True)
    for path, state, size in triples:
        if not has_axes(state):
            raise ValueError(f"{owner}: expected {what}{path} to be a tensor, got {state!r}.")
        if not agree(shape_of(state), with_batch(size, batch_size)):
            wanted = with_batch(size, "batch" if batch_size is None else batch_size)
            raise ValueError(
                f"{owner}: expected {what}{path} of shape {wanted}, got {shape_of(state)}."
            )
    return states


def _about_names(given: Structure) -> str:
    inner = given if isinstance(given, (tuple, list)) else ()
    has_dict = any(isinstance(item, dict) for item in (given, *inner))
    hint = " A dict fits a dict with the same names alone, since its entries have no order."
    return hint if has_dict else ""


def check_cell(owner: str, cell: Any) -> None:
    """Refuses what isn't a cell."""
    if inspect.isclass(cell):
        raise ValueError(
            f"{owner}: expected a cell, got the class {cell.__name__}: make one of it, as in "
            f"`{cell.__name__}(units)`."
        )
    # A cell of the user's may have such an attribute, which is something else.
    flags = [getattr(cell, name, None) for name in ("return_sequences", "return_state")]
    if all(isinstance(flag, bool) for flag in flags):
        raise ValueError(
            f"{owner}: expected a cell, which runs one timestep, got {name_of(cell)}, which runs "
            "whole sequences and needs no layer around it."
        )
    if not callable(getattr(cell, "call", None)) and not callable(cell):
        raise ValueError(f"{owner}: Argument `cell` should have a `call` method, got {cell!r}.")
    if getattr(cell, "state_size", None) is None:
        raise ValueError(
            f"{owner}: state_size must be specified as property on the RNN cell (an int, a shape, "
            f"or a nest of them; () for a cell without states), got {cell!r}, which has no "
            "`state_size` attribute or None."
        )
