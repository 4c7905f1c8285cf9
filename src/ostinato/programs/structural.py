"""Operations on the places of elements, and those that add up: views, reductions, products."""

import math
from collections.abc import Callable, Sequence
from itertools import product as each_of
from typing import TYPE_CHECKING, Any

from keras import ops

from ostinato.programs.node import Node, ProgramError, Shape, Value
from ostinato.programs.operation import Attributes, Inferred, Operation, Pull, plainly
from ostinato.tensors import Tensor

if TYPE_CHECKING:
    from ostinato.programs.graph import Graph


def _size(shape: Shape) -> int:
    return math.prod(shape)


def _infer_broadcast(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    (node,), (shape,) = nodes, attributes
    fits = len(shape) == len(node.shape) and all(
        size in (1, wanted) for size, wanted in zip(node.shape, shape, strict=True)
    )
    if not fits:
        raise ProgramError(f"{node.shape} can't be spread to {shape}")
    return tuple(shape), node.has_rows


def _pull_broadcast(at: Pull) -> list[Value | None]:
    return [at.upstream]  # summed afterwards, as for elementwise operations


def _infer_reshape(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    (node,), (shape,) = nodes, attributes
    if _size(shape) != _size(node.shape):
        raise ProgramError(f"{node.shape} can't become {shape}")
    return tuple(shape), node.has_rows


def _pull_reshape(at: Pull) -> list[Value | None]:
    shape = at.graph[at.arguments[0]].shape
    return [at.graph.add("reshape", at.upstream, attributes=(shape,))]


def _infer_transpose(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    (node,), (axes,) = nodes, attributes
    if sorted(axes) != list(range(len(node.shape))):
        raise ProgramError(f"{axes} aren't the axes of {node.shape}")
    return tuple(node.shape[axis] for axis in axes), node.has_rows


def _pull_transpose(at: Pull) -> list[Value | None]:
    (axes,) = at.attributes
    back = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return [at.graph.add("transpose", at.upstream, attributes=(back,))]


def _check_places(whole: Shape, starts: Shape, steps: Shape, sizes: Shape) -> None:
    for axis in zip(whole, starts, steps, sizes, strict=True):
        size, start, step, count = axis
        last = start + (count - 1) * step
        if step == 0 or count < 0 or (count and not (0 <= start < size and 0 <= last < size)):
            raise ProgramError(f"places {starts} by {steps}, {sizes} of them, aren't in {whole}")


def _infer_slice(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    (node,), (starts, steps, sizes) = nodes, attributes
    _check_places(node.shape, starts, steps, sizes)
    return tuple(sizes), node.has_rows


def _pull_slice(at: Pull) -> list[Value | None]:
    starts, steps, _ = at.attributes
    whole = at.graph[at.arguments[0]].shape
    return [at.graph.add("assemble", at.upstream, attributes=(whole, ((starts, steps),)))]


Places = tuple[Shape, Shape, Shape]  # starts, steps, sizes


def is_apart(one: Places, other: Places) -> bool:
    """Whether two sets of places certainly have none in common."""
    axes = zip(zip(*one, strict=True), zip(*other, strict=True), strict=True)
    spans = ((_span(*mine), _span(*theirs)) for mine, theirs in axes)
    return any(mine[1] < theirs[0] or theirs[1] < mine[0] for mine, theirs in spans)


def _span(start: int, step: int, size: int) -> tuple[int, int]:
    last = start + (size - 1) * step
    return min(start, last), max(start, last)


def _infer_assemble(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    """Parts put into a value of zeros, each from `starts` on by `steps`; no two in one place."""
    shape, places = attributes
    for node, (starts, steps) in zip(nodes, places, strict=True):
        _check_places(shape, starts, steps, node.shape)
    return tuple(shape), any(node.has_rows for node in nodes)


def _pull_assemble(at: Pull) -> list[Value | None]:
    g, (_, places) = at.graph, at.attributes
    return [
        g.add("slice", at.upstream, attributes=(starts, steps, g[part].shape))
        for part, (starts, steps) in zip(at.arguments, places, strict=True)
    ]


def _window_count(size: int, width: int, stride: int, dilation: int) -> int:
    return (size - (width - 1) * dilation - 1) // stride + 1


def _infer_windows(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    """Of the first axes every window, one over the next: (places, window, the other axes)."""
    (node,), (widths, strides, dilations) = nodes, attributes
    count = len(widths)
    axes = zip(node.shape[:count], widths, strides, dilations, strict=True)
    places = tuple(_window_count(*axis) for axis in axes)
    if any(place < 1 for place in places):
        raise ProgramError(f"windows of {widths} don't fit into {node.shape}")
    return (*places, *widths, *node.shape[count:]), node.has_rows


def _pull_windows(at: Pull) -> list[Value | None]:
    whole = at.graph[at.arguments[0]].shape
    return [at.graph.add("overlap", at.upstream, attributes=(whole, *at.attributes))]


def _infer_overlap(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    """Windows added up where they came from: what `windows` is transposed."""
    return tuple(attributes[0]), nodes[0].has_rows


def _infer_reduction(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    (node,), (axes,) = nodes, attributes
    if len(set(axes)) != len(axes) or any(not 0 <= axis < len(node.shape) for axis in axes):
        raise ProgramError(f"{axes} aren't axes of {node.shape}")
    kept = (size for axis, size in enumerate(node.shape) if axis not in axes)
    return tuple(kept), node.has_rows


def spread_again(g: "Graph", value: Value, shape: Shape, axes: Sequence[int]) -> Value:
    """What was reduced over some axes, as wide as before."""
    thin = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    thin_value = g.add("reshape", value, attributes=(thin,))
    return g.add("broadcast", thin_value, attributes=(tuple(shape),))


def _pull_sum(at: Pull) -> list[Value | None]:
    shape = at.graph[at.arguments[0]].shape
    return [spread_again(at.graph, at.upstream, shape, at.attributes[0])]


def _pull_amax(at: Pull) -> list[Value | None]:
    """Shared among those that are the largest, as JAX and TensorFlow have it."""
    g, (axes,) = at.graph, at.attributes
    x = at.arguments[0]
    shape = g[x].shape
    is_largest = g.eq(x, spread_again(g, at.result, shape, axes))
    count = g.add("sum", is_largest, attributes=(axes,))
    share = spread_again(g, g.div(at.upstream, count), shape, axes)
    return [g.mul(share, is_largest)]


# Products.


def _infer_product(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    """(..., K) by weights (K, N), or by the transpose of weights (N, K)."""
    (a, w), (transposed,) = nodes, attributes
    if w.has_rows or len(w.shape) != 2 or not a.shape or not a.has_rows:
        raise ProgramError(f"expected rows and a matrix of weights, got {a.shape} and {w.shape}")
    inner, outer = w.shape[::-1] if transposed else w.shape
    if a.shape[-1] != inner:
        raise ProgramError(f"{a.shape} can't be multiplied by {(inner, outer)}")
    return (*a.shape[:-1], outer), True


def _apply_product(a: Tensor, w: Tensor, attributes: Attributes, nodes: Sequence[Node]) -> Tensor:
    return ops.matmul(a, ops.transpose(w) if attributes[0] else w)


def _pull_product(at: Pull) -> list[Value | None]:
    (a, w), (transposed,) = at.arguments, at.attributes
    g, u = at.graph, at.upstream
    left = g.add("product", u, w, attributes=(not transposed,))
    return [left, g.outer(u, a) if transposed else g.outer(a, u)]


def _infer_outer(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    """(..., K) and (..., N) as (K, N): products summed over the rows and all axes before."""
    a, z = nodes
    if a.shape[:-1] != z.shape[:-1] or not (a.has_rows and z.has_rows and a.shape):
        raise ProgramError(f"{a.shape} and {z.shape} have no product over their rows")
    return (a.shape[-1], z.shape[-1]), False


def _infer_row_sum(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    return nodes[0].shape, False


def _infer_rows(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    """The same for every row."""
    return nodes[0].shape, True


def _infer_same(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    return nodes[0].shape, nodes[0].has_rows


def _infer_custom(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    """A value with gradients of its own: the value, what it depends on, the gradients of these.

    The gradients are made of a leaf that stands for the upstream, whose place is the attribute.
    """
    return nodes[0].shape, nodes[0].has_rows


# In keras.ops.


def _apply_broadcast(x: Tensor, attributes: Attributes, nodes: Sequence[Node]) -> Tensor:
    shape, has_rows = tuple(attributes[0]), nodes[0].has_rows
    return ops.broadcast_to(x, (ops.shape(x)[0], *shape) if has_rows else shape)


def _apply_reshape(x: Tensor, attributes: Attributes, nodes: Sequence[Node]) -> Tensor:
    shape, has_rows = tuple(attributes[0]), nodes[0].has_rows
    return ops.reshape(x, (-1, *shape) if has_rows else shape)


def _apply_transpose(x: Tensor, attributes: Attributes, nodes: Sequence[Node]) -> Tensor:
    axes, has_rows = attributes[0], nodes[0].has_rows
    return ops.transpose(x, (0, *(axis + 1 for axis in axes)) if has_rows else axes)


def _apply_slice(x: Tensor, attributes: Attributes, nodes: Sequence[Node]) -> Tensor:
    first = int(nodes[0].has_rows)
    index: list[Any] = [slice(None)] * first
    turned = []
    for axis, (start, step, size) in enumerate(zip(*attributes, strict=True)):
        low = start if step > 0 else start + (size - 1) * step
        index.append(slice(low, low + (size - 1) * abs(step) + 1 if size else low, abs(step)))
        if step < 0:
            turned.append(axis + first)
    x = x[tuple(index)]
    for axis in turned:  # Keras 3.10 takes no tuple of them on TensorFlow
        x = ops.flip(x, axis=axis)
    return x


def _apply_assemble(*parts: Tensor, attributes: Attributes, nodes: Sequence[Node]) -> Tensor:
    shape, places = attributes
    has_rows = any(node.has_rows for node in nodes)
    total: Any = None
    for part, node, (starts, steps) in zip(parts, nodes, places, strict=True):
        placed = _placed(part, node, starts, steps, shape)
        if has_rows and not node.has_rows:
            placed = ops.expand_dims(placed, 0)
        total = placed if total is None else total + placed
    return total


def _placed(part: Tensor, node: Node, starts: Shape, steps: Shape, shape: Shape) -> Tensor:
    """A part in its place, zeros around it and between its elements."""
    first = int(node.has_rows)
    axes = enumerate(zip(node.shape, starts, steps, shape, strict=True), start=first)
    for axis, (size, start, step, whole) in axes:
        if step < 0:
            part, start, step = ops.flip(part, axis=axis), start + (size - 1) * step, -step
        width = [(0, 0)] * (len(node.shape) + first)
        if step > 1 and size > 1:
            wide = ops.expand_dims(part, axis + 1)
            wide = ops.pad(wide, [*width[: axis + 1], (0, step - 1), *width[axis + 1 :]])
            sizes = list(ops.shape(part))
            sizes[axis] = size * step
            part = ops.reshape(wide, [-1, *sizes[1:]] if first else sizes)
            index = (*[slice(None)] * axis, slice(0, (size - 1) * step + 1))
            part = part[index]
        span = (size - 1) * step + 1 if size else 0
        width[axis] = (start, whole - start - span)
        if width[axis] != (0, 0):
            part = ops.pad(part, width)
    return part


def _apply_windows(x: Tensor, attributes: Attributes, nodes: Sequence[Node]) -> Tensor:
    widths, strides, dilations = attributes
    (node,) = nodes
    places = _infer_windows(nodes, attributes)[0][: len(widths)]
    rest = node.shape[len(widths) :]
    found = []
    for offset in each_of(*map(range, widths)):
        starts = tuple(o * d for o, d in zip(offset, dilations, strict=True))
        at = ((*starts, *[0] * len(rest)), (*strides, *[1] * len(rest)), (*places, *rest))
        found.append(_apply_slice(x, at, nodes))
    stacked = ops.stack(found, axis=len(widths) + int(node.has_rows))
    shape = (*places, *widths, *rest)
    return ops.reshape(stacked, (-1, *shape) if node.has_rows else shape)


def _apply_reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor, attributes: Attributes, nodes: Sequence[Node]) -> Tensor:
        axes = tuple(axis + int(nodes[0].has_rows) for axis in attributes[0])
        return function(x, axis=axes) if axes else x

    return apply


def _no_gradient(at: Pull) -> list[Value | None]:
    return [None] * len(at.arguments)


STRUCTURAL: dict[str, Operation] = {
    "broadcast": Operation(_infer_broadcast, _apply_broadcast, _pull_broadcast),
    "reshape": Operation(_infer_reshape, _apply_reshape, _pull_reshape),
    "transpose": Operation(_infer_transpose, _apply_transpose, _pull_transpose),
    "slice": Operation(_infer_slice, _apply_slice, _pull_slice),
    "assemble": Operation(_infer_assemble, _apply_assemble, _pull_assemble),
    "windows": Operation(_infer_windows, _apply_windows, _pull_windows),
    "overlap": Operation(_infer_overlap, None, None),
    "sum": Operation(_infer_reduction, _apply_reduction(ops.sum), _pull_sum),
    "amax": Operation(_infer_reduction, _apply_reduction(ops.max), _pull_amax),
    "product": Operation(_infer_product, _apply_product, _pull_product),
    "outer": Operation(_infer_outer, None, None),
    "row_sum": Operation(_infer_row_sum, None, None),
    "rows": Operation(
        _infer_rows, lambda x, attributes, nodes: ops.expand_dims(x, 0), lambda at: [at.upstream]
    ),
    "stop_gradient": Operation(_infer_same, plainly(ops.stop_gradient), _no_gradient),
    "custom": Operation(_infer_custom, None, None),
}
