"""Operations that go element by element, under the names that the core knows them by.

They follow NumPy's rules of broadcasting among the dimensions.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import keras
from keras import ops

from ostinato.programs.node import LITERAL, Node, ProgramError, Value
from ostinato.programs.operation import Attributes, Inferred, Operation, Pull, plainly
from ostinato.tensors import Tensor

if TYPE_CHECKING:
    from ostinato.programs.graph import Graph


def _broadcast_shapes(nodes: Sequence[Node], attributes: Attributes) -> Inferred:
    ranks = {len(node.shape) for node in nodes if node.has_rows}
    if len(ranks) > 1:
        shapes = ", ".join(f"(rows, *{node.shape})" for node in nodes if node.has_rows)
        raise ProgramError(f"rows don't lie beside one another: {shapes}")
    rank = max(len(node.shape) for node in nodes)
    if ranks and rank not in ranks:
        raise ProgramError("a weight has more dimensions than the rows that it meets")
    shape = []
    for axis in range(-rank, 0):
        sizes = {node.shape[axis] for node in nodes if len(node.shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise ProgramError(f"sizes {sorted(sizes)} don't broadcast")
        shape.append(sizes.pop() if sizes else 1)
    return tuple(shape), bool(ranks)


# Elementwise: of each argument its gradient, given the graph, the upstream, the result and the
# arguments.

Slope = Callable[..., Value | None]


def _elementwise(apply: Callable[..., Tensor], *slopes: Slope | None) -> Operation:
    def pull(at: Pull) -> list[Value | None]:
        return [
            None if slope is None else slope(at.graph, at.upstream, at.result, *at.arguments)
            for slope in slopes
        ]

    return Operation(_broadcast_shapes, plainly(apply), pull, is_elementwise=True)


def _as_numbers(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that gives booleans, giving 1 and 0 of its arguments' dtype."""
    return lambda *tensors: ops.cast(function(*tensors), tensors[0].dtype)


def _half_at_ties(comparison: str) -> tuple[Slope, Slope]:
    """The slopes of the larger, or smaller, of two: both have half of it where they're the same."""

    def of(g: "Graph", u: Value, mine: Value, other: Value) -> Value:
        half = g.mul(g.literal(0.5), u)
        one_or_none = g.select(g.add(comparison, mine, other), u, g.literal(0.0))
        result: Value = g.select(g.eq(mine, other), half, one_or_none)
        return result

    return (lambda g, u, y, a, b: of(g, u, a, b)), (lambda g, u, y, a, b: of(g, u, b, a))


def _plus(g: "Graph", a: Value, b: Value) -> Value:
    return g.add("add", a, b)


def _one_minus_square(g: "Graph", x: Value) -> Value:
    result: Value = g.sub(g.literal(1.0), g.square(x))
    return result


def _only_where(g: "Graph", holds: Value, u: Value) -> Value:
    result: Value = g.select(holds, u, g.literal(0.0))
    return result


_UNARY: dict[str, tuple[Callable[..., Tensor], Slope | None]] = {
    "neg": (ops.negative, lambda g, u, y, x: g.neg(u)),
    "abs": (ops.abs, lambda g, u, y, x: g.mul(u, g.sign(x))),
    "sign": (ops.sign, None),
    "exp": (ops.exp, lambda g, u, y, x: g.mul(u, y)),
    "expm1": (ops.expm1, lambda g, u, y, x: g.mul(u, _plus(g, y, g.literal(1.0)))),
    "log": (ops.log, lambda g, u, y, x: g.div(u, x)),
    "log1p": (ops.log1p, lambda g, u, y, x: g.div(u, _plus(g, x, g.literal(1.0)))),
    "sqrt": (ops.sqrt, lambda g, u, y, x: g.div(g.mul(g.literal(0.5), u), y)),
    "rsqrt": (
        ops.rsqrt,
        lambda g, u, y, x: g.mul(g.mul(g.literal(-0.5), u), g.mul(y, g.square(y))),
    ),
    "square": (ops.square, lambda g, u, y, x: g.mul(u, g.mul(g.literal(2.0), x))),
    "reciprocal": (ops.reciprocal, lambda g, u, y, x: g.neg(g.mul(u, g.square(y)))),
    "tanh": (ops.tanh, lambda g, u, y, x: g.mul(u, _one_minus_square(g, y))),
    "sigmoid": (
        ops.sigmoid,
        lambda g, u, y, x: g.mul(u, g.mul(y, g.sub(g.literal(1.0), y))),
    ),
    "softplus": (ops.softplus, lambda g, u, y, x: g.mul(u, g.sigmoid(x))),
    "relu": (ops.relu, lambda g, u, y, x: _only_where(g, g.gt(y, g.literal(0.0)), u)),
    "erf": (
        ops.erf,
        lambda g, u, y, x: g.mul(
            u, g.mul(g.literal(2.0 / math.sqrt(math.pi)), g.exp(g.neg(g.square(x))))
        ),
    ),
    "sin": (ops.sin, lambda g, u, y, x: g.mul(u, g.cos(x))),
    "cos": (ops.cos, lambda g, u, y, x: g.neg(g.mul(u, g.sin(x)))),
    "tan": (ops.tan, lambda g, u, y, x: g.mul(u, _plus(g, g.square(y), g.literal(1.0)))),
    "arcsin": (ops.arcsin, lambda g, u, y, x: g.mul(u, g.rsqrt(_one_minus_square(g, x)))),
    "arccos": (ops.arccos, lambda g, u, y, x: g.neg(g.mul(u, g.rsqrt(_one_minus_square(g, x))))),
    "arctan": (
        ops.arctan,
        lambda g, u, y, x: g.div(u, _plus(g, g.square(x), g.literal(1.0))),
    ),
    "sinh": (ops.sinh, lambda g, u, y, x: g.mul(u, g.cosh(x))),
    "cosh": (ops.cosh, lambda g, u, y, x: g.mul(u, g.sinh(x))),
    "arcsinh": (
        ops.arcsinh,
        lambda g, u, y, x: g.mul(u, g.rsqrt(_plus(g, g.square(x), g.literal(1.0)))),
    ),
    "arccosh": (
        ops.arccosh,
        lambda g, u, y, x: g.mul(u, g.rsqrt(g.sub(g.square(x), g.literal(1.0)))),
    ),
    "arctanh": (ops.arctanh, lambda g, u, y, x: g.div(u, _one_minus_square(g, x))),
    "floor": (ops.floor, None),
    "ceil": (ops.ceil, None),
    "round": (ops.round, None),
    "trunc": (lambda x: ops.sign(x) * ops.floor(ops.abs(x)), None),
    "logical_not": (_as_numbers(lambda x: ops.equal(x, 0)), None),
    "isnan": (_as_numbers(ops.isnan), None),
    "isinf": (_as_numbers(ops.isinf), None),
    "isfinite": (_as_numbers(ops.isfinite), None),
}


def _pow_slope_of_base(g: "Graph", u: Value, y: Value, a: Value, b: Value) -> Value | None:
    """Of x ** 0 it's 0, also at 0, where 0 * 0 ** -1 is no number."""
    exponent = g[b].attributes[0] if g[b].operation == LITERAL else None
    if exponent == 0.0:
        return None
    slope: Value = g.mul(u, g.mul(b, g.pow(a, g.sub(b, g.literal(1.0)))))
    return slope if exponent is not None else _only_where(g, g.ne(b, g.literal(0.0)), slope)


def _pow_slope_of_exponent(g: "Graph", u: Value, y: Value, a: Value, b: Value) -> Value:
    log = g.log(g.select(g.gt(a, g.literal(0.0)), a, g.literal(1.0)))
    result: Value = g.mul(u, g.mul(y, log))
    return result


def _norm_square(g: "Graph", a: Value, b: Value) -> Value:
    return _plus(g, g.square(a), g.square(b))


_MAXIMUM, _MINIMUM = _half_at_ties("gt"), _half_at_ties("lt")
_BINARY: dict[str, tuple[Callable[..., Tensor], Slope | None, Slope | None]] = {
    # On TensorFlow ops.add takes (3, 1, 1) beside (3, 3, 4) for a bias of the second axis.
    "add": (operator.add, lambda g, u, y, a, b: u, lambda g, u, y, a, b: u),
    "sub": (ops.subtract, lambda g, u, y, a, b: u, lambda g, u, y, a, b: g.neg(u)),
    "mul": (ops.multiply, lambda g, u, y, a, b: g.mul(u, b), lambda g, u, y, a, b: g.mul(u, a)),
    "div": (
        ops.true_divide,
        lambda g, u, y, a, b: g.div(u, b),
        lambda g, u, y, a, b: g.neg(g.mul(u, g.div(y, b))),
    ),
    "pow": (
        ops.power,
        _pow_slope_of_base,
        _pow_slope_of_exponent,
    ),
    "max": (ops.maximum, *_MAXIMUM),
    "min": (ops.minimum, *_MINIMUM),
    "mod": (
        ops.mod,
        lambda g, u, y, a, b: u,
        lambda g, u, y, a, b: g.neg(g.mul(u, g.floordiv(a, b))),
    ),
    "floordiv": (ops.floor_divide, None, None),
    "arctan2": (
        ops.arctan2,
        lambda g, u, y, a, b: g.div(g.mul(u, b), _norm_square(g, a, b)),
        lambda g, u, y, a, b: g.neg(g.div(g.mul(u, a), _norm_square(g, a, b))),
    ),
    "gt": (_as_numbers(ops.greater), None, None),
    "ge": (_as_numbers(ops.greater_equal), None, None),
    "lt": (_as_numbers(ops.less), None, None),
    "le": (_as_numbers(ops.less_equal), None, None),
    "eq": (_as_numbers(ops.equal), None, None),
    "ne": (_as_numbers(ops.not_equal), None, None),
    "logical_and": (_as_numbers(ops.logical_and), None, None),
    "logical_or": (_as_numbers(ops.logical_or), None, None),
    "logical_xor": (_as_numbers(ops.logical_xor), None, None),
}

_TERNARY: dict[str, tuple[Callable[..., Tensor], Slope | None, Slope | None, Slope | None]] = {
    "select": (
        lambda c, a, b: ops.where(ops.not_equal(c, 0), a, b),
        None,
        lambda g, u, y, c, a, b: _only_where(g, c, u),
        lambda g, u, y, c, a, b: g.select(c, g.literal(0.0), u),
    ),
    "clip": (
        lambda x, low, high: ops.minimum(ops.maximum(x, low), high),
        lambda g, u, y, x, low, high: _only_where(g, g.logical_and(g.ge(x, low), g.le(x, high)), u),
        None,  # the tracer takes bounds that are numbers alone
        None,
    ),
}


def _activation(name: str, function: Callable[..., Tensor]) -> tuple[Operation, Operation]:
    """A function of keras.activations, and its slope."""
    value = _elementwise(function, lambda g, u, y, x: g.mul(u, g.add(f"d_{name}", x)))
    return value, Operation(_broadcast_shapes, None, None, is_elementwise=True)


# Functions of keras.activations that the kernels have: native/core/activations.def, here once more,
# as a GPU's kernels need none of our native code.
ACTIVATIONS = (
    "linear",
    "tanh",
    "sigmoid",
    "relu",
    "hard_sigmoid",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "hard_silu",
    "hard_tanh",
    "softplus",
    "softsign",
    "exponential",
    "mish",
    "log_sigmoid",
    "hard_shrink",
    "soft_shrink",
    "tanh_shrink",
    "squareplus",
    "sparse_plus",
    "sparse_sigmoid",
)


@functools.cache
def elementwise() -> dict[str, Operation]:
    """All of them, with those functions of keras.activations that the core has."""
    tables = (_UNARY, _BINARY, _TERNARY)
    found = {name: _elementwise(*entry) for table in tables for name, entry in table.items()}
    for name in ACTIVATIONS:
        if name not in found and name != "linear":
            function = getattr(keras.activations, name)
            found[name], found[f"d_{name}"] = _activation(name, function)
    return found
