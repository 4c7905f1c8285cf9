"""A step's way there and back: two steps in units, and what their kernels take and give.

What training keeps are the states before each timestep, the products and the reductions; all else
is computed again. The way back puts down gradients of single timesteps; what is summed over time
for a weight, the framework computes of these afterwards (`Passes.roots`): products of weights'
gradients above all, which are one large product each then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ostinato.cuda.units import (
    CARRY,
    FLAGS,
    OUTPUTS,
    ROWS,
    STEPS,
    VECTOR,
    Lane,
    Located,
    Made,
    Offset,
    Source,
    Step,
    Steps,
    Write,
    offsets_of,
)
from ostinato.programs.derivative import derivative
from ostinato.programs.graph import Program
from ostinato.programs.masking import masked
from ostinato.programs.node import (
    CONSTANT,
    D_OUTPUT,
    D_STATE,
    INPUT,
    MASK,
    STATE,
    WEIGHT,
    Node,
    ProgramError,
    Value,
)
from ostinato.programs.resetting import begun_anew
from ostinato.programs.truncating import truncating

# What a kernel takes and gives beside the leaves' kinds.
KEPT, WRITTEN = "kept", "written"
# The values that are kept: what others are made of, or other units are met for.
_KEPT = (STATE, "product", "sum", "amax")
# So many scalars of a unit are still kept in registers.
MOST_CARRIED = 16
# A state so many times as large as another has so many elements a unit; else that has fewer units.
_MOST_OF_A_UNIT = 4


class Operand(NamedTuple):
    """What a kernel takes or gives.

    Attributes:
        kind: A kind of leaves, KEPT (one scalar of each unit) or WRITTEN.
        number: Which of it.
    """

    kind: str
    number: int


@dataclass(frozen=True)
class Pass:
    """One kernel.

    Attributes:
        step: What it does at a timestep.
        takes: What it takes, in order.
        gives: What it gives, in order.
        reverse: Whether it goes from the last timestep to the first.
        widths: The elements of each state.
    """

    step: Step
    takes: tuple[Operand, ...]
    gives: tuple[Operand, ...]
    reverse: bool
    widths: tuple[int, ...]


class Passes:
    """The passes of a step that is apart; each is made when it's first asked for.

    Attributes:
        program: The step, under the mask if there's one. Where its gradients are truncated, and
            where rows begin anew, an input more tells of each: what the next timestep begins.
        held: How many states it has beside the cell's: outputs that masked timesteps repeat.
        units: So many elements of a state are on as many units: the most that fits all states.
    """

    def __init__(
        self,
        step: Program,
        has_mask: bool,
        zero_output: bool,
        fresh: int | None = None,
        truncates: bool = False,
    ) -> None:
        """Puts a step together.

        Args:
            step: The step.
            has_mask: Whether there's a mask of timesteps.
            zero_output: Whether masked outputs are zero.
            fresh: How many of its states, the first, have fresh ones, so many constants more, where
                rows begin anew, and the others zeros; None where no row does.
            truncates: Whether its gradients are truncated.
        """
        self.program, self.held, self.has_mask = step, 0, has_mask
        if has_mask:
            under_mask = masked(step, zero_output)
            self.program, self.held = under_mask.step, under_mask.held
        if truncates:
            self.program = truncating(self.program)
        if fresh is not None:  # after that: fresh states' gradients are whole
            self.program = begun_anew(self.program, fresh)
        self.widths = widths = tuple(map(self._state_width, self.program.state_shapes))
        self.units = self._units_of(widths[: len(step.state_shapes)])
        if sum(len(offsets_of(width, self.units)) for width in widths) > MOST_CARRIED:
            raise ProgramError(
                f"its states have {widths} elements, more than {MOST_CARRIED} for each unit"
            )

    @staticmethod
    def _units_of(widths: Sequence[int]) -> int:
        """The smallest if others are few times that, or else the largest, which some units lack."""
        smallest, largest = min(widths), max(widths)
        fits = all(width % smallest == 0 for width in widths)
        return smallest if fits and largest <= _MOST_OF_A_UNIT * smallest else largest

    @staticmethod
    def _state_width(shape: tuple[int, ...]) -> int:
        if len(shape) != 1 or shape[0] < 1:
            raise ProgramError(f"one of its states is {shape} for each row, not a row of units")
        return shape[0]

    @cached_property
    def infer(self) -> Pass:
        """The way there, of which nothing is kept."""
        return self._forward(())

    @cached_property
    def train(self) -> Pass:
        """The way there, which keeps what the way back reads."""
        return self._forward(self.kept)

    @cached_property
    def backward(self) -> Pass:
        """The way back."""
        return self._back[0]

    @property
    def kept(self) -> tuple[Lane, ...]:
        """What training keeps: scalars of values, U elements a row and timestep each."""
        return self._back[1]

    @property
    def written(self) -> tuple[Value, ...]:
        """The values that the way back puts down."""
        return self._back[2]

    # The way there.

    def _leaves(self, with_states: bool) -> list[Operand]:
        program = self.program
        sides = [(INPUT, program.input_shapes), (CONSTANT, program.constant_shapes)]
        if with_states:
            sides.append((STATE, program.state_shapes))
        sides.append((WEIGHT, program.weight_shapes))
        found = [Operand(kind, i) for kind, shapes in sides for i in range(len(shapes))]
        return [*found, Operand(MASK, 0)] if self.has_mask else found

    def _forward(self, kept: Sequence[Lane]) -> Pass:
        program, takes = self.program, self._leaves(with_states=True)
        steps = Steps(program.nodes, self.units, _leaf_reader(program.nodes, takes))
        for value in program.roots:
            steps.want(value)
        for value, offset in kept:
            steps.want_lane(value, offset)
        made = steps.made()
        gives = [Operand(D_OUTPUT, i) for i in range(len(program.outputs))]
        writes = [
            Write(made.names[lane], Source(OUTPUTS, number, self._width(value), lane[1]))
            for number, value in enumerate(program.outputs)
            for lane in steps.want(value)
        ]
        first = len(gives)
        gives += [Operand(STATE, i) for i in range(len(program.states))]
        last = len(gives)
        gives += [Operand(KEPT, i) for i in range(len(kept))]
        writes += [
            Write(made.names[lane], Source(STEPS, last + i, self.units, 0))
            for i, lane in enumerate(kept)
        ]
        assert first == len(program.outputs)
        carries = [made.names[lane] for value in program.states for lane in steps.want(value)]
        step = _step(self.units, made, carries, writes)
        return Pass(step, tuple(takes), tuple(gives), False, self.widths)

    def _width(self, value: Value) -> int:
        return max(self.program.nodes[value].shape, default=1)

    # The way back.

    @cached_property
    def _derivative(self) -> "_Derived":
        found = derivative(self.program)
        return _Derived(found.nodes, found.inputs, found.states, found.constants, found.weights)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The graph of the gradients."""
        return self._derivative.nodes

    @property
    def roots(self) -> tuple[tuple[str, int, Value], ...]:
        """The gradients beside the states': of which leaf each is. Of inputs one a timestep."""
        found = self._derivative
        sides = ((INPUT, found.inputs), (CONSTANT, found.constants), (WEIGHT, found.weights))
        return tuple(
            (kind, number, value)
            for kind, values in sides
            for number, value in enumerate(values)
            if value is not None and (kind, number) not in self.program.fixed
        )

    @cached_property
    def _back(self) -> tuple[Pass, tuple[Lane, ...], tuple[Value, ...]]:
        found, program = self._derivative, self.program
        takes = self._leaves(with_states=False)
        takes += [Operand(D_OUTPUT, i) for i in range(len(program.outputs))]
        takes += [Operand(D_STATE, i) for i in range(len(program.states))]
        kept: dict[Lane, int] = {}
        leaf = _leaf_reader(found.nodes, takes)
        count = len(takes)

        def located(value: Value, offset: Offset) -> Source | None:
            node = found.nodes[value]
            if value < len(program.nodes) and node.operation in _KEPT:
                number = kept.setdefault((value, offset), len(kept))
                return Source(STEPS, count + number, self.units, 0)
            return leaf(value, offset)

        steps = Steps(found.nodes, self.units, located)
        for value in found.states:
            if value is not None:
                steps.want(value)
        written = self._put_down(steps, located)
        made = steps.made()
        carries = []
        for value, width in zip(found.states, self.widths, strict=True):
            lanes = None if value is None else [made.names[lane] for lane in steps.want(value)]
            carries += lanes or [made.zero()] * len(offsets_of(width, self.units))
        gives = [Operand(D_STATE, i) for i in range(len(program.states))]
        writes = []
        for value in written:
            width = max(found.nodes[value].shape, default=1)
            writes += [
                Write(made.names[lane], Source(STEPS, len(gives), width, lane[1]))
                for lane in steps.want(value)
            ]
            gives.append(Operand(WRITTEN, len(gives) - len(program.states)))
        takes += [Operand(KEPT, i) for i in range(len(kept))]
        step = _step(self.units, made, carries, writes)
        there = Pass(step, tuple(takes), tuple(gives), True, self.widths)
        return there, tuple(kept), tuple(written)

    def _put_down(self, steps: Steps, located: Located) -> list[Value]:
        """Of the timesteps' values those that nobody has, which the kernel computes."""
        written = []
        for value in self.timestep_values:
            node = self.nodes[value]
            if node.operation in (INPUT, CONSTANT):
                continue
            lanes = steps.want(value)
            if value < len(self.program.nodes) and node.operation in _KEPT:
                for lane in lanes:
                    located(*lane)  # kept by the way there
            else:
                written.append(value)
        return written

    @cached_property
    def timestep_values(self) -> tuple[Value, ...]:
        """The values of single timesteps that the gradients are made of afterwards."""
        nodes = self.nodes
        found: dict[Value, None] = {}
        waiting = [value for _, _, value in self.roots]
        while waiting:
            value = waiting.pop()
            node = nodes[value]
            if node.has_rows and not is_after(nodes, value, self.units):
                found[value] = None
            else:
                waiting += node.arguments
        return tuple(sorted(found))


class _Derived(NamedTuple):
    nodes: tuple[Node, ...]
    inputs: tuple[Value | None, ...]
    states: tuple[Value | None, ...]
    constants: tuple[Value | None, ...]
    weights: tuple[Value | None, ...]


def is_after(nodes: Sequence[Node], value: Value, units: int) -> bool:
    """Whether a value with rows is computed after the way back, since it goes across the units."""
    node = nodes[value]
    if node.operation in ("sum", "amax"):
        return True
    if node.operation in ("reshape", "broadcast"):  # a sum in another shape
        return is_after(nodes, node.arguments[0], units)
    if node.operation != "assemble":
        return False
    widths = (max(nodes[part].shape, default=1) for part in node.arguments)
    places = zip(node.attributes[1], widths, strict=True)
    return any(start[0] % units or width % units for (start, _), width in places)


def _leaf_reader(nodes: Sequence[Node], takes: Sequence[Operand]) -> Located:
    """Where the leaves are that a kernel takes."""
    at = {(operand.kind, operand.number): place for place, operand in enumerate(takes)}
    kinds = {INPUT: STEPS, CONSTANT: ROWS, WEIGHT: VECTOR, MASK: FLAGS, D_OUTPUT: OUTPUTS}

    def located(value: Value, offset: Offset) -> Source | None:
        node = nodes[value]
        width = max(node.shape, default=1)
        if node.operation in (STATE, D_STATE):
            return Source(CARRY, node.attributes[0], width, offset)
        if node.operation in kinds:
            number = at[node.operation, node.attributes[0]]
            return Source(kinds[node.operation], number, width, offset)
        return None

    return located


def _step(units: int, made: Made, carries: Sequence[str], writes: Sequence[Write]) -> Step:
    across = tuple(made.products.values()), tuple(made.reductions)
    return Step(units, tuple(made.statements), *across, tuple(carries), tuple(writes))
