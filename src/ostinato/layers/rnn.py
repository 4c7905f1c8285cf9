"""The RNN layer: a loop over time around any cell."""

import inspect
from typing import Any, ClassVar

import keras
from keras import tree

from ostinato.cells.building import build_cell, output_shapes
from ostinato.cells.builtin import BuiltinCell, is_called_as_ours, is_ours
from ostinato.cells.checks import check_cell, name_of, read_states
from ostinato.cells.contract import call_method, state_sizes, takes_states
from ostinato.doors import door
from ostinato.engines.interface import Answer, CallContext, Loop, Resets, Task
from ostinato.layers.arguments import Shown, own_arguments, set_arguments, start_layer
from ostinato.layers.checks import (
    check_batch,
    check_entry,
    check_features,
    check_given,
    check_keywords,
    check_sequences,
    check_unroll,
    read_constants,
)
from ostinato.layers.direct_call import call_directly, is_direct
from ostinato.layers.dispatch import cells_of, keeps_from_xla, run
from ostinato.layers.exporting import check_stateful_export
from ostinato.layers.masks import for_results, read_mask, shared_mask, turned
from ostinato.layers.quantized import refuse_training
from ostinato.layers.repeated import CheckedCalls, kind_of_call
from ostinato.layers.resets import begins_with_zeros, check_resets, of_run, to_keep
from ostinato.layers.serialization import loop_config, of_ours
from ostinato.layers.sizes import checked_while_running
from ostinato.layers.stacked import StackedRNNCells
from ostinato.layers.states import KeepsStates, KeptStates
from ostinato.nests import is_namedtuple, leaf_paths
from ostinato.structure import (
    Shape,
    Structure,
    first_known,
    flat_shapes,
    is_count,
    is_tensor_like,
    leaves,
    map_shapes,
    pack_like,
    sizes,
    spread,
    with_batch,
    without_time,
)
from ostinato.tensors import cast_floats, dtype_name, shape_of, size_of, to_dtype

Tensor = Any


@keras.saving.register_keras_serializable(package="ostinato")
class RNN(KeepsStates):
    """Runs a cell over the timesteps of a sequence.

    Inputs are a tensor (B, T, ...) or a nest of such tensors with the same B and T; a timestep
    gives the cell the same nest of tensors (B, ...). The output is the cell's of the last
    timestep, (B, ...), or of every one, (B, T, ...), with `return_sequences`; with `return_state`
    the final states follow it. Nested outputs come in the containers of the cell's `output_size`,
    states in those of its `state_size`.

    Args:
        cell: A cell: an object with `call(inputs, states) -> (output, new_states)` and a
            `state_size`, or a list of cells, stacked.
        return_sequences: Whether to return the output of every timestep.
        return_state: Whether to return the final states after the output.
        go_backwards: Whether to run from the last timestep to the first.
        stateful: Whether a batch starts from the states the last one ended with.
        unroll: Whether to unroll the loop over time; it changes no result.
        zero_output_for_mask: Whether the output of a masked timestep is zero, not the previous
            output.
        truncate: Timesteps between which gradients stop: none of a state crosses a multiple of
            them, as if the sequence came in pieces to a stateful layer; results stay as they are.
            Then it keeps no more than the states between pieces, and computes the rest again.
        **kwargs: Arguments of `keras.layers.Layer`: name, dtype, trainable...

    Raises:
        ValueError: for inputs, states, a mask or a cell that don't fit; it names the layer.
    """

    _rnn_input_spec: ClassVar[keras.layers.InputSpec | None] = None  # any nest

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        *,
        truncate: int | None = None,
        **kwargs: Any,
    ) -> None:
        arguments = own_arguments(locals())
        if isinstance(cell, (list, tuple)):
            cell = StackedRNNCells(cell)
        check_cell(type(self).__name__, cell)
        if not takes_states(cell):
            raise ValueError(
                f"{type(self).__name__}: expected a cell whose `call` takes (inputs, states), got "
                f"{name_of(cell)}, whose `call` takes {inspect.signature(call_method(cell))}."
            )
        start_layer(self, kwargs)
        self._rnn_kept_states = KeptStates()
        self.cell = cell
        set_arguments(self, arguments)
        self.supports_masking = True
        self.input_spec = self._rnn_input_spec
        self._rnn_checked_calls = CheckedCalls()
        self._rnn_state_dtypes: list[str] | None = None  # of what get_initial_state gives
        # The shapes of the inputs that it was built for, of nested ones in their order.
        self._rnn_built_shapes: list[tuple[int | None, ...]] | None = None
        self._rnn_built_nest: Structure = None
        state_sizes(cell)  # refuses a state_size that can't be read
        if keeps_from_xla(cell):
            self.supports_jit = False

    @Shown
    def state_size(self) -> list[Any] | Any:
        """The cell's state_size; a list for an int or a tuple, as in Keras."""
        size = tree.map_structure(
            lambda size: size[0] if len(size) == 1 else size, state_sizes(self.cell)
        )
        return list(size) if isinstance(size, tuple) and not is_namedtuple(size) else size

    @Shown
    def single_state(self) -> bool:
        """Whether the cell's state_size is one size, in no container."""
        size = self.cell.state_size
        return is_count(size) or isinstance(sizes(size, "state_size"), Shape)

    # --- building ---------------------------------------------------------------------------

    def build(
        self,
        sequences_shape: Structure,
        initial_state_shape: Structure = None,
    ) -> None:
        """Builds the cell for one timestep of inputs, and the kept states where stateful."""
        shapes, paths = flat_shapes(sequences_shape)
        check_sequences(name_of(self), shapes, paths)
        build_cell(self.cell, without_time(sequences_shape), self.compute_dtype)
        self._rnn_built_shapes, self._rnn_built_nest = shapes, sequences_shape
        self._rnn_checked_calls = CheckedCalls()
        if self.stateful:
            batch_size = first_known(shape[0] for shape in shapes)
            if batch_size is None:
                raise ValueError(
                    f"{name_of(self)}: When using `stateful=True` in a RNN, the batch size must be "
                    f"static. Found dynamic batch size: sequence.shape={sequences_shape}. Give it "
                    "in `Input(batch_shape=(batch, timesteps, ...))`."
                )
            if self._rnn_kept_states.variables is None:
                self._rnn_create_kept_states(batch_size)
            elif self.built:
                self.reset_state()

    # --- calling ----------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer; one that takes a single tensor refuses a container of them."""
        if len(args) == 1 and is_direct(self, args[0], kwargs):
            return call_directly(self, args[0], kwargs)
        if args:
            check_given(self, args[0])
        if kwargs:
            check_keywords(self, kwargs)
        return super().__call__(*args, **kwargs)

    def call(
        self,
        sequences: Structure,
        initial_state: Structure = None,
        mask: Tensor | None = None,
        training: bool = False,
        constants: Structure = None,
        sequences_mask: Structure = None,
        resets: Tensor | None = None,
        fresh_state: Structure = None,
    ) -> Any:
        """Runs the cell over the sequence, and returns what the class's docstring says.

        Args:
            sequences: The inputs.
            initial_state: The states to start from, each (B, ...), in any containers; by default
                the cell's `get_initial_state`, or zeros, or the kept states of a stateful layer.
            mask: Booleans (B, T). A timestep where it's False keeps every state of its row and
                repeats the row's previous output (zeros before the first valid timestep, or always
                with `zero_output_for_mask`). A mask of more axes counts where any of the rest is
                True. By default the mask that came with the inputs, one for all where they nest.
            training: Whether to apply dropout; given to cells that take it.
            constants: Tensors that the cell gets at every timestep as `constants`, always a list:
                one tensor becomes a list of one, as in Keras 2.
            sequences_mask: Filled in by Keras: the mask that came with the inputs, where they
                aren't the one tensor argument; else it's `mask`.
            resets: Booleans (B, T): where something begins that has nothing to do with what was
                before it, an episode say. The layer gives for the pieces between them what it
                gives for each alone: at its start a row's states are fresh, whether that timestep
                is masked or not, and no gradient crosses it. With `go_backwards` each piece is run
                from its end.
            fresh_state: What states are fresh, each (B, ...); by default what the cell's
                `get_initial_state` gives, or zeros.
        """
        mask = sequences_mask if mask is None else mask
        task = self._rnn_task(
            sequences, initial_state, mask, training, constants, resets, fresh_state
        )
        (answer,) = run(task)
        return self._rnn_results(answer, task.resets)

    def quantized_call(self, *args: Any, **kwargs: Any) -> Any:
        """What Keras calls in place of `call` where weights are in int8: the same."""
        return self.call(*args, **kwargs)

    def _rnn_task(
        self,
        sequences: Structure,
        initial_state: Structure,
        mask: Any,
        training: bool,
        constants: Structure,
        resets: Any = None,
        fresh_state: Structure = None,
        flip_outputs: bool = False,
    ) -> Task:
        """What a call has to run, checked; the arguments are those of `call`."""
        owner, cell = name_of(self), self.cell  # once: PyTorch takes 0.8 us to find a layer's layer
        if training:
            refuse_training(owner, *cells_of(cell))
        if self.stateful:
            check_stateful_export(owner, leaves(sequences)[0].shape[0])
        initial_state, mask = self._rnn_checked(sequences, initial_state, mask)
        first = leaves(sequences)[0]
        if isinstance(cell, BuiltinCell) and "complex" in dtype_name(first.dtype):
            raise ValueError(
                f"{owner}: expected inputs of real numbers, got {dtype_name(first.dtype)}: give "
                "their real and imaginary parts, or absolute values, as features."
            )
        constants = read_constants(owner, constants, first.shape[0])
        batch_size = size_of(first, 0)
        loop = Loop(
            self.return_sequences,
            self.go_backwards,
            self.zero_output_for_mask,
            self.unroll,
            flip_outputs,
            self._rnn_truncate or 0,
        )
        context = CallContext(training, constants, owner, self.compute_dtype)
        from_zeros = initial_state is None and self._rnn_starts_from_zeros(cell)
        states = (
            _zero_states(cell, batch_size, first)
            if from_zeros
            else self._rnn_starting_states(initial_state, batch_size)
        )
        kept = self.stateful or self.return_state
        task = Task(cell, sequences, states, mask, loop, context, from_zeros, kept)
        if resets is not None or fresh_state is not None:
            begins = self._rnn_resets(sequences, resets, fresh_state, batch_size)
            task = task._replace(resets=begins)
        given_states = self.stateful or initial_state is not None
        kept_rows = self._rnn_kept_states.batch_size
        return checked_while_running(task, kept_rows, given_states, fresh_state is not None)

    def _rnn_resets(
        self, sequences: Structure, given: Any, fresh_state: Structure, batch_size: Any
    ) -> Resets:
        """Where rows begin anew in a call, and with what; `batch_size` may be a tensor."""
        fresh = self._rnn_check_resets(sequences, given, fresh_state)
        resets = of_run(given, self.go_backwards, self.stateful)
        if fresh is not None:
            return resets._replace(fresh=self._rnn_in_state_dtypes(fresh, batch_size))
        if begins_with_zeros(self.cell) and is_ours(self.get_initial_state):
            return resets
        return resets._replace(fresh=self.get_initial_state(batch_size))

    def _rnn_check_resets(
        self, sequences: Structure, given: Any, fresh_state: Structure
    ) -> Structure:
        """The fresh states in the containers of the layer's own; all is checked."""
        shapes = [shape_of(x) for x in leaves(sequences)]
        rows, timesteps = (first_known(shape[axis] for shape in shapes) for axis in (0, 1))
        check_resets(name_of(self), given, fresh_state, rows, timesteps)
        if fresh_state is None:
            return None
        expected = state_sizes(self.cell)
        return read_states(name_of(self), "fresh_state", fresh_state, expected, rows)

    def _rnn_starts_from_zeros(self, cell: Any) -> bool:
        """Whether a call that is given no states starts from zeros, as with built-in cells."""
        return (
            not self.stateful
            and isinstance(cell, BuiltinCell)
            and is_ours(cell.get_initial_state)
            and is_ours(self.get_initial_state)
        )

    def _rnn_checked(
        self, sequences: Structure, initial_state: Structure, mask: Any
    ) -> tuple[Any, Any]:
        """The initial states in the containers of the layer's own, and the mask; all checked."""
        of_layer = (self.unroll, self.stateful and self._rnn_kept_states.batch_size)
        known = door.sizes_are_known()  # else they're looked at once, as the function is traced
        kind = kind_of_call(sequences, initial_state, mask, of_layer) if known else None
        if kind in self._rnn_checked_calls:
            return initial_state, mask
        states, read = self._rnn_check(sequences, initial_state, mask)
        # Only flat states are remembered, and a stack's are nested.
        is_same = type(states) is type(initial_state) and all(map(is_tensor_like, states or ()))
        if is_same and read is mask:
            self._rnn_checked_calls.add(kind)
        return states, read

    def _rnn_check(
        self, sequences: Structure, initial_state: Structure, mask: Any
    ) -> tuple[Any, Any]:
        owner, paths = name_of(self), leaf_paths(sequences)
        shapes = [shape_of(x) for x in leaves(sequences)]
        check_sequences(owner, shapes, paths)
        if self._rnn_built_shapes is not None:
            check_features(owner, shapes, self._rnn_built_shapes, paths)
        batch_size = first_known(shape[0] for shape in shapes)
        timesteps = first_known(shape[1] for shape in shapes)
        check_unroll(owner, self.unroll, timesteps)
        if self.stateful:
            check_batch(owner, self._rnn_kept_states.batch_size, batch_size)
        if initial_state is not None:
            expected = state_sizes(self.cell)
            initial_state = read_states(owner, "initial_state", initial_state, expected, batch_size)
        return initial_state, read_mask(owner, mask, batch_size, timesteps)

    def _rnn_starting_states(self, given: Structure, batch_size: Any) -> Structure:
        """The states that a call starts from, each in the dtype that the cell's own has."""
        if given is None and not self.stateful:
            return self.get_initial_state(batch_size)
        given = self._rnn_kept_states.values() if given is None else given
        return self._rnn_in_state_dtypes(given, batch_size)

    def _rnn_in_state_dtypes(self, given: Structure, batch_size: Any) -> Structure:
        """States in the dtypes that the cell's own have."""
        if self._rnn_state_dtypes is None:
            own = leaves(self.get_initial_state(batch_size))
            self._rnn_state_dtypes = [dtype_name(s.dtype) for s in own]
        pairs = zip(leaves(given), self._rnn_state_dtypes, strict=True)
        return pack_like(given, [to_dtype(state, dtype) for state, dtype in pairs])

    def _rnn_results(self, answer: Answer, resets: Resets | None) -> Any:
        """What a call returns, from what its task gave; a stateful layer keeps the states."""
        output, states = answer
        if self.stateful:
            self._rnn_kept_states.assign(to_keep(states, resets))
        output = cast_floats(output, self.compute_dtype)
        if not self.return_state:
            return output
        return (output, *spread(cast_floats(states, self.compute_dtype)))

    # --- shapes, masks, config --------------------------------------------------------------

    def compute_output_shape(
        self,
        sequences_shape: Structure,
        initial_state_shape: Structure = None,
    ) -> Any:
        """The shapes of the results, in their containers."""
        shapes, _ = flat_shapes(sequences_shape)
        batch_size = first_known(shape[0] for shape in shapes)
        time = [first_known(shape[1] for shape in shapes)] if self.return_sequences else []
        output = map_shapes(
            lambda shape: (batch_size, *time, *shape[1:]),
            output_shapes(self.cell, without_time(sequences_shape)),
        )
        if not self.return_state:
            return output
        states = tree.map_structure(
            lambda size: with_batch(size, batch_size), state_sizes(self.cell)
        )
        return (output, *spread(states))

    def compute_output_spec(
        self,
        sequences: Structure,
        initial_state: Structure = None,
        mask: Tensor | None = None,
        training: bool = False,
        constants: Structure = None,
        sequences_mask: Structure = None,
        resets: Tensor | None = None,
        fresh_state: Structure = None,
        **of_subclass: Any,
    ) -> Any:
        """The results as symbolic tensors; refuses what `call` would.

        A subclass's `call` may take more arguments; they change no shape here.
        """
        self._rnn_checked(sequences, initial_state, sequences_mask if mask is None else mask)
        if resets is not None or fresh_state is not None:
            self._rnn_check_resets(sequences, resets, fresh_state)
        shapes = self.compute_output_shape(tree.map_structure(shape_of, sequences))
        return map_shapes(lambda s: keras.KerasTensor(s, dtype=self.compute_dtype), shapes)

    def compute_mask(self, sequences: Structure, mask: Structure) -> Any:
        """The mask (B, T) of each result: the inputs' for a sequence, none for the rest.

        With `go_backwards` it's turned, as the outputs are: they come in the order of the run.
        """
        output_mask = shared_mask(mask) if self.return_sequences else None
        output_mask = turned(output_mask) if self.go_backwards else output_mask
        return for_results(self.cell, output_mask, self.return_state)

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's layer; the cell's config is its entry `cell`."""
        if not hasattr(self.cell, "get_config"):
            raise ValueError(
                f"{name_of(self)}: expected a cell with `get_config`, to be saved, got "
                f"{name_of(self.cell)}."
            )
        return {**loop_config(self), "cell": keras.saving.serialize_keras_object(self.cell)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RNN":
        """Builds the layer from its config or from that of Keras's layer."""
        config = dict(config)
        check_entry(cls.__name__, config, "cell")
        cell = keras.saving.deserialize_keras_object(of_ours(config.pop("cell")), custom_objects)
        return cls(cell, **config)


def _zero_states(cell: Any, batch_size: Any, like: Tensor) -> list[Tensor]:
    """A built-in cell's zero states, on another tensor's device; shared, so not for users."""
    shapes, dtype = [(batch_size, size) for size in spread(cell.state_size)], cell.compute_dtype
    if is_called_as_ours(cell):  # which writes into none: one for all (3.5 us each on PyTorch)
        return [door.zeros(shapes[0], dtype, like)] * len(shapes)
    return [door.zeros(shape, dtype, like) for shape in shapes]
