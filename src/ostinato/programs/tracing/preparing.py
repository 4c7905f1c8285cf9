"""What is computed before the first timestep: all that's made of weights and constants alone.

It runs in the framework, on the variables as they are at the time, so that gradients of what comes
out find their way to them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from ostinato.doors import door
from ostinato.programs.tracing.members import Way, follow
from ostinato.tensors import Tensor


class Slot(NamedTuple):
    """Stands in a step's arguments for a value computed before."""

    number: int


class Source(NamedTuple):
    """Where a value that no step makes comes from.

    Attributes:
        ways: The ways to it in a cell; none of a constant or an array.
        constant: Which of the constants it is, or None.
        array: A fixed array, or None.
        tensor: The same as a tensor, which torch.compile needs.
        dtype: What it's read in.
    """

    ways: tuple[Way, ...]
    dtype: str
    constant: int | None = None
    array: np.ndarray | None = None
    tensor: Tensor = None


class Step(NamedTuple):
    """A function of values computed before.

    Attributes:
        function: The function, of tensors.
        args: Its arguments by position; a `Slot` in the place of a tensor.
        kwargs: Likewise by name.
        results: The numbers of the values that it makes.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int, ...]


class Preparation:
    """Sources and steps, as they're found while a cell is traced.

    Attributes:
        sources: The sources by their numbers among all values.
        steps: The steps, each after those that it needs.
    """

    def __init__(self) -> None:
        self.sources: dict[int, Source] = {}
        self.steps: list[Step] = []
        self._count = 0

    def source(self, source: Source) -> int:
        """The number of a source's value."""
        number = self._new()
        self.sources[number] = source
        return number

    def step(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """The number of what a function makes of values."""
        return self.step_of(function, args, kwargs, 1)[0]

    def step_of(
        self, function: Callable[..., Any], args: Any, kwargs: Any, results: int
    ) -> tuple[int, ...]:
        """The numbers of the several things that a function makes of values."""
        numbers = tuple(self._new() for _ in range(results))
        self.steps.append(Step(function, tuple(args), kwargs, numbers))
        return numbers

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

    def only(self, wanted: Sequence[int]) -> tuple[dict[int, Source], list[Step]]:
        """The sources and steps that some values need."""
        needed = set(wanted)
        steps = []
        for step in reversed(self.steps):
            if needed.intersection(step.results):
                steps.append(step)
                needed.update(slot.number for slot in _slots((step.args, step.kwargs)))
        sources = {number: source for number, source in self.sources.items() if number in needed}
        return sources, steps[::-1]


def _slots(nest: Any) -> list[Slot]:
    if isinstance(nest, Slot):
        return [nest]
    if isinstance(nest, dict):
        return [slot for item in nest.values() for slot in _slots(item)]
    if isinstance(nest, (list, tuple)):
        return [slot for item in nest for slot in _slots(item)]
    return []


def _filled(nest: Any, values: dict[int, Tensor]) -> Any:
    if isinstance(nest, Slot):
        return values[nest.number]
    if isinstance(nest, dict):
        return {key: _filled(item, values) for key, item in nest.items()}
    if type(nest) in (list, tuple):
        return type(nest)(_filled(item, values) for item in nest)
    return nest


def run(
    sources: dict[int, Source], steps: Sequence[Step], cell: Any, constants: Sequence[Tensor]
) -> dict[int, Tensor]:
    """The values of sources and steps, by their numbers."""
    values: dict[int, Tensor] = {}
    # Kernels take what a framework has for a variable; Keras's functions may ask for more than
    # TensorFlow's own has.
    read = ops.convert_to_tensor if steps else door.read
    for number, source in sources.items():
        values[number] = _value_of(source, cell, constants, read)
    for step in steps:
        result = step.function(*_filled(step.args, values), **_filled(step.kwargs, values))
        made = list(result) if isinstance(result, (list, tuple)) else [result]
        values.update(zip(step.results, made, strict=True))
    return values


def _value_of(
    source: Source, cell: Any, constants: Sequence[Tensor], read: Callable[[Any, str], Tensor]
) -> Tensor:
    if source.constant is not None:
        return ops.cast(constants[source.constant], source.dtype)
    if source.tensor is not None:
        return source.tensor
    thing = follow(cell, source.ways[0])
    if isinstance(thing, keras.Variable):
        return read(thing, source.dtype)
    return ops.cast(thing, source.dtype)
