"""A program as the routines that the core runs: inference, training, and the way back.

What is encoded here is described in native/core/routine/routine.h.
"""

import math
from collections.abc import Sequence
from functools import cached_property

from ostinato.programs.derivative import Derivative, derivative
from ostinato.programs.graph import Graph, Program
from ostinato.programs.keeping import kept_values
from ostinato.programs.lowered import Scratch, Wanted
from ostinato.programs.lowering import lower
from ostinato.programs.masking import Masked, zeros
from ostinato.programs.node import (
    CONSTANT,
    D_OUTPUT,
    D_STATE,
    INPUT,
    MASK,
    STATE,
    WEIGHT,
    Node,
    Shape,
    Value,
)
from ostinato.programs.places import (
    CARRY,
    NEXT,
    OPERAND,
    RESULT,
    SAVED,
    SAVED_NEXT,
    Place,
    dense,
)
from ostinato.programs.schedule import Instruction, Listing, Numbers, listing
from ostinato.routines import Routine

VERSION = 1
# Kinds of operands and of results, and the order in time.
(SEQUENCE, ROWS, WEIGHTS, FLAGS, KEPT, OUTPUT) = range(6)
(RESULT_SEQUENCE, RESULT_OUTPUT, RESULT_ROWS, RESULT_CARRY, RESULT_WEIGHT, RESULT_KEPT) = range(6)
AS_INPUTS, AS_OUTPUTS = 0, 1

# So many rounds of giving places to what several instructions compute.
_ROUNDS = 4
# A value of more elements a row is rather computed again than put down.
_WIDEST_SHARED = 2048


class ProgramRoutines:
    """The routines of a program (see `routines.Lowering`), each made when it's first asked for.

    Attributes:
        program: The program of a step.
        idle: That of a step where all rows are masked; None where there's no mask.
    """

    def __init__(self, program: Program | Masked) -> None:
        masks = isinstance(program, Masked)
        self.program = program.step if isinstance(program, Masked) else program
        self.idle = program.idle if isinstance(program, Masked) else None
        self.has_mask = masks

    @cached_property
    def _derivative(self) -> Derivative:
        return derivative(self.program)

    @cached_property
    def kept(self) -> tuple[Value, ...]:
        """The values that training keeps beside the states."""
        found = self._derivative
        sides = (found.inputs, found.states, found.constants, found.weights)
        roots = [value for side in sides for value in side if value is not None]
        return tuple(kept_values(self.program, found.nodes, roots))

    @cached_property
    def saved_sizes(self) -> tuple[tuple[int, int], ...]:
        """Of each value that's kept its elements a row, and 1 where there's one more step."""
        states = ((math.prod(shape), 1) for shape in self.program.state_shapes)
        others = ((math.prod(self.program.nodes[value].shape), 0) for value in self.kept)
        return (*states, *others)

    def saved(self) -> int:
        """The elements a row and timestep that training keeps."""
        return sum(size for size, _ in self.saved_sizes)

    def infer(self) -> Routine:
        """The forward pass alone."""
        return self._forward(trains=False)[0]

    def train(self) -> Routine:
        """The forward pass that keeps what the way back reads."""
        return self._forward(trains=True)[0]

    def backward(self, wants_dx: bool) -> Routine:
        """The way back."""
        return self._backward(wants_dx)[0]

    def shown(self, name: str) -> list[Instruction]:
        """The instructions of a step of "infer", "train" or "backward", for people."""
        made = self._backward(True) if name == "backward" else self._forward(name == "train")
        return made[1].instructions

    # Forwards.

    def _forward(self, trains: bool) -> tuple[Routine, Listing]:
        program, numbers = self.program, Numbers()
        operands = self._operands(with_states=True)
        outputs = [(RESULT_OUTPUT, AS_OUTPUTS, 0, shape) for shape in program.output_shapes]
        carried = [(RESULT_CARRY, 0, k, shape) for k, shape in enumerate(program.state_shapes)]
        kept = [(RESULT_KEPT, 0, 0, ())] if trains else []
        first = len(program.input_shapes)
        carries = [
            (math.prod(shape), first + k, k if trains else -1)
            for k, shape in enumerate(program.state_shapes)
        ]
        body = self._forward_step(program, numbers, self.kept if trains else ())
        idle = None
        if self.idle is not None:
            kept_zero = self.kept if trains else ()
            idle = self._forward_step(self.idle, numbers, (), kept_zero, body.scratches)
        encoded = _encode(
            0,
            operands,
            [*outputs, *carried, *kept],
            carries,
            self.saved_sizes if trains else (),
            (body, idle),
            numbers,
        )
        return encoded, body

    def _operands(self, with_states: bool) -> list[tuple[int, int, Shape]]:
        program = self.program
        states = program.state_shapes if with_states else ()
        return [
            *((SEQUENCE, AS_INPUTS, shape) for shape in program.input_shapes),
            *((ROWS, 0, shape) for shape in states),
            *((ROWS, 0, shape) for shape in program.constant_shapes),
            *((WEIGHTS, 0, shape) for shape in program.weight_shapes),
            *(((FLAGS, AS_INPUTS, ()),) if self.has_mask else ()),
        ]

    def _first_operands(self, with_states: bool) -> dict[str, int]:
        """The number of the first operand of each kind of leaf."""
        program = self.program
        inputs, constants = len(program.input_shapes), len(program.constant_shapes)
        states = len(program.state_shapes) if with_states else 0
        return {
            INPUT: 0,
            STATE: inputs,
            CONSTANT: inputs + states,
            WEIGHT: inputs + states + constants,
            MASK: inputs + states + constants + len(program.weight_shapes),
        }

    def _given(self, nodes: Sequence[Node], with_states: bool) -> dict[Value, Place]:
        """Where the leaves that are operands lie."""
        first = self._first_operands(with_states)
        return {
            value: dense(OPERAND, first[node.operation] + node.attributes[0], node.shape)
            for value, node in enumerate(nodes)
            if node.operation in first and node.operation != STATE
        }

    def _forward_step(
        self,
        program: Program,
        numbers: Numbers,
        kept: Sequence[Value],
        cleared: Sequence[Value] = (),
        scratches: Sequence[Scratch] = (),
    ) -> Listing:
        graph = Graph(program.nodes)
        located = self._given(program.nodes, with_states=True)
        for value, node in program:
            if node.operation == STATE:
                located[value] = dense(CARRY, node.attributes[0], node.shape)
        wanted = [
            Wanted(value, dense(NEXT, number, graph[value].shape))
            for number, value in enumerate(program.states)
        ]
        wanted += [
            Wanted(value, dense(RESULT, number, graph[value].shape))
            for number, value in enumerate(program.outputs)
        ]
        first = len(program.states)
        wanted += [
            Wanted(value, dense(SAVED, first + number, graph[value].shape))
            for number, value in enumerate(kept)
        ]
        for number, value in enumerate(cleared):
            shape = self.program.nodes[value].shape
            wanted.append(_zero(graph, dense(SAVED, first + number, shape), shape))
        return _listed(graph.nodes, located, wanted, numbers, scratches)

    # Backwards.

    def _backward(self, wants_dx: bool) -> tuple[Routine, Listing]:
        program, numbers = self.program, Numbers()
        operands = self._operands(with_states=False)
        kept = len(operands)
        operands.append((KEPT, 0, ()))
        d_outputs = len(operands)
        operands += [(OUTPUT, AS_OUTPUTS, shape) for shape in program.output_shapes]
        d_states = len(operands)
        operands += [(ROWS, 0, shape) for shape in program.state_shapes]
        carries = [
            (math.prod(shape), d_states + k, -1) for k, shape in enumerate(program.state_shapes)
        ]
        assert d_outputs == kept + 1
        body = self._backward_step(self._derivative, program, wants_dx, numbers, d_outputs)
        idle = None
        if self.idle is not None:
            found = derivative(self.idle)
            idle = self._backward_step(
                found, self.idle, wants_dx, numbers, d_outputs, body.scratches
            )
        results = self._gradients(wants_dx)
        steps = (body, idle)
        encoded = _encode(1, operands, results, carries, self.saved_sizes, steps, numbers)
        return encoded, body

    def _gradients(self, wants_dx: bool) -> list[tuple[int, int, int, Shape]]:
        """The results of the way back."""
        program = self.program
        sides = [
            *(((RESULT_SEQUENCE, INPUT, program.input_shapes),) if wants_dx else ()),
            (RESULT_CARRY, STATE, program.state_shapes),
            (RESULT_ROWS, CONSTANT, program.constant_shapes),
            (RESULT_WEIGHT, WEIGHT, program.weight_shapes),
        ]
        return [
            (kind, AS_INPUTS, number if kind == RESULT_CARRY else 0, shape)
            for kind, leaf, shapes in sides
            for number, shape in enumerate(shapes)
            if (leaf, number) not in program.fixed
        ]

    def _backward_step(
        self,
        found: Derivative,
        program: Program,
        wants_dx: bool,
        numbers: Numbers,
        d_outputs: int,
        scratches: Sequence[Scratch] = (),
    ) -> Listing:
        graph = Graph(found.nodes)
        located = self._given(found.nodes, with_states=False)
        located.update(self._kept_places(found, program))
        for value, node in enumerate(found.nodes):
            if node.operation == D_OUTPUT:
                located[value] = dense(OPERAND, d_outputs + node.attributes[0], node.shape)
            elif node.operation == D_STATE:
                located[value] = dense(CARRY, node.attributes[0], node.shape)
        wanted = []
        for number, (d_state, shape) in enumerate(
            zip(found.states, program.state_shapes, strict=True)
        ):
            place = dense(NEXT, number, shape)
            wanted.append(_zero(graph, place, shape) if d_state is None else Wanted(d_state, place))
        result = 0
        sides = [
            *(((INPUT, found.inputs, program.input_shapes),) if wants_dx else ()),
            (STATE, found.states, program.state_shapes),
            (CONSTANT, found.constants, program.constant_shapes),
            (WEIGHT, found.weights, program.weight_shapes),
        ]
        for leaf, values, shapes in sides:
            for number, (gradient, shape) in enumerate(zip(values, shapes, strict=True)):
                if (leaf, number) in program.fixed:
                    continue
                place = dense(RESULT, result, shape)
                result += 1
                if leaf == INPUT and gradient is None:
                    wanted.append(_zero(graph, place, shape))
                elif leaf != STATE and gradient is not None:
                    wanted.append(Wanted(gradient, place, adds=leaf != INPUT))
        return _listed(graph.nodes, located, wanted, numbers, scratches)

    def _kept_places(self, found: Derivative, program: Program) -> dict[Value, Place]:
        """Where the way back finds states, before and after the step, and what was kept."""
        places: dict[Value, Place] = {}
        if program is self.program:
            first = len(program.states)
            for number, value in enumerate(self.kept):
                places[value] = dense(SAVED, first + number, found.nodes[value].shape)
        for number, value in enumerate(program.states):
            places[value] = dense(SAVED_NEXT, number, found.nodes[value].shape)
        for value, node in enumerate(found.nodes):
            if node.operation == STATE:
                places[value] = dense(SAVED, node.attributes[0], node.shape)
        return places


def _zero(graph: Graph, place: Place, shape: Shape) -> Wanted:
    """Zeros at a place."""
    return Wanted(zeros(graph, shape), place)


def _listed(
    nodes: Sequence[Node],
    located: dict[Value, Place],
    wanted: Sequence[Wanted],
    numbers: Numbers,
    scratches: Sequence[Scratch],
) -> Listing:
    """The instructions of a step, with places for what several of them would compute.

    Its scratch comes after that of another step, whose numbers stay.
    """
    placed: frozenset[Value] = frozenset()
    for _ in range(_ROUNDS):
        found = listing(lower(nodes, located, wanted, placed, scratches), numbers)
        small = {v for v in found.shared if math.prod(nodes[v].shape) <= _WIDEST_SHARED}
        more = placed | {value for value in small if nodes[value].has_rows}
        if more == placed:
            break
        placed = more
    return found


# The encoding.


def _encode(
    reverse: int,
    operands: Sequence[tuple[int, int, Shape]],
    results: Sequence[tuple[int, int, int, Shape]],
    carries: Sequence[tuple[int, int, int]],
    saved: Sequence[tuple[int, int]],
    steps: tuple[Listing, Listing | None],
    numbers: Numbers,
) -> Routine:
    listed = [step for step in steps if step is not None]
    scratches = listed[-1].scratches
    offsets: dict[int, int] = {}
    for step in listed:
        offsets.update(_shared(step))
    table = [
        (scratch.size, offsets.get(number, 0), int(scratch.lasts))
        for number, scratch in enumerate(scratches)
    ]
    arena = max((offset + size for size, offset, _ in table), default=0)
    ints = [VERSION, reverse, len(operands)]
    for kind, order, shape in operands:
        ints += [kind, order, len(shape), *shape]
    ints.append(len(results))
    for result_kind, order, which, shape in results:
        ints += [result_kind, order, which, len(shape), *shape]
    for entries in (carries, saved, table):
        ints.append(len(entries))
        for entry in entries:
            ints += entry
    ints.append(arena)
    for each in steps:
        instructions = [] if each is None else each.instructions
        ints.append(len(instructions))
        for instruction in instructions:
            ints += [instruction.code, len(instruction.payload), *instruction.payload]
    return Routine(tuple(ints), tuple(numbers.values))


def _shared(step: Listing) -> dict[int, int]:
    """The offsets of a step's scratch: memory of what isn't read any more is used again."""
    lives: dict[int, tuple[int, int]] = {}
    for time, instruction in enumerate(step.instructions):
        for number in instruction.reads | instruction.writes:
            lives[number] = (lives.get(number, (time, time))[0], time)
    taken: list[tuple[int, int, int, int]] = []  # first and last use, offset, end
    offsets: dict[int, int] = {}
    for number in sorted(lives, key=lambda each: -step.scratches[each].size):
        scratch = step.scratches[number]
        first, last = (0, len(step.instructions)) if scratch.lasts else lives[number]
        beside = sorted(
            (offset, end) for begin, stop, offset, end in taken if begin <= last and first <= stop
        )
        place = 0
        for offset, end in beside:
            if place + scratch.size <= offset:
                break
            place = max(place, end)
        offsets[number] = place
        taken.append((first, last, place, place + scratch.size))
    return offsets
