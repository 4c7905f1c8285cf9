"""A program as text for people: what it does in which phase, its cost, what training keeps."""

import math
from collections.abc import Sequence

from ostinato.programs.graph import Program
from ostinato.programs.keeping import is_dear_operation
from ostinato.programs.node import CONSTANT, INPUT, LITERAL, MASK, STATE, WEIGHT, Node, Value
from ostinato.programs.operations import operations

# So many multiplications a value of a function such as tanh is worth.
_DEAR = 12
_HEADINGS = {
    INPUT: "of the inputs alone",
    CONSTANT: "of the constants alone",
    STATE: "of the states",
}


def shown(program: Program, kept: Sequence[Value]) -> str:
    """A program's values by phase, a line each.

    Args:
        program: The program.
        kept: The values that training keeps of each timestep.
    """
    phases = _phases(program)
    lines = [f"weights: {_listed('w', program.weight_shapes)} (made before the loop)"]
    for kind, shapes, letter in (
        ("inputs", program.input_shapes, "x"),
        ("states", program.state_shapes, "h"),
        ("constants", program.constant_shapes, "c"),
    ):
        if shapes:
            lines.append(f"{kind}: {_listed(letter, shapes)}, each a row")
    for phase, heading in _HEADINGS.items():
        of_phase = [value for value, _ in program if phases[value] == phase]
        made = [value for value in of_phase if program.nodes[value].arguments]
        if made:
            cost = sum(cost_of(program, value) for value in made)
            lines.append(f"{heading} (about {cost} multiplications a row and timestep):")
            lines += [f"  {_line(program, value, value in kept)}" for value in made]
    results = ", ".join(_name(program, value) for value in program.outputs)
    states = ", ".join(_name(program, value) for value in program.states)
    lines.append(f"outputs: {results}; new states: {states}")
    sizes = [math.prod(shape) for shape in program.state_shapes]
    sizes += [math.prod(program.nodes[value].shape) for value in kept]
    lines.append(f"training keeps {sum(sizes)} numbers a row and timestep, states among them")
    return "\n".join(lines)


def cost_of(program: Program, value: Value) -> int:
    """About how many multiplications a value takes, a row and timestep."""
    node = program.nodes[value]
    if node.operation == "product":
        inner = program.nodes[node.arguments[0]].shape[-1]
        return math.prod(node.shape) * inner
    if node.operation in ("sum", "amax"):
        return math.prod(program.nodes[node.arguments[0]].shape)
    if not operations()[node.operation].is_elementwise:
        return 0
    return math.prod(node.shape) * (_DEAR if is_dear_operation(node.operation) else 1)


def _phases(program: Program) -> list[str]:
    """Of each value what it depends on: the states, else the inputs, else constants or weights."""
    phases: list[str] = []
    for node in program.nodes:
        if node.operation in (INPUT, STATE, CONSTANT, WEIGHT, LITERAL):
            phases.append(node.operation)
        elif node.operation == MASK:
            phases.append(INPUT)
        else:
            mine = {phases[argument] for argument in node.arguments}
            order = (STATE, INPUT, CONSTANT)
            phases.append(next((phase for phase in order if phase in mine), WEIGHT))
    return phases


def _listed(letter: str, shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(f"{letter}{number} {_sizes(shape)}" for number, shape in enumerate(shapes))


def _sizes(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _line(program: Program, value: Value, is_kept: bool) -> str:
    node = program.nodes[value]
    arguments = ", ".join(_name(program, argument) for argument in node.arguments)
    details = f" {_attributes(node)}" if node.attributes else ""
    kept = "  kept" if is_kept else ""
    return f"v{value} = {node.operation}({arguments}){details}  {_sizes(node.shape)}{kept}"


def _attributes(node: Node) -> str:
    if node.operation == "product":
        return "transposed" if node.attributes[0] else ""
    return " ".join(map(str, node.attributes))


_LETTERS = {INPUT: "x", STATE: "h", CONSTANT: "c", WEIGHT: "w"}


def _name(program: Program, value: Value) -> str:
    node = program.nodes[value]
    if node.operation == LITERAL:
        return f"{node.attributes[0]:g}"
    if node.operation in _LETTERS:
        return f"{_LETTERS[node.operation]}{node.attributes[0]}"
    return f"v{value}"
