"""Where a cell is called from: what its layers are to know of the call around them."""

from collections.abc import Callable
from typing import Any

import keras


class Timestep(keras.layers.Layer):
    """What the cell is called from, as from an RNN layer, so that layers in it know `training`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(name="timestep", autocast=False)
        self.built = True
        self.__dict__["_function"] = function  # past Keras, which would track a cell

    def call(self, inputs: Any, states: Any, training: Any = None, keywords: Any = None) -> Any:
        """The timestep."""
        return self._function(inputs, states, **keywords)
