"""Masked timesteps moved to the end of their rows, and the outputs back to where they belong.

A loop that knows no mask can then run over a row's valid timesteps in their order. Everything is
computed from the mask where it lies: nothing waits for it to reach the host.
"""

from keras import ops

from ostinato.tensors import Tensor, size_of


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
        self._ones = ones
        self.total = self._counts[:, -1:]
        self._positions = ops.cumsum(ops.ones_like(ones), axis=1)  # 1, 2, ..., T in each row
        self.tail = self._positions > self.total

    def moved(self, x: Tensor) -> Tensor:
        """X (B, T, D) with each row's valid timesteps first, in their order, and zeros after."""
        # Keys that are all different, as not every framework's sort keeps the order of equal ones.
        keys = ops.where(self.mask, self._positions, self._positions + size_of(x, 1))
        x = _taken(x, ops.argsort(keys, axis=1))
        return ops.where(ops.expand_dims(self.tail, -1), ops.zeros_like(x), x)

    def put_back(self, ys: Tensor, zero: bool, backwards: bool = False) -> Tensor:
        """Outputs (B, T, U) of the moved timesteps, at the timesteps that they're of.

        Args:
            ys: The outputs, by the place that their timestep was moved to.
            zero: Whether a masked timestep's output is zero; else it's that of the valid timestep
                before it in the order of the run, and zero where there's none.
            backwards: Whether the run goes from the last timestep to the first.
        """
        if zero or not backwards:
            places = self._counts - 1
            shown = self.mask if zero else places >= 0
        else:
            places = self._counts - self._ones
            shown = places < self.total
        ys = _taken(ys, ops.minimum(ops.maximum(places, 0), size_of(ys, 1) - 1))
        return ops.where(ops.expand_dims(shown, -1), ys, ops.zeros_like(ys))

    def last(self, ys: Tensor, otherwise: Tensor) -> Tensor:
        """The output (B, U) of each row's last valid timestep; `otherwise` where it has none."""
        ys = _taken(ys, ops.maximum(self.total - 1, 0))
        return ops.where(self.total > 0, ys[:, 0], otherwise)


def _taken(tensor: Tensor, places: Tensor) -> Tensor:
    """Of a tensor (B, T, N) the timesteps `places` (B, S) of each row."""
    return ops.take_along_axis(tensor, ops.expand_dims(places, -1), axis=1)
