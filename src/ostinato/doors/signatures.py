"""What the native engine's operations take and give, as the doors read it off a spec."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ostinato import native
from ostinato.native import BATCH_AXES, FIELDS, RunSpec

TRAINING, WANTS_DX = FIELDS.index("training"), FIELDS.index("wants_dx")


@dataclass(frozen=True)
class Signature:
    """What a `spec` says of an operation's inputs and outputs.

    Attributes:
        operation: "forward" or "backward".
        specs: The runs.
        operands: The names of each run's inputs.
        anchors: Where in the inputs each run's x and recurrent_kernel are.
        count: The number of inputs.
    """

    operation: str
    specs: tuple[RunSpec, ...]
    operands: tuple[tuple[str, ...], ...]
    anchors: tuple[tuple[int, int], ...]
    count: int

    def by_run(self, tensors: Sequence[Any]) -> list[dict[str, Any]]:
        """The inputs as one {name: tensor} for each run."""
        iterator = iter(tensors)
        return [{name: next(iterator) for name in run} for run in self.operands]

    def shapes(self, inputs: Sequence[Any]) -> list[list[Any]]:
        """The shapes of each run's outputs; their sizes may be symbols."""
        if len(inputs) != self.count:
            expected = "; ".join(", ".join(run) for run in self.operands)
            raise ValueError(
                f"[ostinato::{self.operation}] expected {self.count} inputs ({expected}), "
                f"got {len(inputs)}."
            )
        output_shapes = _OUTPUT_SHAPES[self.operation]
        shapes = []
        for spec, (x_at, recurrent_at) in zip(self.specs, self.anchors, strict=True):
            x, recurrent = inputs[x_at].shape, inputs[recurrent_at].shape
            if len(x) != 3 or len(recurrent) != 2:
                raise ValueError(
                    f"[ostinato::{self.operation}] expected x (batch, time, features) and "
                    f"recurrent_kernel (units, gates x units), got {tuple(x)} and "
                    f"{tuple(recurrent)}."
                )
            shapes.append(output_shapes(spec, x[0], x[1], x[2], recurrent[0]))
        return shapes


_OPERANDS = {"forward": native.forward_operands, "backward": native.backward_operands}
_OUTPUT_SHAPES = {
    "forward": native.forward_output_shapes,
    "backward": native.backward_output_shapes,
}


@lru_cache(maxsize=512)
def signature_of(operation: str, flat: tuple[int, ...]) -> Signature:
    """Of "forward" or "backward", for the integers that the core takes as spec."""
    size = len(FIELDS)
    if not flat or len(flat) % size:
        raise ValueError(
            f"[ostinato::{operation}] expected {size} integers for each run as spec, "
            f"got {len(flat)}."
        )
    specs = tuple(RunSpec(*flat[start : start + size]) for start in range(0, len(flat), size))
    operands = tuple(_OPERANDS[operation](spec) for spec in specs)
    anchors, first = [], 0
    for names in operands:
        anchors.append((first, first + names.index("recurrent_kernel")))
        first += len(names)
    return Signature(operation, specs, operands, tuple(anchors), first)


def folds(
    specs: Sequence[RunSpec], operands: Sequence[Sequence[str]], mapped: Sequence[bool]
) -> bool:
    """Whether an axis that vmap maps can become a part of the batch; else it takes a loop.

    What is saved can't be split, and the rows of a batch share their weights, and the gradients of
    those. `mapped` says of each operand whether it has the axis.
    """
    names = [name for run in operands for name in run]
    weights = [flag for name, flag in zip(names, mapped, strict=True) if name not in BATCH_AXES]
    return not any(weights) and not any(spec.training for spec in specs)
