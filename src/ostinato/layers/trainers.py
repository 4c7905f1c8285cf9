"""What a trainer holds while it trains: on JAX Keras takes the variables' values away from them.

From a batch to the end of the epoch they live in the trainer alone: a variable can't be read then,
and what is assigned to it is overwritten by the end. `jax_state_sync` of the model hands them back,
and has the trainer read them anew. A callback's `self.model` calls it; here it's called for a layer
that a callback holds by itself, and that can't know its model.
"""

import gc
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

import keras

# The models that have held a layer's variables: found again without a search, 0.1 s the first time.
_known: WeakSet[Any] = WeakSet()


def hand_back(owner: str, variables: list[keras.Variable]) -> None:
    """Makes a trainer that holds variables' values hand them back.

    Args:
        owner: The layer whose variables they are, for the error.
        variables: The variables.

    Raises:
        RuntimeError: if their values are held by a trainer that can't be found.
    """
    if not any(map(_is_away, variables)):
        return
    for find_models in (_known.copy, _all_models):
        for model in find_models():
            if _has(model, variables[0]):
                model.jax_state_sync()
                _known.add(model)
        if not any(map(_is_away, variables)):
            return
    raise RuntimeError(
        f"{owner}: its kept states can't be read or set now, as a trainer holds them until the end "
        "of the epoch. Call `jax_state_sync()` of the model that is being trained first."
    )


def _is_away(variable: keras.Variable) -> bool:
    try:
        variable.value  # noqa: B018 - what it raises is the answer
    except TypeError:  # Keras would make a value by the initializer, which is None by then
        return True
    return False


def _all_models() -> Iterable[Any]:
    return [found for found in gc.get_objects() if issubclass(type(found), keras.Model)]


def _has(model: Any, variable: keras.Variable) -> bool:
    is_whole = getattr(model, "built", False) and hasattr(model, "jax_state_sync")
    return is_whole and any(found is variable for found in model.non_trainable_variables)
