"""A cell, traced: its program, and what's made before its loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import keras
from keras import tree

from ostinato.cells.contract import output_sizes, state_sizes
from ostinato.doors import door
from ostinato.nests import leaf_paths
from ostinato.programs.graph import Graph, Program, program_of, reachable
from ostinato.programs.node import CONSTANT, INPUT, WEIGHT, ProgramError, Value
from ostinato.programs.tracing.comparing import Done, done, is_alike, told
from ostinato.programs.tracing.drawing import Draw, draw_over_time
from ostinato.programs.tracing.history import events, forget
from ostinato.programs.tracing.holding import holding_masks
from ostinato.programs.tracing.members import Members
from ostinato.programs.tracing.preparing import Source, Step, run
from ostinato.programs.tracing.refusal import Untraceable, named
from ostinato.programs.tracing.rows import BATCHES, OF_THREAD
from ostinato.programs.tracing.rules import rule_of
from ostinato.programs.tracing.run import Run, Signature, run_on_symbols
from ostinato.programs.tracing.translation import Translation
from ostinato.structure import SharedShape, Structure, describe, leaves, repack
from ostinato.tensors import Tensor, Tensors, agree, loses_fractions, to_dtype


@dataclass(frozen=True)
class Traced:
    """What tracing gives.

    Attributes:
        program: The step. Its inputs are the leaves of the cell's inputs, then its random masks of
            a timestep; its states the leaves of the states.
        outputs_like: The containers of its outputs, around their dtypes.
        dtype: What the weights and constants come in.
        draws: What is drawn in each timestep: the last of the program's inputs.
    """

    program: Program
    outputs_like: Structure
    dtype: str
    draws: tuple[Draw, ...]
    _sources: dict[int, Source] = field(repr=False)
    _steps: tuple[Step, ...] = field(repr=False)
    _weights: tuple[int, ...] = field(repr=False)
    _constants: tuple[int, ...] = field(repr=False)

    @property
    def output_dtypes(self) -> tuple[str, ...]:
        """The dtype that the cell itself gives each output in."""
        return tuple(tree.flatten(self.outputs_like))

    def prepare(self, cell: Any, constants: Sequence[Tensor] | None) -> tuple[Tensors, Tensors]:
        """The program's weights and constants, of a cell's variables as they are now.

        They're made by keras.ops of the variables' values, so gradients of them find their way.

        Args:
            cell: The cell that was traced, or one of the same class and configuration.
            constants: The constants that the layer was called with, each (B, ...).
        """
        values = run(self._sources, self._steps, cell, leaves(constants or []))
        return (
            tuple(to_dtype(values[number], self.dtype) for number in self._weights),
            tuple(to_dtype(values[number], self.dtype) for number in self._constants),
        )

    def told(self) -> Any:
        """All that it says, as plain values that are equal where it's the same."""
        return (
            self.program,
            (repr(self.outputs_like), self.dtype),
            told(self._sources, self._steps, self.draws),
            (self._weights, self._constants),
        )

    def digest(self, cell: Any) -> str:
        """All that it says and the classes of a cell and of its parts, in a few letters."""
        classes = [type(holder.thing) for holder in Members(cell).holders]
        return sha256(repr((classes, self.told())).encode()).hexdigest()

    def draw(
        self, cell: Any, batch_size: Any, timesteps: Any, go_backwards: bool = False
    ) -> Tensors:
        """The random masks of all timesteps, each (B, T, ...), in the order of the inputs' time.

        They're what the portable loop would draw from the cell's seeds, which move on as there.
        """
        return draw_over_time(self.draws, cell, batch_size, timesteps, go_backwards)


def trace(
    cell: Any, xs: Structure, states: Structure, constants: list[Any] | None, training: bool
) -> Traced:
    """Traces a cell.

    Args:
        cell: The cell, built.
        xs: Its inputs of a timestep: a nest of `Like`, or of anything with a shape without the
            batch and a dtype.
        states: Likewise its states, in the containers of its `state_size`.
        constants: Likewise a list of constants, or None.
        training: Whether dropout is applied.

    Raises:
        Untraceable: It can't be a program.
    """
    signature = Signature(xs, states, constants, training)
    _need_rows_of_numbers(cell, signature)
    OF_THREAD.has_read_size = False
    with holding_masks(cell, signature) as masks:
        runs = (_translated(cell, signature, batch, masks) for batch in BATCHES)
        (first, did), (second, did_then) = runs
        if first.told() != second.told():
            raise Untraceable(_DEPENDS)
        if OF_THREAD.has_read_size and not is_alike(
            did, did_then, _done(cell, signature, 1, masks)
        ):
            raise Untraceable(f"{_DEPENDS}: with one row it does something else")
    return first


_DEPENDS = "its results depend on the size of the batch, or aren't always the same"


def _need_rows_of_numbers(cell: Any, signature: Signature) -> None:
    nests = {"input": signature.xs, "state": signature.states, "constant": signature.constants}
    for what, nest in nests.items():
        for path, item in zip(leaf_paths(nest), leaves(nest), strict=True) if nest else ():
            if "int" in item.dtype and what == "state":
                raise Untraceable(
                    f"its state{path} is {item.dtype}, which may count further than a program's "
                    "floats; write it as a state of floats"
                )
            if "complex" in item.dtype:
                raise Untraceable(f"its {what}{path} is {item.dtype}, and programs are of floats")
    if any(isinstance(size, SharedShape) for size in tree.flatten(state_sizes(cell))):
        raise Untraceable("it has a state that all rows share")


def _translated(
    cell: Any, signature: Signature, batch: int, masks: frozenset[int]
) -> tuple[Traced, Done]:
    members = Members(cell, masks)
    run_ = run_on_symbols(cell, members, signature, batch)
    with door.at_once():
        return _translation_of(cell, members, run_, _dtype_of(cell, signature))


def _done(cell: Any, signature: Signature, batch: int, masks: frozenset[int]) -> Done:
    """What a run of another size does, which isn't translated."""
    run_ = run_on_symbols(cell, Members(cell, masks), signature, batch)
    output, states = _results(cell, run_)
    begun, results = _begun(run_), (tree.flatten(output), states)
    found = events(_symbols(results), begun, run_.histories)
    did = done(begun, found, results)
    forget(event.operation for event in found)
    return did


def _symbols(results: Any) -> list[Any]:
    return [each for each in tree.flatten(results) if isinstance(each, keras.KerasTensor)]


def _begun(run_: Run) -> list[Any]:
    """The symbols that a run began with."""
    begun = [*run_.weights.values(), *leaves(run_.xs), *leaves(run_.states)]
    return [*begun, *leaves(run_.constants or []), *run_.upstreams, *run_.draws.symbols]


def _translation_of(cell: Any, members: Members, run_: Run, dtype: str) -> tuple[Traced, Done]:
    output, states = _results(cell, run_)
    flat_output: list[Any] = tree.flatten(output)
    begun, found = _begun(run_), []
    try:
        _refuse_claims(begun)
        found = events(_symbols((flat_output, states)), begun, run_.histories)
        did = done(begun, found, (flat_output, states))
        t = Translation(run_, members, dtype)
        for event in found:
            t.take(event, rule_of)
        outputs = [_result(t, item, f"output {at}") for at, item in enumerate(flat_output)]
        for item, state in zip(states, leaves(run_.states), strict=True):
            if loses_fractions(item.dtype, state.dtype):
                raise Untraceable(f"a state of {state.dtype} becomes one of {item.dtype}")
        new = [
            _result(t, item, f"state {at}", is_bool="bool" in state.dtype)
            for at, (item, state) in enumerate(zip(states, leaves(run_.states), strict=True))
        ]
    finally:
        forget(event.operation for event in found)
    dtypes = [keras.backend.standardize_dtype(item.dtype) for item in flat_output]
    return _collected(t, run_, outputs, new, tree.pack_sequence_as(output, dtypes)), did


def _refuse_claims(begun: list[Any]) -> None:
    """Refuses an operation that gives what it was given: nothing of it would be in the program."""
    for symbol in begun:
        operation = getattr(getattr(symbol, "_keras_history", None), "operation", None)
        if operation is not None and not isinstance(operation, keras.layers.Layer):
            raise Untraceable(f"{named(operation)} isn't among programs' operations")


def _dtype_of(cell: Any, signature: Signature) -> str:
    """What a cell computes in."""
    declared = getattr(cell, "compute_dtype", None)
    return declared if isinstance(declared, str) else str(leaves(signature.xs)[0].dtype)


def _results(cell: Any, run_: Run) -> tuple[Structure, list[Any]]:
    """A cell's outputs, and the leaves of its new states, in the order of what it declares."""
    states = repack(run_.states, run_.new_states)
    declared = output_sizes(cell)
    output = run_.output if declared is None else repack(declared, run_.output)
    for what, given, fitted in (
        ("new states", run_.new_states, states),
        ("outputs", run_.output, output),
    ):
        if fitted is None:
            raise Untraceable(f"its call returns {what} {describe(given)}, not as it declares")
        for item in tree.flatten(fitted):
            if not hasattr(item, "shape"):
                raise Untraceable(f"its call returns {describe(item)} among its {what}")
    if declared is not None:
        _check_sizes(declared, output)
    return output, tree.flatten(states)


def _check_sizes(declared: Structure, output: Structure) -> None:
    for size, item in zip(tree.flatten(declared), tree.flatten(output), strict=True):
        if not agree(tuple(item.shape[1:]), tuple(size)):
            raise Untraceable(
                f"its output is {tuple(item.shape[1:])} a row, its output_size {size}"
            )


def _result(t: Translation, item: Any, what: str, is_bool: bool = False) -> Value:
    """The value of an output or a state; of a boolean state 0 or 1, whatever the cell returns."""
    term = t.term(item)
    if t.is_of_any_size(term):
        raise Untraceable(f"its {what} may count further than a program's floats")
    if is_bool and not t.is_truth(term):
        term = t.apply("ne", term, t.literal(0.0))
    if not term.fold and item.shape and item.shape[0] == t.batch:
        term = t.broadcast(term, item.shape)
    if term.fold != 1:
        raise Untraceable(f"its {what} is of {tuple(item.shape)}, without the rows of the batch")
    return term.value


def _collected(
    t: Translation, run_: Run, outputs: list[Value], states: list[Value], like: Structure
) -> Traced:
    """The program of the values found, and of what's prepared what it needs."""
    shapes = {
        "input_shapes": tuple(x.shape[1:] for x in (*leaves(run_.xs), *run_.draws.symbols)),
        "state_shapes": tuple(state.shape[1:] for state in leaves(run_.states)),
    }
    needed = reachable((*outputs, *states), lambda value: t.graph[value].arguments)
    numbers = {}
    for kind in (WEIGHT, CONSTANT):
        places = [value for value in needed if t.graph[value].operation == kind]
        shapes[f"{kind}_shapes"] = tuple(t.graph[value].shape for value in places)
        numbers[kind] = tuple(t.prepared[value] for value in places)
    graph = Graph(
        [
            replace(node, attributes=(numbers[node.operation].index(node.attributes[0]),))
            if node.operation in numbers and place in set(needed)
            else node
            for place, node in enumerate(t.graph.nodes)
        ]
    )
    count = len(leaves(run_.xs))
    drawn = [(INPUT, count + at) for at in range(len(run_.draws.draws))]
    held = [(CONSTANT, at) for at, number in enumerate(numbers[CONSTANT]) if number in t.masks]
    fixed = frozenset((*drawn, *held))
    try:
        program = program_of(graph, outputs, states, **shapes, fixed=fixed)
    except ProgramError as error:
        raise Untraceable(str(error)) from error
    sources, steps = t.preparation.only((*numbers[WEIGHT], *numbers[CONSTANT]))
    prepared = (sources, tuple(steps), numbers[WEIGHT], numbers[CONSTANT])
    return Traced(program, like, t.dtype, tuple(run_.draws.draws), *prepared)
