"""A program's step at masked timesteps: states are kept, outputs held or zero."""

from dataclasses import dataclass

from ostinato.programs.graph import Graph, Program
from ostinato.programs.node import MASK, STATE, Shape, Value


@dataclass(frozen=True)
class Masked:
    """A program for rows of which some are masked.

    Attributes:
        step: What it does, given the mask of each row. Where it holds outputs, it has one state
            more for each: the last output, to begin with zeros.
        idle: The same where all rows are masked.
        held: How many states it has more.
    """

    step: Program
    idle: Program
    held: int


def masked(program: Program, zero_output: bool) -> Masked:
    """The program under a mask.

    Args:
        program: The program.
        zero_output: Whether a masked timestep's output is zero; else it's the one before.
    """
    held = () if zero_output else program.output_shapes
    shapes = (*program.state_shapes, *held)
    graph = Graph(program.nodes)
    first = len(program.state_shapes)
    states = [graph.leaf(STATE, i, shape) for i, shape in enumerate(shapes)]
    valid = graph.leaf(MASK, 0, ())
    new_states = [
        _choose(graph, valid, new, old)
        for new, old in zip(program.states, states[:first], strict=True)
    ]
    zero = graph.literal(0.0)
    before = states[first:] if held else [zero] * len(program.outputs)
    outputs = [
        _choose(graph, valid, new, old) for new, old in zip(program.outputs, before, strict=True)
    ]
    step = program.like(graph, outputs, [*new_states, *outputs[: len(held)]], state_shapes=shapes)
    if not held:
        before = [zeros(graph, shape) for shape in program.output_shapes]
    idle = program.like(graph, before, states, state_shapes=shapes)
    return Masked(step, idle, len(held))


def _choose(graph: Graph, valid: Value, new: Value, old: Value) -> Value:
    flags = graph.add("reshape", valid, attributes=((1,) * len(graph[new].shape),))
    chosen: Value = graph.select(flags, new, old)
    return chosen


def zeros(graph: Graph, shape: Shape) -> Value:
    """Zeros in every row."""
    thin = graph.add("reshape", graph.literal(0.0), attributes=((1,) * len(shape),))
    wide = graph.add("broadcast", thin, attributes=(shape,))
    return graph.add("rows", wide)
