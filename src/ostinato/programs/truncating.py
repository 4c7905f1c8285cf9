"""A program's step for gradients of states that don't cross the beginnings of stretches of time."""

from dataclasses import replace

from ostinato.programs.graph import Graph, Program
from ostinato.programs.node import INPUT


def truncating(program: Program) -> Program:
    """A program whose new states have no gradient where a stretch begins with the next timestep.

    It's given one input more, the last: for each row a number that isn't zero where one does. That
    has no gradient itself. Values are the same.
    """
    graph = Graph(program.nodes)
    flag = len(program.input_shapes)
    begins = graph.leaf(INPUT, flag, ())
    states = []
    for new in program.states:
        flags = graph.add("reshape", begins, attributes=((1,) * len(graph[new].shape),))
        states.append(graph.select(flags, graph.stop_gradient(new), new))
    shapes = (*program.input_shapes, ())
    made = program.like(graph, program.outputs, states, input_shapes=shapes)
    return replace(made, fixed=made.fixed | {(INPUT, flag)})
