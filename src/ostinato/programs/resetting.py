"""A program's step where rows begin anew: there it takes fresh states in place of its own."""

from dataclasses import replace

from ostinato.programs.graph import Graph, Program
from ostinato.programs.masking import Masked
from ostinato.programs.node import CONSTANT, INPUT, STATE, Node, Value


def resetting(program: Program | Masked, fresh: int) -> Program | Masked:
    """A program, under a mask or not, for rows that may begin anew.

    It's given one input more, the last: for each row a number that isn't zero where it does. That
    has no gradient. What's held of outputs becomes zeros.

    Args:
        program: The program.
        fresh: How many of its states, the first, have fresh ones that aren't zeros: so many more
            constants, the last.
    """
    if isinstance(program, Masked):
        step, idle = (_resetting(each, fresh) for each in (program.step, program.idle))
        return Masked(step, idle, program.held)
    return _resetting(program, fresh)


def _resetting(program: Program, fresh: int) -> Program:
    graph = Graph()
    flag = len(program.input_shapes)
    begins = graph.leaf(INPUT, flag, ())
    copies: dict[Value, Value] = {}
    for value, node in program:
        copies[value] = graph.copy(node, [copies[argument] for argument in node.arguments])
        if node.operation == STATE:
            copies[value] = _anew(graph, program, node, copies[value], begins, fresh)
    made = program.like(
        graph,
        [copies[value] for value in program.outputs],
        [copies[value] for value in program.states],
        input_shapes=(*program.input_shapes, ()),
        constant_shapes=(*program.constant_shapes, *program.state_shapes[:fresh]),
    )
    return replace(made, fixed=made.fixed | {(INPUT, flag)})


def _anew(
    graph: Graph, program: Program, node: Node, state: Value, begins: Value, fresh: int
) -> Value:
    """A state, or the fresh one where the row begins."""
    (number,) = node.attributes
    given = graph.literal(0.0)
    if number < fresh:
        given = graph.leaf(CONSTANT, len(program.constant_shapes) + number, node.shape)
    flags = graph.add("reshape", begins, attributes=((1,) * len(node.shape),))
    chosen: Value = graph.select(flags, given, state)
    return chosen
