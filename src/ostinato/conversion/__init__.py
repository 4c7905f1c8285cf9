"""Existing Keras models with Ostinato's layers, and back: `accelerate` and `restore`."""

import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from ostinato.conversion.copying import Copier
from ostinato.conversion.training import carry_compilation, carry_held_optimizer
from ostinato.models.directions import ACCELERATE, RESTORE, Direction
from ostinato.models.layers_within import layers_within

__all__ = ["LeftAlone", "accelerate", "left_alone", "restore"]


@dataclass(frozen=True)
class LeftAlone:
    """A recurrent layer that isn't converted.

    Attributes:
        path: The names of the layers that it is in, and its own: "encoder/lstm".
        layer: The layer.
        reason: Why not.
    """

    path: str
    layer: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({type(self.layer).__name__}): {self.reason}"


def accelerate(model: Any) -> Any:
    """Copies a Keras model, with Ostinato's layers in place of Keras's recurrent ones.

    The copy has the model's names, weights, states, dropout seeds and `trainable` flags, and where
    the model is compiled its losses and metrics and its optimizer with all its state: it goes on
    training where the model is. The model itself stays as it is, and shares no weight with it.

    Args:
        model: Any Keras model, compiled or not, built or not, or a single layer.

    Returns:
        A model (or layer) of the same class. Recurrent layers that can't be converted are copied
        as they are; a warning lists them with the reasons, and so does `left_alone`.

    Raises:
        ValueError: if `model` isn't a Keras model or layer.
    """
    return _convert(model, ACCELERATE)


def restore(model: Any) -> Any:
    """Copies a model, with Keras's own layers in place of Ostinato's; `accelerate` the other way.

    Args:
        model: Any Keras model or layer with Ostinato's layers in it.

    Returns:
        A model (or layer) of the same class, as from `accelerate`. What Keras 3 has no layer for,
        such as nested states, is left alone, with a warning.

    Raises:
        ValueError: if `model` isn't a Keras model or layer.
    """
    return _convert(model, RESTORE)


def left_alone(model: Any, *, by: Any = accelerate) -> list[LeftAlone]:
    """Lists the recurrent layers of a model that a conversion leaves alone, and why.

    Args:
        model: A Keras model or layer, before or after the conversion.
        by: Which conversion, `ostinato.accelerate` or `ostinato.restore`.

    Returns:
        An entry for each such layer, in the model's order; none where all are converted.

    Raises:
        ValueError: if `model` isn't a Keras model or layer, or `by` is something else.
    """
    directions = {accelerate: ACCELERATE, restore: RESTORE}
    if not callable(by) or by not in directions:
        raise ValueError(f"left_alone: expected `by` to be accelerate or restore, got {by!r}.")
    return _left_by(model, directions[by])


def _left_by(model: Any, direction: Direction) -> list[LeftAlone]:
    judged = [
        LeftAlone(path, layer, reason)
        for path, layer in layers_within(model, direction)
        if (reason := direction.why_left(layer)) is not None
    ]
    return list({id(left.layer): left for left in judged}.values())


def copied(model: Any, direction: Direction, copier: Copier) -> Any:
    """A copy with all its values; a warning says to the user, two calls away, what's left alone."""
    left = _left_by(model, direction)
    if left:
        lines = "".join(f"\n  {one}" for one in left)
        warnings.warn(f"{direction.operation}: left alone:{lines}", stacklevel=4)
    with _no_random_numbers_drawn():
        made = copier.copy(model)
        copier.settle()
    return made


def _convert(model: Any, direction: Direction) -> Any:
    copier = Copier(direction)
    converted = copied(model, direction, copier)
    _warn_of_masks(model, copier, direction)
    for old, new in copier.models():
        carry_compilation(direction.operation, old, new, copier.variables)
    for old, new in copier.optimizers():
        carry_held_optimizer(old, new, copier.variables)
    return converted


def _warn_of_masks(model: Any, copier: Copier, direction: Direction) -> None:
    """Says where the copy may compute something else: the two places in which Keras is wrong."""
    inside = [layer for _, layer in layers_within(model, direction)]
    warn_of_turned_masks(direction.operation, "Keras 3", inside, stacklevel=5)
    if _make_masks(inside) and copier.given_states:
        names = ", ".join(repr(layer.name) for layer in copier.given_states.values())
        warnings.warn(
            f"{direction.operation}: called with initial states: {names}. Where the inputs of such "
            "a layer carry a mask, Keras 3 drops it and Ostinato applies it, so the results for "
            "padded rows differ.",
            stacklevel=4,
        )


def _make_masks(layers: Iterable[Any]) -> bool:
    return any(
        getattr(layer, "mask_zero", False) or isinstance(layer, keras.layers.Masking)
        for layer in layers
    )


def warn_of_turned_masks(
    operation: str, before: str, layers: Sequence[Any], stacklevel: int
) -> None:
    """Warns of layers that run backwards, where their masks aren't what they were.

    Args:
        operation: What users call.
        before: Whose layers they were.
        layers: All the layers of a model; recurrent ones as one each.
        stacklevel: Of the warning: how many calls away the user is.
    """
    backwards = [
        repr(layer.name)
        for layer in layers
        if getattr(layer, "go_backwards", False) is True
        and getattr(layer, "return_sequences", False) is True
    ]
    if backwards and _make_masks(layers):
        warnings.warn(
            f"{operation}: run backwards, with return_sequences: {', '.join(backwards)}. {before} "
            "passes their inputs' mask on as it came, and Ostinato turns it, as the outputs are: "
            "the results for padded rows differ where a layer after them reads it.",
            stacklevel=stacklevel,
        )


@contextmanager
def _no_random_numbers_drawn() -> Iterator[None]:
    """Leaves Python's random state, from which Keras draws the seeds of new layers, as it is."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
