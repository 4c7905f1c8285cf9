"""Masked timesteps moved to the end of their rows, and the outputs back to where they belong.

A loop that knows no mask can then run over a row's valid timesteps in their order. Everything is
computed from the mask where it lies: nothing waits for it to reach the host.
"""

from keras import ops

from ostinato.doors import door
from ostinato.tensors import Tensor, dtype_name, size_of


class Compaction:
    """The valid timesteps of a mask (B, T), and where each of them goes.

    Attributes:
        mask: (B, T) booleans.
        total: (B, 1), how many of a row's timesteps are valid.
        tail: (B, T) booleans: which timesteps, once moved, are none of the row's.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        ones = ops.cast(mask, "int32")
        self._counts = ops.cumsum(ones, axis=1)  # (B, T): valid ones up to and with each
        self._before = self._counts - ones
        self.total = self._counts[:, -1:]
        self._positions = ops.cumsum(ops.ones_like(ones), axis=1)  # 1, 2, ..., T in each row
        self.tail = self._positions > self.total

    def moved(self, x: Tensor) -> Tensor:
        """X (B, T, D) with each row's valid timesteps first, in their order, and zeros after."""
        # Keys that are all different, as not every framework's sort keeps the order of equal ones.
        keys = _where(self.mask, self._positions, self._positions + size_of(x, 1))
        x = _taken(x, _argsort(keys, axis=1))
        return _where(ops.expand_dims(self.tail, -1), _zero(x), x)

    def put_back(self, ys: Tensor, zero: bool, backwards: bool = False) -> Tensor:
        """Outputs (B, T, U) of the moved timesteps, at the timesteps that they're of.

        Args:
            ys: The outputs, by the place that their timestep was moved to.
            zero: Whether a masked timestep's output is zero; else it's that of the valid timestep
                before it in the order of the run, and zero where there's none.
            backwards: Whether the run goes from the last timestep to the first.
        """
        if zero or not backwards:
            places = _one_less(self._counts)
            shown = self.mask if zero else self._counts > 0
        else:
            places = self._before  # T only where nothing is masked, and then nowhere
            shown = places < self.total
        return shown_else_zero(ops.expand_dims(shown, -1), _taken(ys, places))

    def last(self, ys: Tensor, otherwise: Tensor) -> Tensor:
        """The output (B, U) of each row's last valid timestep; `otherwise` where it has none."""
        return _where(self.total > 0, _taken(ys, _one_less(self.total))[:, 0], otherwise)


# Keras's own make tensors of numbers on PyTorch, and bring them to the GPU: that waits for it.
_where, _argsort = door.lean(ops.where), door.lean(ops.argsort)
_take_along_axis = door.lean(ops.take_along_axis)


def shown_else_zero(shown: Tensor, tensor: Tensor) -> Tensor:
    """A tensor where `shown`, and zeros elsewhere."""
    return _where(shown, tensor, _zero(tensor))


def _zero(like: Tensor) -> Tensor:
    return door.zeros((), dtype_name(like.dtype), like)


def _one_less(counts: Tensor) -> Tensor:
    """Counts as places of what was counted last; 0 where that's none."""
    return counts - ops.cast(counts > 0, "int32")


def _taken(tensor: Tensor, places: Tensor) -> Tensor:
    """Of a tensor (B, T, N) the timesteps `places` (B, S) of each row."""
    return _take_along_axis(tensor, ops.expand_dims(places, -1), axis=1)
