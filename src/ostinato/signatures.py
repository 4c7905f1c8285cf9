"""The native engine's two operations as data: what they take and give, and where gradients go.

The framework-free statement of what native/core/ostinato.h says in words and signature.cpp to the
core. A door passes tensors by it, and needs to know none of their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from ostinato import native
from ostinato.native import FIELDS, RunSpec

TRAINING, WANTS_DX = FIELDS.index("training"), FIELDS.index("wants_dx")

Names = tuple[str, ...]
Sizes = tuple[Any, ...]  # a shape; sizes may be a framework's symbols, or None where unknown

# The axes of every tensor; a gradient, named as what it's of after `d_`, has those of what it's of.
# B, T, D and U are the sizes; the others are made of these and the spec in `_sizes`.
_AXES = {
    "x": ("B", "T", "D"),
    "h": ("B", "U"),
    "c": ("B", "U"),
    "kernel": ("D", "gates U"),
    "recurrent_kernel": ("U", "gates U"),
    "bias": ("bias rows", "gates U"),
    "mask": ("B", "T"),
    "input_masks": ("input masks", "B", "D"),
    "recurrent_masks": ("recurrent masks", "B", "U"),
    "ys": ("B", "T", "U of ys"),
    "saved": ("T + 1", "B", "saved"),
}
# Which of them is the batch; the weights have none.
BATCH_AXES = {name: axes.index("B") for name, axes in _AXES.items() if "B" in axes}


def _operands(operation: str, spec: RunSpec) -> Names:
    """The names of what a run reads, in order."""
    states = ("h", "c")[: spec.cell.states]
    weights = ("kernel", "recurrent_kernel")
    counts = (spec.has_mask, spec.input_masks, spec.recurrent_masks)
    names = ("mask", "input_masks", "recurrent_masks")
    masks = tuple(name for name, count in zip(names, counts, strict=True) if count)
    if operation == "forward":
        return ("x", *states, *weights, *("bias",) * bool(spec.has_bias), *masks)
    gradients = (*("ys",) * spec.owns_ys, *states)
    return ("x", *weights, *masks, "saved", *(f"d_{name}" for name in gradients))


def _results(operation: str, spec: RunSpec) -> Names:
    """The names of what a run writes, in order."""
    states = ("h", "c")[: spec.cell.states]
    if operation == "forward":
        return (*("ys",) * spec.owns_ys, *states, *("saved",) * bool(spec.training))
    of = (*("x",) * bool(spec.wants_dx), *states, "kernel", "recurrent_kernel")
    return tuple(f"d_{name}" for name in (*of, *("bias",) * bool(spec.has_bias)))


def _sizes(spec: RunSpec, B: Any, T: Any, D: Any, U: Any) -> dict[str, Any]:  # noqa: N803
    """What `_AXES` speaks of. Only sums, products and whole quotients: symbols have no others."""
    cell, unknown = spec.cell, U is None
    return {
        "B": B,
        "T": T,
        "D": D,
        "U": U,
        "gates U": None if unknown else cell.gates * U,
        "bias rows": cell.bias_rows,
        "input masks": spec.input_masks,
        "recurrent masks": spec.recurrent_masks,
        "U of ys": None if unknown else U + spec.ys_after,
        "T + 1": None if T is None else T + 1,
        "saved": None if unknown else cell.saved_columns * ((U + 15) // 16 * 16),
    }


@dataclass(frozen=True)
class Signature:
    """One operation on some runs.

    Attributes:
        operation: "forward" or "backward".
        specs: The runs.
    """

    operation: str
    specs: tuple[RunSpec, ...]

    @cached_property
    def flat(self) -> tuple[int, ...]:
        """The integers that the core takes for the runs."""
        return native.encode(self.specs)

    @cached_property
    def operands(self) -> tuple[Names, ...]:
        """The names of each run's inputs."""
        return tuple(_operands(self.operation, spec) for spec in self.specs)

    @cached_property
    def results(self) -> tuple[Names, ...]:
        """The names of each run's outputs."""
        return tuple(_results(self.operation, spec) for spec in self.specs)

    @cached_property
    def n_operands(self) -> int:
        """How many inputs all runs have."""
        return sum(map(len, self.operands))

    @cached_property
    def n_results(self) -> int:
        """How many outputs all runs have."""
        return sum(map(len, self.results))

    @cached_property
    def saved(self) -> tuple[int, ...]:
        """The places of the outputs that are there for `backward`: one a run that trains."""
        names = [name for run in self.results for name in run]
        return tuple(place for place, name in enumerate(names) if name == "saved")

    @cached_property
    def shown(self) -> tuple[int, ...]:
        """The places of the other outputs."""
        return tuple(place for place in range(self.n_results) if place not in self.saved)

    @cached_property
    def anchors(self) -> tuple[tuple[int, int], ...]:
        """Where in the inputs each run's x and recurrent_kernel are: they have all sizes."""
        anchors, first = [], 0
        for names in self.operands:
            anchors.append((first, first + names.index("recurrent_kernel")))
            first += len(names)
        return tuple(anchors)

    def shapes(self, inputs: Sequence[Any]) -> list[list[Sizes]]:
        """The shapes of each run's outputs, given tensors for inputs."""
        if len(inputs) != self.n_operands:
            expected = "; ".join(", ".join(run) for run in self.operands)
            raise ValueError(
                f"[ostinato::{self.operation}] expected {self.n_operands} inputs ({expected}), "
                f"got {len(inputs)}."
            )
        shapes = []
        runs = zip(self.specs, self.results, self.anchors, strict=True)
        for spec, names, (x_at, recurrent_at) in runs:
            x, recurrent = inputs[x_at].shape, inputs[recurrent_at].shape
            if len(x) != 3 or len(recurrent) != 2:
                raise ValueError(
                    f"[ostinato::{self.operation}] expected x (batch, time, features) and "
                    f"recurrent_kernel (units, gates x units), got {tuple(x)} and "
                    f"{tuple(recurrent)}."
                )
            sizes = _sizes(spec, x[0], x[1], x[2], recurrent[0])
            shapes.append([_shape(name, sizes) for name in names])
        return shapes


def _shape(name: str, sizes: dict[str, Any]) -> Sizes:
    axes = _AXES[name.removeprefix("d_")]
    if axes[0] == "bias rows" and sizes["bias rows"] == 1:
        axes = axes[1:]
    return tuple(sizes[axis] for axis in axes)


@lru_cache(maxsize=512)
def signature(operation: str, specs: tuple[RunSpec, ...]) -> Signature:
    """Of "forward" or "backward", on these runs."""
    return Signature(operation, specs)


@lru_cache(maxsize=512)
def signature_of(operation: str, flat: tuple[int, ...]) -> Signature:
    """Of "forward" or "backward", for the integers that the core takes as spec."""
    size = len(FIELDS)
    if not flat or len(flat) % size:
        raise ValueError(
            f"[ostinato::{operation}] expected {size} integers for each run as spec, "
            f"got {len(flat)}."
        )
    runs = (flat[start : start + size] for start in range(0, len(flat), size))
    return signature(operation, tuple(RunSpec(*run) for run in runs))


# Gradients.


@dataclass(frozen=True)
class Pullback:
    """How the gradients of a `forward` that trains go back.

    Attributes:
        backward: The operation to call.
        kept: What it reads of forward's: places in forward's inputs followed by what it saved.
        operands: Its inputs: places in the tensors of `kept` followed by the gradients of what
            forward shows.
        gradients: Of each input of forward, where its gradient is in backward's outputs; None where
            it has none, as masks.
    """

    backward: Signature
    kept: tuple[int, ...]
    operands: tuple[int, ...]
    gradients: tuple[int | None, ...]


@lru_cache(maxsize=512)
def pullback(specs: tuple[RunSpec, ...], wants_dx: tuple[bool, ...]) -> Pullback:
    """That of `forward` on these runs. What is kept doesn't depend on whose dx is wanted."""
    forward = signature("forward", tuple(replace(spec, training=1) for spec in specs))
    pairs = zip(forward.specs, wants_dx, strict=True)
    backward = signature(
        "backward", tuple(replace(spec, wants_dx=int(wanted)) for spec, wanted in pairs)
    )
    inputs, outputs = _numbered(forward.operands), _numbered(forward.results)
    pulled = _numbered(backward.results)
    reads = [(run, name) for run, names in enumerate(backward.operands) for name in names]
    kept = [key for key in reads if not key[1].startswith("d_")]
    known = [*inputs, *(key for key in outputs if key[1] == "saved")]
    shown = [(run, f"d_{name}") for run, name in outputs if name != "saved"]
    places = {key: place for place, key in enumerate([*kept, *shown])}
    return Pullback(
        backward,
        tuple(known.index(key) for key in kept),
        tuple(places[key] for key in reads),
        tuple(pulled.get((run, f"d_{name}")) for run, name in inputs),
    )


def _numbered(runs: Sequence[Names]) -> dict[tuple[int, str], int]:
    """The places of all runs' tensors, by the run's number and the tensor's name."""
    keys = [(run, name) for run, names in enumerate(runs) for name in names]
    return {key: place for place, key in enumerate(keys)}


def folds(specs: Sequence[RunSpec], operands: Sequence[Names], mapped: Sequence[bool]) -> bool:
    """Whether an axis that vmap maps can become a part of the batch; else it takes a loop.

    What is saved can't be split, and the rows of a batch share their weights, and the gradients of
    those. `mapped` says of each operand whether it has the axis.
    """
    names = [name for run in operands for name in run]
    weights = [flag for name, flag in zip(names, mapped, strict=True) if name not in BATCH_AXES]
    return not any(weights) and not any(spec.training for spec in specs)
