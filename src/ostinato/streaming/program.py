"""What a timestep is made of, as native/core/step/step.h has it: plain values and NumPy arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ostinato import native
from ostinato.nests import Nest
from ostinato.routines import Routine

# Codes of operations, in the header's order.
(EMBED, MASK, EITHER, CELL, DENSE, SCALE, NORMALIZE, ACTIVATE, SOFTMAX, COMBINE, CONCATENATE) = (
    range(11)
)
ROUTINE, INT8_CELL, INT8_DENSE, WINDOW, POOL = range(11, 16)
ADD, SUBTRACT, MULTIPLY, MAXIMUM, MINIMUM = range(5)  # kinds of COMBINE
CENTRED, AS_IT_IS = range(2)  # kinds of NORMALIZE
ALL, LARGEST, MEAN, WEIGHTED = range(4)  # kinds of WINDOW
POOL_MEAN, POOL_LARGEST = range(2)  # kinds of POOL
COUNTED_BY = 4096  # of POOL_MEAN: how many are so many of these, and ones


@dataclass(frozen=True)
class Operation:
    """One operation; the fields are those of the header, in its order.

    Attributes:
        code: One of the codes above.
        kind: Of a cell the number of one of `native.kinds()`; of ROUTINE that of one of the
            program's routines; of COMBINE, NORMALIZE, WINDOW and POOL see above.
        activation: The name of a function in `native.activation_names()`.
        recurrent_activation: Likewise.
        has_bias: 0 or 1.
        zero_output_for_mask: Whether a masked row's output is zero, and not held; 0 or 1.
        mask_in: The number of the mask that it reads, or -1.
        mask_out: The number of the mask that it makes, or -1.
        first: The number of the value, input or mask that it reads.
        second: The number of the other value.
        out: The number of the value that it makes.
        width: That value's width.
        taps: How many timesteps a WINDOW holds; of others 0, as the next.
        dilation: How far apart they are.
    """

    code: int
    kind: int = 0
    activation: str = "linear"
    recurrent_activation: str = "linear"
    has_bias: int = 0
    zero_output_for_mask: int = 0
    mask_in: int = -1
    mask_out: int = -1
    first: int = -1
    second: int = -1
    out: int = -1
    width: int = 0
    taps: int = 0
    dilation: int = 0

    def encode(self) -> list[int]:
        """The integers that the core takes."""
        values = [getattr(self, each.name) for each in fields(self)]
        names = native.activation_names()
        return [names.index(value) if isinstance(value, str) else int(value) for value in values]


@dataclass(frozen=True)
class Port:
    """What a stream reads, or gives, a timestep: an array of `shape`, streams and time apart.

    Attributes:
        name: How to call it in an error.
        shape: () of ids.
        dtype: A NumPy dtype's name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class State:
    """One array of a layer's state, (streams, *shape).

    Attributes:
        layer: The layer's name, or its path where others have that name.
        shape: Its shape.
        dtype: A NumPy dtype's name.
        is_extra: Whether it isn't the cell's, but what a layer under a mask keeps beside.
        initial: What a stream starts from, of `shape`.
    """

    layer: str
    shape: tuple[int, ...]
    dtype: str
    is_extra: bool
    initial: np.ndarray = field(compare=False)


@dataclass(frozen=True)
class Program:
    """A timestep of a model.

    Attributes:
        name: The model's.
        dtype: "float32" or "float64".
        inputs: A nest of `Port`s.
        outputs: A nest of `Port`s.
        output_values: The number of the value that each output is.
        operations: What is done, in order.
        states: What is kept from one timestep to the next, in the order of the operations.
        weights: Those of the operations, in order.
        routines: What cells of one's own do in a timestep.
    """

    name: str
    dtype: str
    inputs: Nest
    outputs: Nest
    output_values: tuple[int, ...]
    operations: tuple[Operation, ...]
    states: tuple[State, ...]
    weights: tuple[np.ndarray, ...] = field(compare=False)
    routines: tuple[Routine, ...] = ()

    @property
    def has_int8(self) -> bool:
        """Whether some of its operations have weights of int8."""
        return any(each.code in (INT8_CELL, INT8_DENSE) for each in self.operations)

    @property
    def looks_back(self) -> bool:
        """Whether some of its operations read earlier timesteps themselves."""
        return any(each.code in (WINDOW, POOL) for each in self.operations)


def pool_states(kind: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    """What a POOL begins with: the largest; or the sum, what its roundings lost, and how many.

    How many are two numbers, of `COUNTED_BY` and of ones: a float alone would stop at 2**24.
    """
    if kind == POOL_LARGEST:
        return [np.full(shape, -np.inf)]
    return [np.zeros(shape), np.zeros(shape), np.zeros(2)]


@dataclass
class Value:
    """A value in the making of a program: its number, its width, and the mask that goes with it."""

    number: int
    width: int
    mask: int = -1


class Builder:
    """Makes a program, operation by operation.

    Attributes:
        dtype: The program's.
        operations: Those so far.
        weights: Theirs.
        states: Likewise.
        routines: Likewise.
        owner: Whose states are those of the cells that are added next.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.operations: list[Operation] = []
        self.weights: list[np.ndarray] = []
        self.states: list[State] = []
        self.routines: list[Routine] = []
        self.owner = ""
        self._values = self._masks = 0

    def input(self, width: int) -> Value:
        """The next input: a value, or ids where the width is 0."""
        self._values += 1
        return Value(self._values - 1, width)

    def add(
        self, code: int, first: Value, width: int, weights: Sequence[Any] = (), **rest: Any
    ) -> Value:
        """Appends an operation that makes a value, with the mask of what it reads first."""
        made = self.input(width)
        self.operations.append(
            Operation(code, first=first.number, out=made.number, width=width, **rest)
        )
        # ascontiguousarray would make an axis for a single number.
        for weight in weights:
            dtype = "int8" if getattr(weight, "dtype", None) == "int8" else self.dtype
            self.weights.append(np.asarray(weight, dtype, order="C"))
        made.mask = first.mask
        return made

    def new_mask(self) -> int:
        """The number of the next mask, for the operation that is about to make it."""
        self._masks += 1
        return self._masks - 1

    def either(self, first: int, second: int) -> int:
        """The mask that holds where one of two does."""
        made = self.new_mask()
        self.operations.append(Operation(EITHER, mask_in=first, first=second, mask_out=made))
        return made

    def scale(self, value: Value, factor: Any, offset: Any) -> Value:
        """`value * factor + offset`, numbers or (width,) each."""
        rows = [np.broadcast_to(np.asarray(row), (value.width,)) for row in (factor, offset)]
        return self.add(SCALE, value, value.width, rows)

    def cell(self, kind: int, value: Value, initial: Sequence[np.ndarray], **rest: Any) -> Value:
        """A cell of `owner`, with its states; `rest` is for `add`. Its output has no mask."""
        code = CELL
        if any(getattr(weight, "dtype", None) == "int8" for weight in rest.get("weights", ())):
            code = INT8_CELL
        made = self.add(code, value, len(initial[0]), kind=kind, mask_in=value.mask, **rest)
        self._keep(initial)
        if value.mask >= 0:
            self.states.append(State(self.owner, (), "bool", True, np.zeros((), bool)))
        return made

    def routine(
        self,
        routine: Routine,
        value: Value,
        width: int,
        weights: Sequence[np.ndarray],
        initial: Sequence[np.ndarray],
        held: Sequence[tuple[int, ...]],
    ) -> Value:
        """A cell of one's own of `owner`, with its states. Its output has no mask.

        Args:
            routine: Its pass for inference, with a mask where the value has one.
            value: What it reads.
            width: How many units its output has.
            weights: What the routine takes as such.
            initial: Its initial states.
            held: The shapes of the outputs that it keeps beside them, to begin with zeros.
        """
        if routine not in self.routines:
            self.routines.append(routine)
        number = self.routines.index(routine)
        made = self.add(ROUTINE, value, width, weights, kind=number, mask_in=value.mask)
        self._keep(initial)
        self._keep([np.zeros(shape) for shape in held], is_extra=True)
        return made

    def window(
        self, kind: int, value: Value, taps: int, dilation: int, weights: Sequence[Any] = ()
    ) -> Value:
        """The last timesteps of a value, of `owner`: side by side, oldest first, or made one."""
        width = value.width * (taps if kind == ALL else 1)
        options = {"kind": kind, "taps": taps, "dilation": dilation}
        made = self.add(WINDOW, value, width, weights, **options)
        if taps > 1:
            self._keep([np.zeros(((taps - 1) * dilation, value.width))])
        return made

    def pool(self, kind: int, value: Value) -> Value:
        """What a value's timesteps so far come to, of `owner`. It has no mask."""
        mask = value.mask if kind == POOL_MEAN else -1
        made = self.add(POOL, value, value.width, kind=kind, mask_in=mask)
        self._keep(pool_states(kind, (value.width,)))
        made.mask = -1
        return made

    def _keep(self, initial: Sequence[np.ndarray], is_extra: bool = False) -> None:
        for state in initial:
            self.states.append(
                State(self.owner, state.shape, self.dtype, is_extra, state.astype(self.dtype))
            )
