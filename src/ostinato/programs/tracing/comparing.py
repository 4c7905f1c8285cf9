"""What two runs of a cell must have in common, at different sizes of the batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ostinato import nests
from ostinato.programs.tracing.drawing import Draw
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
    settings = {}
    if isinstance(operation, keras.Operation):
        settings = {
            name: value
            for name, value in vars(operation).items()
            if not name.startswith("_") and name not in ("name", "call")
        }
    flat = nests.flatten((settings, step.args, step.kwargs))
    name = getattr(step.function, "__qualname__", ""), type(operation).__name__
    return name, step.results, [_plain(item) for item in flat]


def _plain(item: Any) -> Any:
    if isinstance(item, np.ndarray) or ops.is_tensor(item):
        array = np.asarray(ops.convert_to_numpy(item))
        return array.shape, str(array.dtype), array.tobytes()
    return repr(item)
