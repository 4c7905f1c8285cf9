"""The states that a stateful layer keeps from one batch to the next."""

from typing import Any

import keras
from keras import ops, tree

from ostinato.cells.checks import read_states
from ostinato.structure import Structure
from ostinato.tensors import float_or_own


class KeptStates:
    """Keras variables in the containers of a layer's states; absent until a batch size is known.

    Held by the layer as a plain object: Keras tracks every variable or container of them that is
    set as an attribute, and these are not weights. The layer shows them to trainers instead.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self.variables: Structure | None = None
        self.batch_size: int | None = None

    def create(self, initial: Any, sizes: Structure, batch_size: int, dtype: str) -> None:
        """Creates the variables.

        Args:
            initial: Function of a batch size that gives the states to start from.
            sizes: A structure of `Shape`s.
            batch_size: B.
            dtype: Their dtype, where they are floats.
        """
        own = tree.flatten(initial(batch_size))

        def variable(index: int, size: Any) -> keras.Variable:
            return keras.Variable(
                lambda shape, dtype: ops.cast(tree.flatten(initial(batch_size))[index], dtype),
                shape=(batch_size, *size),
                dtype=float_or_own(own[index], dtype),
                trainable=False,
                autocast=False,
                name="rnn_state",
            )

        flat = [variable(*pair) for pair in enumerate(tree.flatten(sizes))]
        self.variables = tree.pack_sequence_as(sizes, flat)
        self.batch_size = batch_size

    def flat(self) -> list[keras.Variable]:
        """The variables as a flat list, empty before they exist."""
        return [] if self.variables is None else tree.flatten(self.variables)

    def values(self) -> Structure:
        """Their values, copied: PyTorch assigns in place, to what autograd still needs."""
        return tree.map_structure(lambda variable: ops.copy(variable.value), self.variables)

    def assign(self, states: Structure) -> None:
        """Keeps new states, in the order of the structure's leaves."""
        for variable, state in zip(self.flat(), tree.flatten(states), strict=True):
            variable.assign(state)

    def reset(self, sizes: Structure, given: Structure) -> None:
        """Sets the variables to given states, any array-likes in any containers."""
        states = read_states(self._owner, "states", given, sizes, self.batch_size)
        self.assign(tree.map_structure(ops.convert_to_tensor, states))
