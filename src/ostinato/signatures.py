"""The native engine's two operations as data: what they take and give, and where gradients go.

A door passes tensors by it, and needs to know none of their names, nor whether a cell is built in
(`ostinato.runs`) or one's own (`ostinato.routines`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Protocol

from ostinato import native, routines, runs
from ostinato.native import FIELDS, RunSpec
from ostinato.routines import RoutineLayout, RoutineSpec, spec_of
from ostinato.runs import Names, RunLayout, Sizes

Spec = RunSpec | RoutineSpec

_BATCH_AXES = {**runs.BATCH_AXES, **routines.BATCH_AXES}


def batch_axis(name: str) -> int | None:
    """Which axis of a tensor is the batch; None of weights and their gradients, which have none."""
    return _BATCH_AXES.get(name.removeprefix("d_").rstrip("0123456789"))


class Layout(Protocol):
    """What one run takes and gives in an operation."""

    @property
    def operands(self) -> Names:
        """The names of what it reads, in order."""

    @property
    def results(self) -> Names:
        """The names of what it writes, in order."""

    @property
    def inputs(self) -> Names:
        """The operands whose gradients `wants_dx` is about."""

    @property
    def anchors(self) -> Names:
        """The operands that have all sizes; the first has batch and timesteps in front."""

    @property
    def differentiable(self) -> tuple[bool, ...]:
        """Of each operand of forward whether it has a gradient."""

    def shapes(self, anchors: Sequence[Sizes]) -> list[Sizes]:
        """The shapes of the results, given those of the anchors."""


def _layout(operation: str, spec: Spec) -> Layout:
    if isinstance(spec, RoutineSpec):
        return RoutineLayout(operation, spec)
    return RunLayout(operation, spec)


@dataclass(frozen=True)
class Signature:
    """One operation on some runs.

    Attributes:
        operation: "forward" or "backward".
        specs: The runs.
    """

    operation: str
    specs: tuple[Spec, ...]

    def __post_init__(self) -> None:
        if len(self.specs) > 1 and any(isinstance(spec, RoutineSpec) for spec in self.specs):
            raise ValueError(
                f"[ostinato::{self.operation}] expected one run in a call of a routine, got "
                f"{len(self.specs)}."
            )

    @cached_property
    def flat(self) -> tuple[int, ...]:
        """The integers that the core takes for the runs."""
        runs = (spec.encoded(self.operation, spec.training) for spec in self.specs)
        return tuple(chain.from_iterable(runs))

    @cached_property
    def _layouts(self) -> tuple[Layout, ...]:
        return tuple(_layout(self.operation, spec) for spec in self.specs)

    @cached_property
    def operands(self) -> tuple[Names, ...]:
        """The names of each run's inputs."""
        return tuple(layout.operands for layout in self._layouts)

    @cached_property
    def results(self) -> tuple[Names, ...]:
        """The names of each run's outputs."""
        return tuple(layout.results for layout in self._layouts)

    @cached_property
    def differentiable(self) -> tuple[bool, ...]:
        """Of each input of "forward" whether it has a gradient."""
        return tuple(flag for layout in self._layouts for flag in layout.differentiable)

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

    def _places(self, chosen: Sequence[Names]) -> tuple[tuple[int, ...], ...]:
        """Where in the inputs each run's chosen operands are."""
        places, first = [], 0
        for names, some in zip(self.operands, chosen, strict=True):
            places.append(tuple(first + names.index(name) for name in some))
            first += len(names)
        return tuple(places)

    @cached_property
    def anchors(self) -> tuple[tuple[int, ...], ...]:
        """Where in the inputs each run's are that have all sizes; the first begins (B, T)."""
        return self._places([layout.anchors for layout in self._layouts])

    def wants_dx(self, wanted: Sequence[bool]) -> tuple[bool, ...]:
        """Whether of each run's sequences a gradient is wanted, given that of every input."""
        flags = [x and y for x, y in zip(wanted, self.differentiable, strict=True)]
        runs = self._places([layout.inputs for layout in self._layouts])
        return tuple(any(flags[place] for place in places) for places in runs)

    def shapes(self, inputs: Sequence[Any]) -> list[list[Sizes]]:
        """The shapes of each run's outputs, given tensors for inputs."""
        if len(inputs) != self.n_operands:
            expected = "; ".join(", ".join(run) for run in self.operands)
            raise ValueError(
                f"[ostinato::{self.operation}] expected {self.n_operands} inputs ({expected}), "
                f"got {len(inputs)}."
            )
        pairs = zip(self._layouts, self.anchors, strict=True)
        return [layout.shapes([inputs[at].shape for at in anchors]) for layout, anchors in pairs]


@lru_cache(maxsize=512)
def signature(operation: str, specs: tuple[Spec, ...]) -> Signature:
    """Of "forward" or "backward", on these runs."""
    return Signature(operation, specs)


@lru_cache(maxsize=512)
def signature_of(operation: str, flat: tuple[int, ...]) -> Signature:
    """Of "forward" or "backward", for the integers that the core takes as spec."""
    if flat[:1] == (native.ROUTINE,):
        return signature(operation, (spec_of(operation, flat),))
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
def pullback(specs: tuple[Spec, ...], wanted: tuple[bool, ...]) -> Pullback:
    """That of `forward` on these runs, given of each input whether its gradient is wanted.

    What is kept doesn't depend on that.
    """
    forward = signature("forward", tuple(replace(spec, training=1) for spec in specs))
    pairs = zip(forward.specs, forward.wants_dx(wanted), strict=True)
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


def folds(specs: Sequence[Spec], operands: Sequence[Names], mapped: Sequence[bool]) -> bool:
    """Whether an axis that vmap maps can become a part of the batch; else it takes a loop.

    What is saved can't be split, and the rows of a batch share their weights, and the gradients of
    those. `mapped` says of each operand whether it has the axis.
    """
    names = [name for run in operands for name in run]
    pairs = zip(names, mapped, strict=True)
    weights = [flag for name, flag in pairs if batch_axis(name) is None]
    return not any(weights) and not any(spec.training for spec in specs)
