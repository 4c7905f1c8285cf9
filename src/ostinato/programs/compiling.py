"""Cells made into programs, once for each kind of call: what's found is kept with the cell."""

import itertools
import warnings
import weakref
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import keras
from keras import ops, tree

from ostinato import native
from ostinato.cells.checked import held_masks
from ostinato.cells.checks import name_of
from ostinato.doors import door, remembered
from ostinato.native import NO_RESETS, TO_FRESH_STATES
from ostinato.programs.canonical import canonical
from ostinato.programs.cost import core_ns, loop_ns
from ostinato.programs.evaluation import evaluate, evaluate_nodes
from ostinato.programs.graph import Program
from ostinato.programs.masking import Masked, masked
from ostinato.programs.node import CONSTANT, INPUT, STATE, WEIGHT, ProgramError, Shape
from ostinato.programs.proving import Nests, disproved
from ostinato.programs.resetting import resetting
from ostinato.programs.routine import ProgramRoutines
from ostinato.programs.settings import TooMuchError, changed, settings
from ostinato.programs.showing import shown
from ostinato.programs.tracing import Like, Traced, Untraceable, trace
from ostinato.routines import Routines, RoutineSpec
from ostinato.structure import Structure, leaves, map_leaves
from ostinato.tensors import Tensor, Tensors, size_of, to_dtype

_COUNT = itertools.count()


class Compiled:
    """A cell's program, made ready to run. Equal to nothing but itself.

    Attributes:
        traced: The program, and how its weights are made.
        name: Under which `named` finds it.
        output_dtypes: The dtype that the cell itself gives each output in.
    """

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.name = f"program_{next(_COUNT)}"
        self.output_dtypes = traced.output_dtypes
        self._prepared = canonical(traced.program)
        # Which weight each is, where they are all as they come.
        made = [self._prepared.nodes[root] for root in self._prepared.weights]
        as_they_come = all(node.operation == WEIGHT for node in made)
        self._chosen = [node.attributes[0] for node in made] if as_they_come else None
        self._routines: dict[tuple[bool, bool, int], tuple[Routines, int]] = {}
        self._specs: dict[tuple[int, ...], tuple[RoutineSpec, int]] = {}

    @property
    def program(self) -> Program:
        """The program in the form that is run."""
        return self._prepared.program

    def spec(
        self, resets: int, has_mask: bool, zero_output: bool, *order: bool
    ) -> tuple[RoutineSpec, int]:
        """A run over time in the core's terms, and how many states it has beside the cell's.

        Args:
            resets: What states become where a row begins anew, if any does: see `Question`.
            has_mask: Whether there's a mask of timesteps.
            zero_output: Whether the outputs of masked ones are zero.
            *order: Whether it goes backwards, flips its outputs, and returns sequences.
        """
        key = (resets, has_mask, zero_output, *order)
        if key not in self._specs:
            routines, held = self.routines(has_mask, zero_output, resets)
            self._specs[key] = RoutineSpec(routines, *map(int, order)), held
        return self._specs[key]

    def routines(
        self, has_mask: bool, zero_output: bool, resets: int = NO_RESETS
    ) -> tuple[Routines, int]:
        """The program's routines, and how many states they have beside the cell's."""
        key = (has_mask, zero_output and has_mask, resets)
        if key not in self._routines:
            self._routines[key] = self._made(*key)
        return self._routines[key]

    def _made(self, has_mask: bool, zero_output: bool, resets: int) -> tuple[Routines, int]:
        made: Program | Masked = masked(self.program, zero_output) if has_mask else self.program
        held = made.held if isinstance(made, Masked) else 0
        if resets != NO_RESETS:
            fresh = len(self.program.state_shapes) if resets == TO_FRESH_STATES else 0
            made = resetting(made, fresh)
        lowering = ProgramRoutines(made)
        step = lowering.program
        kinds = (
            (INPUT, step.input_shapes),
            (STATE, step.state_shapes),
            (CONSTANT, step.constant_shapes),
            (WEIGHT, step.weight_shapes),
        )
        differentiable = tuple(
            (kind, number) not in step.fixed
            for kind, shapes in kinds
            for number in range(len(shapes))
        )
        routines = Routines(
            key=repr((step, lowering.idle)),
            inputs=step.input_shapes,
            states=step.state_shapes,
            constants=step.constant_shapes,
            weights=step.weight_shapes,
            outputs=step.output_shapes,
            has_mask=has_mask,
            differentiable=differentiable,
            lowering=lowering,
        )
        return routines, held

    def operands(
        self,
        cell: Any,
        xs: Tensors,
        states: Tensors,
        constants: Sequence[Tensor] | None,
        go_backwards: bool = False,
        begins: Tensors = (),
        fresh: Tensors = (),
    ) -> Tensors:
        """What the routines take, but for the mask: random numbers and weights as they are now.

        Args:
            cell: The cell.
            xs: The cell's inputs, each (B, T, ...).
            states: Its initial states and those of held outputs, each (B, ...).
            constants: The constants that the layer was called with, or None.
            go_backwards: Whether the run is from the last timestep to the first.
            begins: Where rows begin anew, a number (B, T), if any does.
            fresh: The states that they begin with, each (B, ...), if those aren't all zeros.
        """
        weights, made = self.traced.prepare(cell, constants)
        drawn: Tensors = ()
        if self.traced.draws:
            sizes = size_of(xs[0], 0), size_of(xs[0], 1)
            drawn = self.traced.draw(cell, *sizes, go_backwards)
        rows = (*xs, *drawn, *begins, *states, *made, *fresh)
        if self._chosen is not None:
            return (*rows, *(weights[number] for number in self._chosen))
        nodes, roots = self._prepared.nodes, self._prepared.weights
        values = evaluate_nodes(nodes, roots, {WEIGHT: weights})
        return (*rows, *(values[root] for root in roots))

    @cached_property
    def _instructions(self) -> int:
        """Of a timestep's inference; lowered for it once, not for each size of batch."""
        return len(ProgramRoutines(self.program).shown("infer"))

    def step_ns(self, rows: int, trains: bool) -> tuple[float, float]:
        """Nanoseconds of a timestep of so many rows: here, and in a loop that is compiled."""
        ours = core_ns(self.program, self._instructions, rows, trains)
        return ours, loop_ns(self.program, rows, trains)

    def __str__(self) -> str:
        return shown(self.program, ProgramRoutines(self.program).kept)

    def why_wrong(self, cell: Any, nests: Nests, training: bool, dtype: str) -> str | None:
        """What the program gets wrong beside the cell itself, or None."""

        def step(xs: Tensors, states: Tensors, constants: Tensors) -> Tensors:
            sequences = tuple(ops.expand_dims(x, 1) for x in xs)
            taken = None if nests[2] is None else constants
            x, h = tree.pack_sequence_as(nests[0], xs), tree.pack_sequence_as(nests[1], states)
            with held_masks(cell, x, h):
                operands = self.operands(cell, sequences, states, taken)
            fitting = tuple(to_dtype(tensor, run_dtype(dtype)) for tensor in operands)
            if native.why_not() or door.native_why_not(fitting[0]):  # for a GPU's kernels
                return self._plain((), fitting)
            spec, _ = self.spec(NO_RESETS, False, False, False, False, False)
            results: Tensors = door.native_run((spec,), fitting, self._plain)
            return results

        return disproved(cell, nests, training, step, dtype)

    def _plain(self, specs: Any, operands: Tensors) -> Tensors:
        """What a run of one timestep gives, of which only the last output is wanted."""
        program, rest = self.program, iter(operands)
        sides = (program.input_shapes, program.state_shapes, program.constant_shapes)
        xs, states, constants = (tuple(islice(rest, len(shapes))) for shapes in sides)
        outputs, new = evaluate(program, tuple(x[:, 0] for x in xs), states, constants, tuple(rest))
        return (*outputs, *new)


class _Named:
    """Programs by their names, as attributes: torch.compile guards the one alone that it reads."""


_NAMED = _Named()


def named(name: str) -> Compiled:
    """The program of a name."""
    found: Compiled = getattr(_NAMED, name)
    return found


def _forget(number: int) -> None:
    for found in _KEPT.pop(number, {}).values():
        if isinstance(found, Compiled):
            delattr(_NAMED, found.name)


# So many programs, or reasons for none, are kept of a cell: for shapes, dtypes, settings.
_MOST = 64
_TOO_MUCH = "too much"  # of a cell whose settings can't be told, which isn't tried anew
# By the cell's id: cells may be neither hashable nor comparable.
_KEPT: dict[int, dict[Any, Compiled | str]] = {}


def compiled(
    cell: Any,
    xs: Structure,
    states: Structure,
    constants: Sequence[str] | None,
    training: bool,
    dtype: str,
) -> Compiled | str:
    """A cell's program for a kind of call, or why it has none.

    Args:
        cell: The cell, built.
        xs: Its inputs of a timestep: a nest of what `described` says of them.
        states: Likewise its states.
        constants: Likewise the constants, or None.
        training: Whether dropout is applied.
        dtype: What the cell computes in.
    """
    kept = _kept_with(cell)
    if _TOO_MUCH in kept:
        return kept[_TOO_MUCH]
    try:
        return _compiled(cell, kept, xs, states, constants, training, dtype)
    except TooMuchError as refusal:
        return kept.setdefault(_TOO_MUCH, str(refusal))


def _compiled(
    cell: Any,
    kept: dict[Any, Compiled | str],
    xs: Structure,
    states: Structure,
    constants: Sequence[str] | None,
    training: bool,
    dtype: str,
) -> Compiled | str:
    told = (_told(xs), _told(states), None if constants is None else tuple(constants))
    key = (told, training, dtype, settings(cell))
    if key not in kept and len(kept) >= _MOST:
        return "its attributes change from call to call, and a program may have any of them in it"
    if key not in kept:
        given = None if constants is None else [_like(constant) for constant in constants]
        nests = (map_leaves(_like, xs), map_leaves(_like, states), given)
        found = _made(cell, nests, training, dtype)
        after = settings(cell)
        if after != key[-1]:
            found = f"its call changes {changed(key[-1], after)}, which a program would not"
        kept[key] = found
        if isinstance(found, Compiled):
            setattr(_NAMED, found.name, found)
    return kept[key]


def last_found(cell: Any) -> Compiled | str | None:
    """A cell's program for the last new kind of call, or why it has none; None before any call."""
    found = list(_KEPT.get(id(cell), {}).values())
    return found[-1] if found else None


# Digests of what is proven, by the class of the cell that it was proven beside. A proof takes up to
# a second on JAX, and holds for each cell of that class, with parts of the same classes, that has
# the same program, made of the same weights in the same way.
_PROVEN: weakref.WeakKeyDictionary[type, set[str]] = weakref.WeakKeyDictionary()


def _made(cell: Any, nests: Nests, training: bool, dtype: str) -> Compiled | str:
    """A program that is proven, or why there's none."""
    proven = _PROVEN.setdefault(type(cell), set())
    try:
        made = Compiled(trace(cell, *nests, training))
        digest = made.traced.digest(cell)
        wrong = None if digest in proven else made.why_wrong(cell, nests, training, dtype)
    except (Untraceable, ProgramError) as refusal:
        return str(refusal)
    except Exception as error:  # noqa: BLE001 - a fault of ours stops no cell
        wrong = f"making it fails with {type(error).__name__}: {error}"
    if wrong is None:
        proven.add(digest)
        return made
    message = f"its program isn't what the cell computes: {wrong}; this is a fault of Ostinato's"
    warnings.warn(f"{name_of(cell)} isn't compiled: {message}.", stacklevel=2)
    return message


def run_dtype(dtype: str) -> str:
    """What a cell that computes in a dtype is run in: the core has no other floats."""
    return dtype if dtype == "float64" else "float32"


def described(tensor: Any, axes: int) -> str:
    """What tracing has to know of a tensor whose first axes aren't the cell's: dtype and sizes.

    As text, which torch.compile takes for a constant.
    """
    return _described(tuple(tensor.shape[axes:]), tensor.dtype)


@remembered
def _described(shape: Shape, dtype: Any) -> str:
    sizes = " ".join([str(size) for size in shape])
    return f"{keras.backend.standardize_dtype(dtype)} {sizes}"


def _like(description: str) -> Like:
    """The same, taken apart."""
    dtype, *sizes = description.split()
    return Like(tuple(map(int, sizes)), dtype)


def _kept_with(cell: Any) -> dict[Any, Compiled | str]:
    if id(cell) not in _KEPT:
        _KEPT[id(cell)] = {}
        weakref.finalize(cell, _forget, id(cell))
    return _KEPT[id(cell)]


def _told(nest: Structure) -> Any:
    """A nest of texts as a key; most are one text, or a list."""
    if isinstance(nest, str):
        return nest
    if type(nest) in (list, tuple) and all(isinstance(item, str) for item in nest):
        return (type(nest), *nest)
    return tuple(leaves(nest)), repr(map_leaves(lambda item: 0, nest))


def shapes_are_known(shapes: Sequence[Shape]) -> bool:
    """Whether no size is unknown."""
    return all(size is not None for shape in shapes for size in shape)
