"""From what a cell did to symbols to a graph of programs' operations, phase by phase.

What's made of weights and fixed arrays alone, or of constants, is prepared before the loop; the
graph gets it as weights and constants. What's made of inputs and states is translated by `rules`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ostinato import nests
from ostinato.programs.graph import Graph
from ostinato.programs.node import (
    CONSTANT,
    INPUT,
    LITERAL,
    STATE,
    UPSTREAM,
    WEIGHT,
    ProgramError,
    Value,
)
from ostinato.programs.operations import operations
from ostinato.programs.tracing.counting import Counting
from ostinato.programs.tracing.history import Event, held_by, symbols_in
from ostinato.programs.tracing.members import Members
from ostinato.programs.tracing.preparing import Slot, Source
from ostinato.programs.tracing.refusal import Untraceable, named
from ostinato.programs.tracing.run import Run
from ostinato.programs.tracing.terms import Term
from ostinato.structure import leaves

# When a value is known: before the loop, of weights alone or of constants too, or in a timestep.
OF_WEIGHTS, OF_CONSTANTS, OF_TIMESTEP = range(3)

# Of booleans these are `or` and the like.
_ARITHMETIC = {"Add", "Subtract", "Multiply", "Mean", "Sum", "Prod", "Negative"}

_BITS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}


class Translation(Counting):
    """The translation of one run.

    Attributes:
        masks: The numbers in it of the masks of a sequence.
        dtype: What prepared values are cast to.
    """

    def __init__(self, run: Run, members: Members, dtype: str) -> None:
        super().__init__(Graph(), run.batch)
        self.dtype = dtype
        self.masks: set[int] = set()
        self._phases: dict[int, int] = {}
        self._numbers: dict[int, int] = {}  # of symbols that are prepared
        self._terms: dict[int, Term] = {}
        self._arrays: dict[Any, int] = {}
        for key, symbol in run.weights.items():
            member = members.values[key]
            is_mask = key in members.masks
            phase = OF_CONSTANTS if is_mask else OF_WEIGHTS
            number = self._source(symbol, Source(tuple(member.ways), member.dtype), phase)
            self.masks.update([number] if is_mask else [])
        for number, symbol in enumerate(leaves(run.constants or [])):
            self._source(symbol, Source((), symbol.dtype, constant=number), OF_CONSTANTS)
        inputs = [*leaves(run.xs), *run.draws.symbols]
        for kind, symbols in ((INPUT, inputs), (STATE, leaves(run.states))):
            for number, symbol in enumerate(symbols):
                value = self.graph.leaf(kind, number, symbol.shape[1:])
                self._terms[id(symbol)] = self.of(value, 1)
                self.note_dtype(value, symbol.dtype)
                self._phases[id(symbol)] = OF_TIMESTEP

        for number, symbol in enumerate(run.upstreams):
            value = self.graph.leaf(UPSTREAM, number, symbol.shape[1:])
            self._terms[id(symbol)] = self.of(value, 1)
            self._phases[id(symbol)] = OF_TIMESTEP

    def _source(self, symbol: Any, source: Source, phase: int) -> int:
        self._numbers[id(symbol)] = number = self.preparation.source(source)
        self._phases[id(symbol)] = phase
        return number

    # Events.

    def take(self, event: Event, rule_of: Callable[[Any], Any]) -> None:
        """Takes one operation in: into what's prepared, or translated by its rule."""
        held = held_by(event.operation)
        given = [*symbols_in((event.args, event.kwargs)), *held]
        found = [self._phases[id(symbol)] for symbol in given]
        phase = max(found, default=OF_WEIGHTS)
        for symbol in event.outputs:
            if "complex" in symbol.dtype:
                raise Untraceable(f"{named(event.operation)} makes complex numbers")
        # An operation that holds symbols can't be called on what stands for them.
        if phase < OF_TIMESTEP and (held or self._knows_the_batch(event, phase)):
            phase = OF_TIMESTEP
        for symbol in event.outputs:
            self._phases[id(symbol)] = phase
        if phase < OF_TIMESTEP:
            self._prepare(event)
        else:
            self._translate(event, rule_of(event.operation))

    def _knows_the_batch(self, event: Event, phase: int) -> bool:
        """Whether the size of the batch is in an operation that'd be done for any batch."""
        told = [value for name, value in vars(event.operation).items() if not name.startswith("_")]
        numbers = [
            number
            for number in nests.flatten((told, event.args, event.kwargs))
            if isinstance(number, int) and number and number % self.batch == 0
        ]
        sizes = [size for symbol in event.outputs for size in symbol.shape]
        has_rows = phase == OF_WEIGHTS and any(size and size % self.batch == 0 for size in sizes)
        return bool(numbers) or has_rows

    def _prepare(self, event: Event) -> None:
        def slot(item: Any) -> Any:
            if isinstance(item, keras.KerasTensor):
                return Slot(self._numbers[id(item)])
            if isinstance(item, keras.Variable):
                raise self._unknown(item)
            is_array = isinstance(item, np.ndarray) or ops.is_tensor(item)
            return ops.convert_to_tensor(_known(item)) if is_array else item

        args, kwargs = nests.map_leaves(slot, (event.args, event.kwargs))
        numbers = self.preparation.step_of(event.operation.call, args, kwargs, len(event.outputs))
        for symbol, number in zip(event.outputs, numbers, strict=True):
            self._numbers[id(symbol)] = number

    def _translate(self, event: Event, rule: Any) -> None:
        name = named(event.operation)
        operands: list[Term] = []

        def term(item: Any) -> Any:
            is_one = isinstance(item, (keras.KerasTensor, keras.Variable, np.ndarray))
            if not (is_one or ops.is_tensor(item)):
                return item
            operands.append(self.term(item))
            return operands[-1]

        args, kwargs = nests.map_leaves(term, (event.args, event.kwargs))
        try:
            self.need_small(name, operands, map(self.term, args))
            for symbol in event.outputs:
                self.fold_of(symbol.shape)
                if symbol.dtype == "bool" and name in _ARITHMETIC:
                    raise Untraceable("of booleans it isn't arithmetic")
                self._need_precision(symbol.dtype, name == "Cast")
            made = rule(self, event.operation, *args, **kwargs)
            made = made if isinstance(made, list) else [made]
            for symbol, result in zip(event.outputs, made, strict=True):
                self.need_whole(name, symbol.dtype, result)
                if result.shape != tuple(symbol.shape):  # Keras 3.10's argmax with keepdims
                    raise Untraceable(
                        f"Keras says {tuple(symbol.shape)} of what has shape {result.shape}"
                    )
                self._terms[id(symbol)] = result
        except (Untraceable, ProgramError) as error:
            raise Untraceable(f"{name}: {error}") from error

    def _need_precision(self, dtype: str, is_cast: bool) -> None:
        """Refuses floats that a program doesn't compute in: they'd be rounded otherwise.

        Only a cast means smaller ones: of float64 Keras's symbols are often wrong.
        """
        if "float" not in dtype:
            return
        own = _BITS[self.dtype]
        is_too_small = is_cast and _BITS[dtype] < own
        if is_too_small or _BITS[dtype] > max(own, _BITS["float32"]):
            raise Untraceable(f"it gives {dtype}, in a cell that computes in {self.dtype}")

    # Operands.

    def term(self, item: Any) -> Term:
        """A symbol, array or number as a term."""
        if isinstance(item, Term):
            return item
        if isinstance(item, keras.KerasTensor):
            found = self._terms.get(id(item))
            if found is None:
                found = self._terms[id(item)] = self._given(self._as_floats(item), item.shape)
                if found.fold:  # a constant; what is of weights alone has a size of its own
                    self.note_dtype(found.value, item.dtype)
            return found
        if isinstance(item, (bool, int, float)):
            return self.literal(float(item))
        if isinstance(item, keras.Variable):
            raise self._unknown(item)
        return self._array(_known(item))

    def _as_floats(self, symbol: Any) -> int:
        number = self._numbers[id(symbol)]
        if "float" in symbol.dtype:
            return number
        return self.preparation.step(ops.cast, Slot(number), self.dtype)

    def _unknown(self, variable: keras.Variable) -> Untraceable:
        return Untraceable(f"the variable {variable.path!r} is no attribute of the cell")

    def _array(self, array: np.ndarray) -> Term:
        if array.dtype.kind not in "fiub" and "float" not in str(array.dtype):
            raise Untraceable(f"an array of {array.dtype} is among the operands")
        if array.ndim == 0:
            return self.literal(float(array))
        fold = self.fold_of(array.shape)
        if fold == 1 and bool((array == array[:1]).all()):
            return self.with_rows(self._array(array[0]))
        if fold:
            raise Untraceable("a fixed array has the size of the batch")
        array = array.astype("float64" if self.dtype == "float64" else "float32")
        key = (array.shape, array.tobytes())
        if key not in self._arrays:
            tensor = ops.convert_to_tensor(array, dtype=self.dtype)
            source = Source((), self.dtype, array=array, tensor=tensor)
            self._arrays[key] = self.preparation.source(source)
        return self._given(self._arrays[key], array.shape)

    def _given(self, number: int, shape: Sequence[int]) -> Term:
        """A prepared value as a leaf of the graph."""
        fold = self.fold_of(shape)
        dims = self.dims(shape, fold)
        if fold > 1:
            number = self.preparation.step(ops.reshape, Slot(number), (-1, *dims))
        return self.of(self._leaf(number, dims, CONSTANT if fold else WEIGHT), fold)

    def _leaf(self, number: int, dims: Sequence[int], kind: str) -> Value:
        value = self.graph.leaf(kind, number, tuple(dims))
        self.prepared[value] = number
        return value

    def side_by_side(self, xs: Any) -> list[Term]:
        """Several operands; a single tensor is as many as its first axis has places."""
        if isinstance(xs, Term):
            raise Untraceable("a tensor is taken apart by its rows")
        return [self.term(x) for x in xs]

    def array_of(self, term: Term) -> np.ndarray | None:
        """The fixed array that a term is, or None."""
        number = self.prepared.get(term.value)
        source = None if number is None else self.preparation.sources.get(number)
        return None if source is None else source.array

    # The graph.

    def add(self, operation: str, *values: Value, attributes: tuple[Any, ...] = ()) -> Value:
        """An operation's value; prepared, where it's of weights alone."""
        nodes = [self.graph[value] for value in values]
        apply = operations()[operation].apply
        if operation == "rows" or apply is None or any(node.has_rows for node in nodes):
            return self.graph.add(operation, *values, attributes=attributes)
        shape, _ = operations()[operation].infer(nodes, attributes)
        args = [self._argument(value) for value in values]

        number = self.preparation.step(apply, *args, attributes=attributes, nodes=tuple(nodes))
        return self._leaf(number, shape, WEIGHT)

    def _argument(self, value: Value) -> Any:
        node = self.graph[value]
        if node.operation == LITERAL:
            return ops.convert_to_tensor(node.attributes[0], dtype=self.dtype)
        return Slot(self.prepared[value])


def _known(item: Any) -> np.ndarray:
    """The values of an array or tensor among the operands, which must have some now."""
    if getattr(item, "requires_grad", False) or hasattr(item, "assign"):
        raise Untraceable("a tensor that's trained, and no attribute of the cell, is an operand")
    try:
        return np.asarray(ops.convert_to_numpy(item))
    # each framework has an error of its own for what is being traced
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise Untraceable(
            "a tensor that's no attribute of the cell is among the operands"
        ) from error
