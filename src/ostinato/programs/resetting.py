"""A program's step after which rows may begin anew: there the next one finds fresh states."""

from dataclasses import replace

from ostinato.programs.graph import Graph, Program
from ostinato.programs.masking import Masked
from ostinato.programs.node import CONSTANT, INPUT, Value


def resetting(program: Program | Masked, fresh: int) -> Program | Masked:
    """A program, under a mask or not, for rows that may begin anew with the next timestep.

    It's given one input more, the last: for each row a number that isn't zero where it does. That
    has no gradient. Its new states are fresh there, and what's held of outputs zero. (Said of the
    next timestep, so that it's part of writing a state: said of this one, it's another pass over
    each before the product that takes it, 5 % of an LSTM's time.)

    Args:
        program: The program.
        fresh: How many of its states, the first, have fresh ones that aren't zeros: so many more
            constants, the last.
    """
    if isinstance(program, Masked):
        step, idle = (begun_anew(each, fresh) for each in (program.step, program.idle))
        return Masked(step, idle, program.held)
    return begun_anew(program, fresh)


def begun_anew(program: Program, fresh: int) -> Program:
    """The same of a program as it stands."""
    graph = Graph(program.nodes)
    flag, constants = len(program.input_shapes), len(program.constant_shapes)
    begins = graph.leaf(INPUT, flag, ())

    def anew(number: int, new: Value) -> Value:
        given = graph.literal(0.0)
        if number < fresh:
            given = graph.leaf(CONSTANT, constants + number, program.state_shapes[number])
        flags = graph.add("reshape", begins, attributes=((1,) * len(graph[new].shape),))
        chosen: Value = graph.select(flags, given, new)
        return chosen

    made = program.like(
        graph,
        program.outputs,
        [anew(*pair) for pair in enumerate(program.states)],
        input_shapes=(*program.input_shapes, ()),
        constant_shapes=(*program.constant_shapes, *program.state_shapes[:fresh]),
    )
    return replace(made, fixed=made.fixed | {(INPUT, flag)})
