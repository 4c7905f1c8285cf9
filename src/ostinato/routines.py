"""A cell of one's own as the native engine is called with it: a spec, and where its routines are.

A *routine* is one pass over time of a cell that isn't built in, as a list of instructions that the
core runs (native/core/routine). Here is what a call of it takes and gives, and which routine stands
behind the integers that a framework's graph holds; what the instructions say is nobody's concern.

Shape letters: B batch, T timesteps. `dims` are a tensor's sizes without these.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import NamedTuple, Protocol

from ostinato import native
from ostinato.runs import Names, Sizes

Dims = tuple[int, ...]

# Of the tensors whose names, a number after them, begin so; the weights have no batch.
BATCH_AXES = {"input": 0, "state": 0, "constant": 0, "output": 0}


@dataclass(frozen=True)
class Routine:
    """A routine in the core's encoding.

    Attributes:
        ints: The tables and instructions.
        floats: The numbers that instructions speak of.
    """

    ints: tuple[int, ...]
    floats: tuple[float, ...] = ()


class Lowering(Protocol):
    """Makes the routines of a cell; each is asked for when it's first needed, and kept.

    A derivative takes tens of milliseconds to find.
    """

    def infer(self) -> Routine:
        """Gives the results alone."""

    def train(self) -> Routine:
        """Gives the results and what `backward` needs of them."""

    def saved(self) -> int:
        """How many elements a row and timestep `train` keeps."""

    def backward(self, wants_dx: bool) -> Routine:
        """Pulls gradients back; to the inputs only if `wants_dx`."""


@dataclass(frozen=True)
class Routines:
    """The routines of a cell, and what a call of them takes and gives.

    Attributes:
        key: All that they follow from, as text that is the same in every process. Where it and the
            facts below are equal, so are the routines.
        inputs: The dims of each input, a tensor (B, T, *dims).
        states: Of each state, (B, *dims).
        constants: Of each constant, (B, *dims).
        weights: Of each weight, (*dims).
        outputs: Of each output, (B, T, *dims), or (B, *dims) where only the last is wanted.
        has_mask: Whether a mask of timesteps (B, T) comes last.
        differentiable: Of each of the inputs, states, constants and weights whether it has a
            gradient.
        lowering: Makes the routines.
    """

    key: str
    inputs: tuple[Dims, ...]
    states: tuple[Dims, ...]
    constants: tuple[Dims, ...]
    weights: tuple[Dims, ...]
    outputs: tuple[Dims, ...]
    has_mask: bool
    differentiable: tuple[bool, ...]
    lowering: Lowering = field(compare=False, repr=False)
    _made: dict[tuple[str, bool], "Registered"] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        count = len(self.inputs) + len(self.states) + len(self.constants) + len(self.weights)
        if len(self.differentiable) != count:
            raise ValueError(
                f"Routines: expected differentiable to say it of {count} operands, got "
                f"{self.differentiable}."
            )
        if not self.inputs:
            raise ValueError("Routines: expected an input or more: it tells B and T.")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _facts(self) -> str:
        """All that's compared, as text."""
        facts = (field.name for field in fields(self) if field.compare)
        return repr([getattr(self, name) for name in facts])

    @cached_property
    def _hash(self) -> int:
        return hash(self._facts)

    @cached_property
    def name(self) -> str:
        """A name that no other routines have, in any process."""
        return hashlib.blake2b(self._facts.encode(), digest_size=16).hexdigest()

    @cached_property
    def _mark(self) -> tuple[float, ...]:
        """The name as numbers.

        Two cells may differ in their derivative alone (by a stop_gradient), and a graph that holds
        the hash of what is run forward has to find the right one.
        """
        return tuple(float(int(self.name[i : i + 8], 16)) for i in range(0, len(self.name), 8))

    @cached_property
    def saved(self) -> int:
        """How many elements a row and timestep are kept for `backward`."""
        return self.lowering.saved()

    @cached_property
    def carried(self) -> int:
        """How many elements a row's states have."""
        return sum(map(math.prod, self.states))

    def registered(self, operation: str, option: bool) -> "Registered":
        """A routine, known to the core.

        Args:
            operation: "forward" or "backward".
            option: Of forward, whether it trains; of backward, whether it has gradients of inputs.
        """
        made = self._made.get((operation, option))
        return self._register(operation, option) if made is None else made

    def _register(self, operation: str, option: bool) -> "Registered":
        lowering = self.lowering
        if operation == "backward":
            routine = lowering.backward(option)
        else:
            routine = lowering.train() if option else lowering.infer()
        routine = Routine(routine.ints, (*routine.floats, *self._mark))
        hashes = native.register_routine(routine.ints, routine.floats)
        made = Registered(hashes, routine, self, operation, option)
        self._made[operation, option] = _BY_HASHES[hashes] = made
        return made


class Registered(NamedTuple):
    """A routine that the core knows.

    Attributes:
        hashes: By what it's called: the upper and the lower half of its hash.
        routine: It itself.
        routines: To which it belongs.
        operation: "forward" or "backward".
        option: See `Routines.registered`.
    """

    hashes: tuple[int, int]
    routine: Routine
    routines: Routines
    operation: str
    option: bool


# All of this process.
_BY_NAME: dict[str, Routines] = {}
_BY_HASHES: dict[tuple[int, int], Registered] = {}


def hashes_of(name: str, operation: str, option: bool) -> tuple[int, int]:
    """By what a routine is called, given the name of its `Routines`.

    torch.compile is told not to look inside, and can do so with arguments that are text, which it
    takes for constants; of numbers it may make symbols.
    """
    return _BY_NAME[name].registered(operation, option).hashes


@dataclass(frozen=True)
class RoutineSpec:
    """A cell of one's own over one sequence; flags 0 or 1, as those of `native.RunSpec`.

    Attributes:
        routines: Those of the cell.
        go_backwards: Whether inputs and mask are read from the last timestep to the first.
        flip_outputs: Whether outputs are written from their last timestep to their first.
        return_sequences: Whether the outputs of every timestep are wanted.
        precision: What products by weights are computed from: OF_TENSORS, or BFLOAT16_PRODUCTS of
            float32 tensors.
        checkpoint: As that of `native.RunSpec`.
        truncate: Likewise.
        training: Whether `forward` gives what `backward` needs.
        wants_dx: Whether `backward` computes gradients of the inputs.
        name: That of the routines.
    """

    routines: Routines
    go_backwards: int
    flip_outputs: int
    return_sequences: int
    precision: int = native.OF_TENSORS
    checkpoint: int = 0
    truncate: int = 0
    training: int = 0
    wants_dx: int = 1
    name: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        name = self.routines.name
        object.__setattr__(self, "routines", _BY_NAME.setdefault(name, self.routines))
        object.__setattr__(self, "name", name)

    @property
    def results(self) -> int:
        """How many tensors `forward` gives, `saved` aside."""
        return len(self.routines.outputs) + len(self.routines.states)

    def encoded(self, operation: str, training: int) -> tuple[int, ...]:
        """The integers that the core takes for the run."""
        option = bool(training if operation == "forward" else self.wants_dx)
        high, low = hashes_of(str(self.name), operation, option)  # str: Dynamo may be lazy
        order = (self.go_backwards, self.flip_outputs, self.return_sequences)
        options = (*order, self.precision, self.checkpoint, self.truncate)
        again = (0, 0)
        if self.checkpoint and operation == "backward":
            again = hashes_of(str(self.name), "forward", True)
        return (native.ROUTINE, high, low, *[int(option) for option in options], *again)


def spec_of(operation: str, flat: Sequence[int]) -> RoutineSpec:
    """The spec of which `encoded` gave these integers."""
    if len(flat) != _INTEGERS:
        raise ValueError(
            f"[ostinato::{operation}] expected {_INTEGERS} integers as the spec of a routine, got "
            f"{len(flat)}."
        )
    found = by_hashes(flat[1], flat[2])
    if found is None or found.operation != operation:
        what = "none of this process" if found is None else f"one of {found.operation}"
        raise ValueError(
            f"[ostinato::{operation}] expected the hash of one of its routines, got that of "
            f"{what}: {flat[1]}, {flat[2]}."
        )
    option = {"training" if operation == "forward" else "wants_dx": int(found.option)}
    return RoutineSpec(found.routines, *flat[3:-2], **option)


_INTEGERS = 11


def by_hashes(high: int, low: int) -> Registered | None:
    """The routine with a hash.

    A graph from a cache of compiled ones may ask for one that this process hasn't needed so far.
    """
    if (high, low) not in _BY_HASHES:
        for routines in tuple(_BY_NAME.values()):
            for operation in ("forward", "backward"):
                for option in (False, True):
                    routines.registered(operation, option)
    return _BY_HASHES.get((high, low))


# What a call takes and gives.


@dataclass(frozen=True)
class RoutineLayout:
    """One run in one operation; see `ostinato.signatures.Layout`."""

    operation: str
    spec: RoutineSpec

    anchors = ("input0",)

    @cached_property
    def inputs(self) -> Names:
        """The names of the inputs."""
        return _numbered("input", self.spec.routines.inputs)

    @cached_property
    def _states(self) -> Names:
        return _numbered("state", self.spec.routines.states)

    @cached_property
    def _outputs(self) -> Names:
        return _numbered("output", self.spec.routines.outputs)

    @cached_property
    def _others(self) -> Names:
        routines = self.spec.routines
        return _numbered("constant", routines.constants) + _numbered("weight", routines.weights)

    @cached_property
    def operands(self) -> Names:
        """The names of what the run reads, in order."""
        mask = ("mask",) * bool(self.spec.routines.has_mask)
        if self.operation == "forward":
            return (*self.inputs, *self._states, *self._others, *mask)
        gradients = (f"d_{name}" for name in (*self._outputs, *self._states))
        # What is run once more takes what it took.
        again = self._states if self.spec.checkpoint else ()
        return (*self.inputs, *again, *self._others, *mask, "saved", *gradients)

    @cached_property
    def results(self) -> Names:
        """The names of what the run writes, in order."""
        if self.operation == "forward":
            return (*self._outputs, *self._states, *("saved",) * bool(self.spec.training))
        names = (*self.inputs, *self._states, *self._others)
        pairs = zip(names, self.spec.routines.differentiable, strict=True)
        skipped = () if self.spec.wants_dx else self.inputs
        return tuple(f"d_{name}" for name, has_one in pairs if has_one and name not in skipped)

    @cached_property
    def differentiable(self) -> tuple[bool, ...]:
        """Of each operand of forward whether it has a gradient."""
        routines = self.spec.routines
        return (*routines.differentiable, *(False,) * bool(routines.has_mask))

    @cached_property
    def _forms(self) -> tuple[tuple[int, Dims], ...]:
        """Of each result but `saved` how many axes of (B, T) it has, and its dims."""
        routines = self.spec.routines
        in_time = 2 if self.spec.return_sequences else 1
        kinds = (
            ("input", 2, routines.inputs),
            ("state", 1, routines.states),
            ("constant", 1, routines.constants),
            ("weight", 0, routines.weights),
            ("output", in_time, routines.outputs),
        )
        forms = {
            name: (count, dims)
            for kind, count, all_dims in kinds
            for name, dims in zip(_numbered(kind, all_dims), all_dims, strict=True)
        }
        names = (name.removeprefix("d_") for name in self.results)
        return tuple(forms[name] for name in names if name != "saved")

    def shapes(self, anchors: Sequence[Sizes]) -> list[Sizes]:
        """The shapes of the results, given that of the first input."""
        (x,) = anchors
        routines = self.spec.routines
        if len(x) != 2 + len(routines.inputs[0]):
            sizes = "".join(f", {size}" for size in routines.inputs[0])
            raise ValueError(
                f"[ostinato::{self.operation}] expected input0 (batch, time{sizes}), got "
                f"{tuple(x)}."
            )
        B, T = x[0], x[1]  # noqa: N806
        front: tuple[Sizes, ...] = ((), (B,), (B, T))
        shapes = [front[count] + dims for count, dims in self._forms]
        if "saved" in self.results:
            every = self.spec.checkpoint
            times = None if T is None else (T + every - 1) // every if every else T + 1
            shapes.append((times, B, routines.carried if every else routines.saved))
        return shapes


def _numbered(kind: str, dims: Sequence[Dims]) -> Names:
    return tuple(f"{kind}{number}" for number in range(len(dims)))
