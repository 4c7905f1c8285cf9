"""What the framework computes around the kernels: before them of inputs alone, after them sums.

All timesteps at once, with timesteps and rows as one axis.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from ostinato.cuda.kernels import Kernels
from ostinato.programs.evaluation import evaluate_nodes
from ostinato.programs.graph import reachable
from ostinato.programs.node import CONSTANT, INPUT, LITERAL, STATE, WEIGHT, Node, Value
from ostinato.programs.operations import operations
from ostinato.tensors import Tensor, Tensors


def _folded(tensor: Tensor) -> Tensor:
    """(B, T, ...) as (B T, ...): rows first, which may be split among devices."""
    return ops.reshape(tensor, (-1, *tensor.shape[2:]))


def _at_every_timestep(constant: Tensor, timesteps: int) -> Tensor:
    """(B, ...) as (B T, ...)."""
    rows, *shape = constant.shape
    return _folded(ops.broadcast_to(ops.expand_dims(constant, 1), (rows, timesteps, *shape)))


def beforehand(
    nodes: Sequence[Node],
    roots: Sequence[Value],
    xs: Tensors,
    constants: Tensors,
    weights: Tensors,
) -> Tensors:
    """Values that need no state, each (B, T, ...).

    Args:
        nodes: A program's nodes.
        roots: The values.
        xs: Its inputs, each (B, T, ...).
        constants: Its constants, each (B, ...).
        weights: Its weights.
    """
    rows, timesteps = xs[0].shape[:2]
    leaves = {
        INPUT: [_folded(x) for x in xs],
        CONSTANT: [_at_every_timestep(constant, timesteps) for constant in constants],
        WEIGHT: weights,
    }
    values = evaluate_nodes(nodes, roots, leaves)
    return tuple(
        ops.reshape(
            ops.broadcast_to(values[root], (rows * timesteps, *nodes[root].shape)),
            (rows, timesteps, *nodes[root].shape),
        )
        for root in roots
    )


def afterwards(
    kernels: Kernels, operands: Sequence[Tensor], kept: Tensor, results: Sequence[Tensor]
) -> list[Tensor | None]:
    """The gradient of each operand; None where there's none.

    Args:
        kernels: The kernels.
        operands: What the way there took.
        kept: What it kept.
        results: What the way back gave: the gradients of the states, then single timesteps' values.
    """
    passes, nodes, counts = kernels.passes, kernels.passes.nodes, kernels.counts
    streams = operands[: counts[INPUT]]
    constants = operands[counts[INPUT] :][: counts[CONSTANT]]
    weights = operands[counts[INPUT] + counts[CONSTANT] + counts[STATE] :]
    rows, timesteps = kept.shape[1:3]
    written = zip(passes.written, results[counts[STATE] :], strict=True)
    values = {value: _folded(tensor) for value, tensor in written}
    numbers = {lane: number for number, lane in enumerate(passes.kept)}
    for value in passes.timestep_values:
        node = nodes[value]
        if value in values:
            continue
        if node.operation == INPUT:
            values[value] = _folded(streams[node.attributes[0]])
        elif node.operation == CONSTANT:
            values[value] = _at_every_timestep(constants[node.attributes[0]], timesteps)
        else:
            lanes = sorted(
                (offset or 0, number) for (at, offset), number in numbers.items() if at == value
            )
            parts = [_folded(kept[number]) for _, number in lanes]
            whole = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
            width = max(node.shape, default=1)  # units beyond that have nothing
            values[value] = ops.reshape(whole[:, :width], (-1, *node.shape))
    roots = [value for _, _, value in passes.roots]
    for value in reachable(roots, lambda v: () if v in values else nodes[v].arguments):
        if value not in values:
            values[value] = _applied(nodes, value, values, weights)
    found: dict[tuple[str, int], Tensor] = {}
    for kind, number, value in passes.roots:
        gradient = values[value]
        if kind != WEIGHT:
            gradient = ops.reshape(gradient, (rows, timesteps, *nodes[value].shape))
        found[kind, number] = ops.sum(gradient, axis=1) if kind == CONSTANT else gradient
    found |= {(STATE, i): results[i] for i in range(counts[STATE])}
    return [found.get((kind, i)) for kind, count in counts.items() for i in range(count)]


def _applied(
    nodes: Sequence[Node], value: Value, values: dict[Value, Any], weights: Sequence[Tensor]
) -> Any:
    node = nodes[value]
    if node.operation == LITERAL:
        return node.attributes[0]
    if node.operation == WEIGHT:
        return weights[node.attributes[0]]
    arguments = [values[argument] for argument in node.arguments]
    if node.operation == "outer":
        return ops.matmul(ops.transpose(arguments[0]), arguments[1])
    if node.operation == "row_sum":
        return ops.sum(arguments[0], axis=0)
    apply = operations()[node.operation].apply
    assert apply is not None
    made_of = [nodes[argument] for argument in node.arguments]
    return apply(*arguments, attributes=node.attributes, nodes=made_of)
