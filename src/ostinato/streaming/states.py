"""What a stream keeps, as users see it: a dict with a list of arrays for each layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.streaming import checks
from ostinato.streaming.program import State

StateDict = dict[str, list[np.ndarray]]


def state_dict(
    states: Sequence[State], arrays: Sequence[np.ndarray], lead: tuple[int, ...]
) -> StateDict:
    """A stream's arrays, (N, *shape) each, by layer; without the first axis where `lead` is ()."""
    found: StateDict = {}
    for state, array in zip(states, arrays, strict=True):
        found.setdefault(state.layer, []).append(array if lead else array.reshape(state.shape))
    return found


def set_states(
    owner: str,
    states: Sequence[State],
    arrays: list[np.ndarray],
    values: Any,
    lead: tuple[int, ...],
) -> None:
    """Puts those arrays that a user gives for some layers in the places of a stream's.

    Raises:
        ValueError: if there's no such layer, or an array's shape isn't that of its state, or its
            numbers are of another kind.
    """
    places: dict[str, list[int]] = {}
    for index, state in enumerate(states):
        places.setdefault(state.layer, []).append(index)
    if not isinstance(values, dict) or not set(values) <= set(places):
        got = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"{owner}: state: expected a dict by layer of {sorted(places)}, got {got}."
        )
    for layer, parts in values.items():
        _set_layer(f"{owner}: state of {layer}", states, arrays, places[layer], parts, lead)


def _set_layer(
    owner: str,
    states: Sequence[State],
    arrays: list[np.ndarray],
    places: list[int],
    parts: Any,
    lead: tuple[int, ...],
) -> None:
    own = [index for index in places if not states[index].is_extra]
    parts = parts if isinstance(parts, (list, tuple)) else [parts]
    if len(parts) not in (len(places), len(own)):
        raise ValueError(f"{owner}: expected {len(own)} arrays, got {len(parts)}.")
    if len(parts) < len(places):
        for index in set(places) - set(own):
            arrays[index] = np.zeros_like(arrays[index])
        places = own
    for index, part in zip(places, parts, strict=True):
        expected = (*lead, *states[index].shape)
        value = checks.state(owner, part, expected, states[index].dtype)
        arrays[index] = value if lead else value[None]
