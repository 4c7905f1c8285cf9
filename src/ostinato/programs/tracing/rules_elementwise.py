"""Keras's elementwise operations in programs' ones.

A rule takes the translation, the Keras operation, and what it was called with: terms in the place
of tensors. It gives the term of the result, or a list of several.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ostinato import native
from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.terms import Term
from ostinato.programs.tracing.translation import Translation

Rule = Callable[..., Any]


def _plainly(operation: str) -> Rule:
    def rule(t: Translation, op: Any, *operands: Any) -> Term:
        return t.apply(operation, *map(t.term, operands))

    return rule


_PLAIN = {
    "add": "Add",
    "sub": "Subtract",
    "mul": "Multiply",
    "div": "Divide TrueDivide",
    "pow": "Power",
    "max": "Maximum",
    "min": "Minimum",
    "mod": "Mod",
    "floordiv": "FloorDivide",
    "arctan2": "Arctan2",
    "gt": "Greater",
    "ge": "GreaterEqual",
    "lt": "Less",
    "le": "LessEqual",
    "eq": "Equal",
    "ne": "NotEqual",
    "logical_and": "LogicalAnd",
    "logical_or": "LogicalOr",
    "logical_xor": "LogicalXor",
    "neg": "Negative",
    "abs": "Absolute Abs Fabs",
    "sign": "Sign",
    "exp": "Exp",
    "expm1": "Expm1",
    "log": "Log",
    "log1p": "Log1p",
    "sqrt": "Sqrt",
    "rsqrt": "Rsqrt",
    "square": "Square",
    "reciprocal": "Reciprocal",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "relu": "Relu",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "arcsin": "Arcsin",
    "arccos": "Arccos",
    "arctan": "Arctan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "arcsinh": "Arcsinh",
    "arccosh": "Arccosh",
    "arctanh": "Arctanh",
    "floor": "Floor",
    "ceil": "Ceil",
    "trunc": "Trunc",
    "logical_not": "LogicalNot",
    "isnan": "Isnan",
    "isinf": "Isinf",
    "isfinite": "Isfinite",
    # Functions of keras.activations that have nothing to set.
    "relu6": "Relu6",
    "softsign": "Softsign",
    "silu": "Silu",
    "log_sigmoid": "LogSigmoid",
    "hard_sigmoid": "HardSigmoid",
    "hard_silu": "HardSilu",
    "selu": "Selu",
    "hard_tanh": "HardTanh",
    "tanh_shrink": "TanhShrink",
    "sparse_plus": "SparsePlus",
    "sparse_sigmoid": "SparseSigmoid",
    "mish": "Mish",
}


def _activation(name: str, attribute: str, default: Any, otherwise: Rule | None = None) -> Rule:
    """A function of keras.activations with something to set, of which kernels know one value."""

    def rule(t: Translation, op: Any, x: Term) -> Term:
        value = getattr(op, attribute)
        if value == default and name in native.activation_names():
            return t.apply(name, x)
        if otherwise is None:
            raise Untraceable(f"with {attribute}={value!r} isn't among the kernels' functions")
        result: Term = otherwise(t, x, value)
        return result

    return rule


def _leaky(t: Translation, x: Term, slope: float) -> Term:
    sloped = t.apply("mul", t.literal(slope), x)
    return t.apply("select", t.apply("gt", x, t.literal(0.0)), x, sloped)


def _elu(t: Translation, x: Term, alpha: float) -> Term:
    below = t.apply("expm1", t.apply("min", x, t.literal(0.0)))
    below = t.apply("mul", t.literal(alpha), below)
    return t.apply("select", t.apply("gt", x, t.literal(0.0)), x, below)


def _celu(t: Translation, x: Term, alpha: float) -> Term:
    below = t.apply("div", t.apply("min", x, t.literal(0.0)), t.literal(alpha))
    below = t.apply("mul", t.literal(alpha), t.apply("expm1", below))
    return t.apply("select", t.apply("gt", x, t.literal(0.0)), x, below)


def _gelu_by_tanh(t: Translation, x: Term, approximate: bool) -> Term:
    cube = t.apply("mul", t.literal(0.044715), t.apply("mul", x, t.apply("square", x)))
    inner = t.apply("mul", t.literal((2.0 / 3.141592653589793) ** 0.5), t.apply("add", x, cube))
    half = t.apply("mul", t.literal(0.5), x)
    return t.apply("mul", half, t.apply("add", t.literal(1.0), t.apply("tanh", inner)))


def _relu_with(t: Translation, op: Any, x: Term) -> Term:
    """keras.activations.relu with a slope, a maximum or a threshold."""
    threshold = t.literal(float(op.threshold))
    below = t.literal(0.0)
    if op.negative_slope:
        below = t.apply("mul", t.literal(op.negative_slope), t.apply("sub", x, threshold))
    above = x
    if op.max_value is not None:
        above = t.apply("min", x, t.literal(float(op.max_value)))
    if not op.threshold and not op.negative_slope:
        return t.apply("relu", above) if op.max_value is None else _clipped(t, x, 0.0, op.max_value)
    return t.apply("select", t.apply("gt", x, threshold), above, below)


def _clipped(t: Translation, x: Term, low: float, high: float) -> Term:
    return t.apply("clip", x, t.literal(float(low)), t.literal(float(high)))


def _clip(t: Translation, op: Any, x: Term) -> Term:
    low, high = op.x_min, op.x_max
    if all(isinstance(bound, (int, float)) for bound in (low, high)):
        return _clipped(t, x, low, high)
    x = x if low is None else t.apply("max", x, t.term(low))
    return x if high is None else t.apply("min", x, t.term(high))


def _where(t: Translation, op: Any, condition: Any, x1: Any = None, x2: Any = None) -> Term:
    if x1 is None or x2 is None:
        raise Untraceable("without two values to choose from, it makes a shape of its own")
    return t.apply("select", t.term(condition), t.term(x1), t.term(x2))


def _cast(t: Translation, op: Any, x: Term) -> Term:
    """Between floats nothing changes; what a program's precision can't say is refused before."""
    if op.dtype == "bool":
        return t.apply("ne", x, t.literal(0.0))
    if "float" in op.dtype:
        return t.stopped(x) if t.is_of_any_size(x) else x
    if op.dtype not in ("int32", "int64"):
        raise Untraceable(f"it makes {op.dtype}, whose arithmetic isn't among programs' operations")
    if t.is_of_any_size(x):
        raise Untraceable("its whole numbers may be larger than a float can count")
    return x if t.is_whole(x) else t.stopped(t.apply("trunc", x))


def _round(t: Translation, op: Any, x: Term) -> Term:
    if op.decimals == 0:
        return t.apply("round", x)
    scale = t.literal(10.0**op.decimals)
    return t.apply("div", t.apply("round", t.apply("mul", x, scale)), scale)


def _divide_no_nan(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
    x1, x2 = t.term(x1), t.term(x2)
    is_zero = t.apply("eq", x2, t.literal(0.0))
    quotient = t.apply("div", x1, t.apply("select", is_zero, t.literal(1.0), x2))
    return t.apply("select", is_zero, t.literal(0.0), quotient)


def _scaled_log(base: float) -> Rule:
    return lambda t, op, x: t.apply("mul", t.apply("log", x), t.literal(1.0 / math.log(base)))


def _logaddexp(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
    x1, x2 = t.term(x1), t.term(x2)
    gap = t.apply("sub", x1, x2)
    gap = t.apply("select", t.apply("isnan", gap), t.literal(0.0), gap)  # of two infinities
    gap = t.apply("neg", t.apply("abs", gap))
    return t.apply("add", t.apply("max", x1, x2), t.apply("log1p", t.apply("exp", gap)))


def _past_nan(operation: str) -> Rule:
    """`fmax` and `fmin`: NaN only where both are."""

    def rule(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
        x1, x2 = t.term(x1), t.term(x2)
        first = t.apply("select", t.apply("isnan", x1), x2, x1)
        second = t.apply("select", t.apply("isnan", x2), x1, x2)
        return t.apply(operation, first, second)

    return rule


def _nan_to_num(t: Translation, op: Any, x: Term) -> Term:
    largest = float(np.finfo("float32" if t.dtype == "bfloat16" else t.dtype).max)
    for is_it, given, otherwise in (
        (t.apply("isnan", x), op.nan, 0.0),
        (t.apply("eq", x, t.literal(math.inf)), op.posinf, largest),
        (t.apply("eq", x, t.literal(-math.inf)), op.neginf, -largest),
    ):
        number = t.literal(float(otherwise if given is None else given))
        x = t.apply("select", is_it, number, x)
    return x


def _threshold(t: Translation, op: Any, x: Term) -> Term:
    # Keras 3.10 has other names for the two.
    least = op.threshold if hasattr(op, "threshold") else op.threshold_value
    otherwise = op.default_value if hasattr(op, "default_value") else op.value
    above = t.apply("gt", x, t.literal(float(least)))
    return t.apply("select", above, x, t.literal(float(otherwise)))


def _filled(number: float) -> Rule:
    return lambda t, op, x, dtype=None: t.broadcast(t.literal(number), x.shape)


def _full_like(t: Translation, op: Any, x: Term, fill_value: Any, dtype: Any = None) -> Term:
    return t.broadcast(t.term(fill_value), x.shape)


def _same(t: Translation, op: Any, x: Any, *others: Any, **more: Any) -> Term:
    return t.term(x)


def _hypot(t: Translation, op: Any, x1: Any, x2: Any) -> Term:
    squares = [t.apply("square", t.term(x)) for x in (x1, x2)]
    return t.apply("sqrt", t.apply("add", *squares))


def _isclose(
    t: Translation, op: Any, x1: Any, x2: Any, rtol: float, atol: float, equal_nan: bool = False
) -> Term:
    if equal_nan or getattr(op, "equal_nan", False):  # of the operation since Keras 3.11
        raise Untraceable("that NaN equals NaN isn't among programs' operations")
    gap = t.apply("abs", t.apply("sub", t.term(x1), t.term(x2)))
    allowed = t.apply("mul", t.literal(rtol), t.apply("abs", t.term(x2)))
    return t.apply("le", gap, t.apply("add", t.literal(atol), allowed))


ELEMENTWISE: dict[str, Rule] = {
    **{name: _plainly(own) for own, names in _PLAIN.items() for name in names.split()},
    "ReLU": _relu_with,
    "LeakyRelu": _activation("leaky_relu", "negative_slope", 0.2, _leaky),
    "Elu": _activation("elu", "alpha", 1.0, _elu),
    "Celu": _activation("celu", "alpha", 1.0, _celu),
    "Gelu": _activation("gelu", "approximate", False, _gelu_by_tanh),
    "Squareplus": _activation("squareplus", "b", 4),
    "SoftShrink": _activation("soft_shrink", "threshold", 0.5),
    "HardShrink": _activation("hard_shrink", "threshold", 0.5),
    "Threshold": _threshold,
    "Clip": _clip,
    "Where": _where,
    "Cast": _cast,
    "Round": _round,
    "DivideNoNan": _divide_no_nan,
    "Exp2": lambda t, op, x: t.apply("pow", t.literal(2.0), x),
    "Log2": _scaled_log(2.0),
    "Log10": _scaled_log(10.0),
    "Logaddexp": _logaddexp,
    "Fmax": _past_nan("max"),
    "Fmin": _past_nan("min"),
    "NanToNum": _nan_to_num,
    "Hypot": _hypot,
    "Isclose": _isclose,
    "ZerosLike": _filled(0.0),
    "OnesLike": _filled(1.0),
    "FullLike": _full_like,
    "Copy": _same,
    "ConvertToTensor": _same,
    "Array": _same,
    "StopGradient": lambda t, op, x: t.stopped(x),
}
