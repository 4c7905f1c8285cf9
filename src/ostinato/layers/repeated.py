"""Tells calls like one that has passed its checks: these take 20 us, a look at the shapes 2."""

from collections.abc import Hashable
from typing import Any

from ostinato.structure import Structure, is_tensor_like
from ostinato.tensors import dtype_name

_MOST = 256  # kinds of call that a layer remembers


class CheckedCalls:
    """The kinds of call of one layer that passed its checks, with nothing changed by them."""

    def __init__(self) -> None:
        self._known: set[Hashable] = set()

    def __contains__(self, kind: Hashable | None) -> bool:
        return kind is not None and kind in self._known

    def add(self, kind: Hashable | None) -> None:
        """Remembers a kind; None isn't one."""
        if kind is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known.add(kind)


def kind_of_call(
    sequences: Structure, initial_state: Structure, mask: Any, of_layer: Hashable
) -> Hashable | None:
    """All that a layer's checks look at; None where they have to be made each time.

    That's so for nests, for sizes that aren't known, and for what isn't a tensor yet.

    Args:
        sequences: The inputs.
        initial_state: The states given, or None.
        mask: The mask given, or None.
        of_layer: What of the layer itself the checks look at.
    """
    if not is_tensor_like(sequences):
        return None
    states = initial_state if isinstance(initial_state, (list, tuple)) else ()
    if initial_state is not None and not states:
        return None
    tensors = (sequences, *states) if mask is None else (sequences, *states, mask)
    if not all(map(is_tensor_like, tensors)):
        return None
    if mask is not None and dtype_name(mask.dtype) != "bool":
        return None
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    if not all(type(size) is int for shape in shapes for size in shape):  # None, or a symbol
        return None
    return (shapes, type(initial_state), type(mask), of_layer)
