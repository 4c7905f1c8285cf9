"""What the benchmark's cells share: their weights become attributes, their sizes come first."""

from typing import Any

import keras


class OwnCell(keras.layers.Layer):
    """A cell of `units` units, and of as many states of that size as `states` says."""

    states = 1

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.state_size: Any = units if self.states == 1 else [units] * self.states
        self.output_size: Any = units

    def build(self, input_shape: Any) -> None:
        self.make(input_shape[-1])
        self.built = True

    def make(self, width: int) -> None:
        """Makes the weights; a timestep has `width` features."""
        raise NotImplementedError

    def new(self, name: str, *shape: int, init: Any = "glorot_uniform", **kwargs: Any) -> None:
        """Makes a weight of that name and shape, an attribute of the cell."""
        setattr(self, name, self.add_weight(shape=shape, initializer=init, name=name, **kwargs))

    def gates(self, width: int, count: int, bias: bool = True) -> None:
        """A kernel, a recurrent kernel and a bias for `count` gates, side by side."""
        columns = count * self.units
        self.new("kernel", width, columns)
        self.new("recurrent", self.units, columns, init="orthogonal")
        if bias:
            self.new("bias", columns, init="zeros")
