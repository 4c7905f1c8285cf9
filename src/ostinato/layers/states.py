"""The states that a stateful layer keeps from one batch to the next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops, tree

from ostinato.cells.building import initial_states
from ostinato.cells.checks import name_of, need_batch_size, read_states
from ostinato.cells.contract import state_sizes
from ostinato.doors import door
from ostinato.layers.trainers import hand_back
from ostinato.structure import Structure
from ostinato.tensors import float_or_own

_are_saved: ContextVar[bool] = ContextVar("ostinato_states_are_saved", default=False)
_SAVED_AS = "rnn_state_"  # in files, followed by the number of the state


@contextmanager
def saving_states() -> Iterator[None]:
    """Inside the `with` block, what's saved holds the kept states of stateful layers too.

    That is `model.save(path)` to a `.keras` file, and `save_weights` to a `.weights.h5` file.
    Without it the files are Keras's: weights alone. Such a file is loaded as any other; stateful
    layers then go on from the states in it, and layers that aren't stateful start anew.
    """
    token = _are_saved.set(True)
    try:
        yield
    finally:
        _are_saved.reset(token)


class KeptStates:
    """Keras variables in the containers of a layer's states; absent until a batch size is known.

    Held by the layer as a plain object: Keras tracks every variable or container of them that is
    set as an attribute, and these are not weights. The layer shows them to trainers instead.
    """

    def __init__(self) -> None:
        self.variables: Structure | None = None
        self.batch_size: int | None = None

    def create(self, initial: Callable[[], Structure], batch_size: int, dtype: str) -> None:
        """Creates the variables.

        Args:
            initial: Gives the states to start from, each (B, ...), in their containers.
            batch_size: B.
            dtype: The variables' dtype, where the states are floats.
        """
        states = initial()
        # Where a model is built by tracing it, these values are of the trace, and Keras initializes
        # variables after it: then by states that are made anew.
        is_traced = _is_traced()

        def variable(index: int, state: Any) -> keras.Variable:
            def value(shape: Any, dtype: str) -> Any:
                return ops.cast(tree.flatten(initial())[index] if is_traced else state, dtype)

            return keras.Variable(
                value,
                shape=tuple(state.shape),
                dtype=float_or_own(state, dtype),
                trainable=False,
                autocast=False,
                name="rnn_state",
            )

        flat = [variable(*pair) for pair in enumerate(tree.flatten(states))]
        self.variables = tree.pack_sequence_as(states, flat)
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


def _is_traced() -> bool:
    """Whether Keras traces, so that variables get their values later."""
    with keras.StatelessScope(initialize_variables=False) as scope:
        return scope.original_scope is not None


class KeepsStates(keras.layers.Layer):
    """What a layer around a cell does with the states that it keeps, where it's stateful."""

    cell: Any
    stateful: bool
    _rnn_kept_states: KeptStates

    @property
    def states(self) -> Structure | None:
        """The kept states of a stateful layer, as Keras variables; None before it's built.

        In a callback ask for them anew each time: JAX's trainer takes their values away, and they
        are had back from it here.
        """
        hand_back(name_of(self), self._rnn_kept_states.flat())
        kept = self._rnn_kept_states.variables
        return vars(self).get("_rnn_own_states") if kept is None else kept

    @states.setter
    def states(self, states: Any) -> None:
        """Sets the kept states; of a layer that keeps none, an attribute of a subclass's own."""
        if not self.stateful:
            self._rnn_own_states = states
        elif states is not None:
            self.reset_state(states)

    @property
    def variables(self) -> list[keras.Variable]:
        """The layer's variables, kept states among them, which aren't among its `weights`."""
        # JAX's trainer carries the variables, so a kept state that weren't one would stay zero.
        return [*super().variables, *self._rnn_kept_states.flat()]

    def get_initial_state(self, batch_size: Any) -> Structure:
        """The states that a sequence starts from, by default.

        Args:
            batch_size: B.

        Returns:
            The cell's `get_initial_state`, or zeros, each (B, ...), in the containers of the
            cell's `state_size` (a single state in a list).
        """
        need_batch_size(self, batch_size)
        return initial_states(self.cell, batch_size, self.compute_dtype)

    def reset_state(self, states: Structure = None) -> None:
        """Sets the kept states.

        Args:
            states: Arrays or tensors, each (B, ...), in any containers; by default what
                `get_initial_state` gives. Before the layer is built their B becomes its batch
                size. (Keras 2 has the argument, Keras 3 has not.)

        Raises:
            ValueError: if states are given and the layer isn't stateful, or they don't fit.
            RuntimeError: if a trainer that can't be found holds the states; see `states`.
        """
        hand_back(name_of(self), self._rnn_kept_states.flat())
        if states is None:
            if self._rnn_kept_states.variables is not None:
                self._rnn_kept_states.assign(
                    self.get_initial_state(self._rnn_kept_states.batch_size)
                )
            return
        if not self.stateful:
            raise ValueError(
                f"{name_of(self)}: only a stateful layer keeps states that can be set; build "
                "it with stateful=True."
            )
        expected = state_sizes(self.cell)
        states = read_states(
            name_of(self), "states", states, expected, self._rnn_kept_states.batch_size
        )
        if self._rnn_kept_states.variables is None:
            rows = int(tree.flatten(states)[0].shape[0])
            read_states(name_of(self), "states", states, expected, rows)  # all have as many
            self._rnn_create_kept_states(rows)
        self._rnn_kept_states.assign(tree.map_structure(ops.convert_to_tensor, states))

    def reset_states(self, states: Structure = None) -> None:
        """The same as `reset_state`, by Keras 2's name."""
        self.reset_state(states)

    def _rnn_create_kept_states(self, batch_size: int) -> None:
        self._rnn_kept_states.create(
            lambda: self.get_initial_state(batch_size), batch_size, self.variable_dtype
        )
        # An attribute, since that is where TensorFlow's checkpoints look.
        self._rnn_states_in_checkpoints = door.for_checkpoints(self._rnn_kept_states.flat())

    def save_own_variables(self, store: Any) -> None:
        """Writes the layer's own variables, and inside `saving_states` its kept states."""
        super().save_own_variables(store)
        if _are_saved.get() and self.states is not None:
            for index, variable in enumerate(self._rnn_kept_states.flat()):
                store[f"{_SAVED_AS}{index}"] = variable

    def load_own_variables(self, store: Any) -> None:
        """Reads the layer's own variables, and kept states where there are any in the file."""
        states: list[Any] = []
        own = {}
        for name in store.keys():  # noqa: SIM118 - what Keras gives is no dict
            if name.startswith(_SAVED_AS):
                states.append(ops.convert_to_numpy(store[f"{_SAVED_AS}{len(states)}"]))
            else:
                own[name] = store[name]
        super().load_own_variables(own)
        if states and self.stateful:
            self.reset_state(tree.pack_sequence_as(state_sizes(self.cell), states))
