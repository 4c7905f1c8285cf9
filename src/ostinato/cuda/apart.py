"""A program in two: what needs no state, for all timesteps at once, and the step that is left.

The framework computes the first, and its gradients: products of the inputs above all, which are
one large product then. The step gets it as inputs ("streams") and constants.
"""

from dataclasses import dataclass

from ostinato.programs.graph import Graph, Program, program_of
from ostinato.programs.node import (
    CONSTANT,
    INPUT,
    LITERAL,
    STATE,
    UPSTREAM,
    WEIGHT,
    Node,
    Value,
)

# What is cheaper read through than computed beforehand.
_READ_THROUGH = ("slice", "broadcast", "stop_gradient")


@dataclass(frozen=True)
class Apart:
    """A program in two.

    Attributes:
        program: The whole.
        streams: Its values that are the step's inputs: they change over time.
        rows: Its values that are the step's constants: they don't.
        weights: The numbers of its weights that are the step's.
        step: What is left.
    """

    program: Program
    streams: tuple[Value, ...]
    rows: tuple[Value, ...]
    weights: tuple[int, ...]
    step: Program


def apart(program: Program) -> Apart:
    """A program in two."""
    kinds = _leaves_of(program)
    cut: dict[Value, None] = {}
    inside: set[Value] = set()  # what the step computes itself

    def needs_no_state(value: Value) -> bool:
        return not any(kind in (STATE, UPSTREAM) for kind, _ in kinds[value])

    def take(value: Value) -> None:
        waiting = [value]
        while waiting:
            at = waiting.pop()
            node = program.nodes[at]
            if at in inside or at in cut:
                continue
            if not node.has_rows or not needs_no_state(at) or _is_read_through(program, node):
                inside.add(at)
                waiting += node.arguments
            else:
                cut[at] = None

    for root in program.roots:
        take(root)
    changing = {v for v in cut if any(kind == INPUT for kind, _ in kinds[v])}
    streams, rows = sorted(changing), sorted(set(cut) - changing)
    weights = sorted({n for value in inside for kind, n in kinds[value] if kind == WEIGHT})
    numbers = {WEIGHT: {number: place for place, number in enumerate(weights)}}
    graph = Graph()
    copies: dict[Value, Value] = {}
    for place, value in enumerate(streams):
        copies[value] = graph.leaf(INPUT, place, program.nodes[value].shape)
    for place, value in enumerate(rows):
        copies[value] = graph.leaf(CONSTANT, place, program.nodes[value].shape)
    for value in sorted(inside):
        copies[value] = _copied(graph, program.nodes[value], copies, numbers)
    count = len(program.outputs)
    roots = [copies[root] for root in program.roots]
    fixed = {
        (kind, place)
        for kind, values in ((INPUT, streams), (CONSTANT, rows))
        for place, value in enumerate(values)
        if all(leaf in program.fixed for leaf in kinds[value])
    }
    step = program_of(
        graph,
        roots[:count],
        roots[count:],
        input_shapes=tuple(program.nodes[value].shape for value in streams),
        state_shapes=program.state_shapes,
        constant_shapes=tuple(program.nodes[value].shape for value in rows),
        weight_shapes=tuple(program.weight_shapes[number] for number in weights),
        fixed=frozenset(fixed),
    )
    return Apart(program, tuple(streams), tuple(rows), tuple(weights), step)


def _leaves_of(program: Program) -> list[frozenset[tuple[str, int]]]:
    """Of each value the leaves that it's made of."""
    found: list[frozenset[tuple[str, int]]] = []
    for node in program.nodes:
        if node.operation in (INPUT, STATE, CONSTANT, WEIGHT, UPSTREAM):
            found.append(frozenset({(node.operation, node.attributes[0])}))
        else:
            found.append(frozenset().union(*(found[argument] for argument in node.arguments)))
    return found


def _is_read_through(program: Program, node: Node) -> bool:
    if node.operation not in _READ_THROUGH:
        return False
    (argument,) = node.arguments
    is_a_row = len(node.shape) == 1 == len(program.nodes[argument].shape)
    if node.operation != "slice":
        return is_a_row
    takes_one = node.shape == (1,) != program.nodes[argument].shape  # that all units share
    return is_a_row and node.attributes[1] == (1,) and not takes_one


def _copied(
    graph: Graph, node: Node, copies: dict[Value, Value], numbers: dict[str, dict[int, int]]
) -> Value:
    if node.operation == LITERAL:
        return graph.literal(node.attributes[0])
    if node.operation in (STATE, WEIGHT, UPSTREAM):
        number = node.attributes[0]
        return graph.leaf(
            node.operation, numbers.get(node.operation, {}).get(number, number), node.shape
        )
    arguments = [copies[argument] for argument in node.arguments]
    return graph.add(node.operation, *arguments, attributes=node.attributes)
