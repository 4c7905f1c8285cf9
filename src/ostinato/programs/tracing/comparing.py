"""What runs of a cell must have in common, at different sizes of the batch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ostinato import nests
from ostinato.programs.tracing.drawing import Draw
from ostinato.programs.tracing.history import Event
from ostinato.programs.tracing.preparing import Source, Step


def told(sources: Mapping[int, Source], steps: Sequence[Step], draws: Sequence[Draw]) -> Any:
    """What is prepared and drawn, as plain values that are equal where it's the same."""
    return (
        [(number, _source(source)) for number, source in sources.items()],
        [_step(step) for step in steps],
        [(draw.way, draw.shape, draw.dtype, draw.told) for draw in draws],
    )


def _source(source: Source) -> Any:
    array = None if source.array is None else _plain(source.array)
    return source.ways, source.dtype, source.constant, array


def _step(step: Step) -> Any:
    """A step's Keras operation with what it was made with; programs' own are told by arguments."""
    operation = getattr(step.function, "__self__", None)
    settings = _settings(operation) if isinstance(operation, keras.Operation) else {}
    flat = nests.flatten((settings, step.args, step.kwargs))
    name = getattr(step.function, "__qualname__", ""), type(operation).__name__
    return name, step.results, [_plain(item) for item in flat]


def _settings(operation: keras.Operation) -> dict[str, Any]:
    """What an operation was made with."""
    return {
        name: value
        for name, value in vars(operation).items()
        if not name.startswith("_") and name not in ("name", "call")
    }


Done = list[list[Any]]  # what a run did: an operation a row, and at last what it returned


def done(begun: Sequence[Any], events: Sequence[Event], results: Any) -> Done:
    """What a run did: of each operation its class, and the symbols, numbers and words given to it.

    Args:
        begun: The symbols that the run began with.
        events: Its operations.
        results: The nest of what it returned.
    """
    numbers: dict[int, int] = {}

    def plain(nest: Any) -> Iterator[str]:
        for item in nests.flatten(nest):
            if isinstance(item, keras.KerasTensor):
                yield f"value {numbers.get(id(item))}"
            elif isinstance(item, (int, float, str, type(None))):
                yield repr(item)

    for symbol in begun:
        numbers[id(symbol)] = len(numbers)
    rows: Done = []
    for event in events:
        given = (_settings(event.operation), event.args, event.kwargs)
        rows.append([type(event.operation).__name__, *plain(given)])
        for symbol in event.outputs:
            numbers[id(symbol)] = len(numbers)
    return [*rows, list(plain(results))]


def is_alike(first: Done, second: Done, third: Done) -> bool:
    """Whether a third run did what two others did, where the two did the same."""
    if [len(each) for each in first] != [len(each) for each in third]:
        return False
    rows = zip(first, second, third, strict=True)
    return all(a != b or a == c for row in rows for a, b, c in zip(*row, strict=True))


def _plain(item: Any) -> Any:
    if isinstance(item, np.ndarray) or ops.is_tensor(item):
        array = np.asarray(ops.convert_to_numpy(item))
        return array.shape, str(array.dtype), array.tobytes()
    return repr(item)
