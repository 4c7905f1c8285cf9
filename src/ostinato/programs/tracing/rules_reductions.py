"""Keras's reductions, and what's made of them, in programs' ones; rules as in rules_elementwise.

Where Keras's own says it in several operations, these are they, in the same order, so that the same
numbers come out.
"""

import math
from typing import Any

import keras
import numpy as np

from ostinato.programs.tracing.refusal import Untraceable
from ostinato.programs.tracing.rules_elementwise import Rule
from ostinato.programs.tracing.terms import Term
from ostinato.programs.tracing.translation import Translation


def _sum(t: Translation, op: Any, x: Term) -> Term:
    return t.reduce("sum", x, op.axis, op.keepdims)


def _mean(t: Translation, op: Any, x: Term) -> Term:
    return mean(t, x, op.axis, op.keepdims)


def mean(t: Translation, x: Term, axes: Any, keepdims: bool) -> Term:
    """The mean over some axes."""
    total = t.reduce("sum", x, axes, keepdims)
    return t.apply("mul", total, t.literal(1.0 / t.count(x, axes)))


def variance(t: Translation, x: Term, axes: Any, keepdims: bool) -> Term:
    """The variance over some axes."""
    apart = t.apply("sub", x, mean(t, x, axes, True))
    return mean(t, t.apply("square", apart), axes, keepdims)


def _std(t: Translation, op: Any, x: Term) -> Term:
    return t.apply("sqrt", variance(t, x, op.axis, op.keepdims))


def _var(t: Translation, op: Any, x: Term) -> Term:
    return variance(t, x, op.axis, op.keepdims)


def _moments(t: Translation, op: Any, x: Term) -> list[Term]:
    axes = tuple(op.axes)
    return [mean(t, x, axes, op.keepdims), variance(t, x, axes, op.keepdims)]


def _max(t: Translation, op: Any, x: Term) -> Term:
    largest = t.reduce("amax", x, op.axis, op.keepdims)
    initial = getattr(op, "initial", None)
    return largest if initial is None else t.apply("max", largest, t.literal(float(initial)))


def _min(t: Translation, op: Any, x: Term) -> Term:
    smallest = t.apply("neg", t.reduce("amax", t.apply("neg", x), op.axis, op.keepdims))
    initial = getattr(op, "initial", None)
    return smallest if initial is None else t.apply("min", smallest, t.literal(float(initial)))


def _any(t: Translation, op: Any, x: Term) -> Term:
    return t.reduce("amax", t.apply("ne", x, t.literal(0.0)), op.axis, op.keepdims)


def _all(t: Translation, op: Any, x: Term) -> Term:
    some_not = t.reduce("amax", t.apply("eq", x, t.literal(0.0)), op.axis, op.keepdims)
    return t.apply("sub", t.literal(1.0), some_not)


def _count_nonzero(t: Translation, op: Any, x: Term) -> Term:
    return t.reduce("sum", t.apply("ne", x, t.literal(0.0)), op.axis)


MOST_FACTORS = 16


def _prod(t: Translation, op: Any, x: Term) -> Term:
    """A product, as one of few factors."""
    axes = range(x.rank) if op.axis is None else op.axis
    axes = [axes] if isinstance(axes, int) else list(axes)
    if t.count(x, tuple(axes)) > MOST_FACTORS:
        raise Untraceable(f"it multiplies more than {MOST_FACTORS} elements")
    for axis in axes:
        result = t.part(x, axis, 0, 1)
        for place in range(1, x.shape[axis]):
            result = t.apply("mul", result, t.part(x, axis, place, 1))
        x = result
    if op.keepdims:
        return x
    gone = {axis % x.rank for axis in axes}
    return t.reshape(x, [size for axis, size in enumerate(x.shape) if axis not in gone])


def _cumprod(t: Translation, op: Any, x: Term) -> Term:
    """The products of the first elements, of few."""
    if op.axis is None:
        raise Untraceable("it goes through all axes as one")
    t.axis(x, op.axis)
    size = x.shape[op.axis]
    if size > MOST_FACTORS:
        raise Untraceable(f"it multiplies more than {MOST_FACTORS} elements")
    products = [t.part(x, op.axis, at, 1) for at in range(size)]
    for at in range(1, size):
        products[at] = t.apply("mul", products[at - 1], products[at])
    return t.joined(products, op.axis)


def _first_largest(t: Translation, op: Any, x: Term) -> Term:
    """Where the largest is, the first of several: the largest of places counted from the end."""
    if op.axis is None:
        raise Untraceable("it looks through all axes as one")
    axis = op.axis % x.rank
    size = x.shape[axis]
    largest = t.reduce("amax", x, axis, True)
    shape = [1] * x.rank
    shape[axis] = size
    from_end = t.term(np.arange(size, 0, -1, dtype="float32").reshape(shape))
    is_it = t.apply("logical_or", t.apply("eq", x, largest), t.apply("isnan", x))
    places = t.apply("mul", is_it, from_end)
    last = t.reduce("amax", places, axis, op.keepdims)
    return t.whole(t.apply("sub", t.literal(float(size)), last))


def _first_smallest(t: Translation, op: Any, x: Term) -> Term:
    return _first_largest(t, op, t.apply("neg", x))


def _one_hot(t: Translation, op: Any, x: Term) -> Term:
    if op.axis not in (-1, x.rank):
        raise Untraceable("it adds another axis than the last")
    places = t.term(np.arange(op.num_classes, dtype="float32"))
    return t.apply("eq", t.reshape(x, (*x.shape, 1)), places)


# Softmax and its kin: minus the maximum, whose gradient is stopped.


def _less_largest(t: Translation, x: Term, axes: Any) -> tuple[Term, Term]:
    largest = t.reduce("amax", x, axes, True)
    largest = t.stopped(largest)
    return t.apply("sub", x, largest), largest


def softmax(t: Translation, x: Term, axes: Any) -> Term:
    """The softmax over some axes."""
    less, _ = _less_largest(t, x, axes)
    powers = t.apply("exp", less)
    return t.apply("div", powers, t.reduce("sum", powers, axes, True))


def _softmax(t: Translation, op: Any, x: Term) -> Term:
    return softmax(t, x, op.axis)


def _log_softmax(t: Translation, op: Any, x: Term) -> Term:
    less, _ = _less_largest(t, x, op.axis)
    total = t.reduce("sum", t.apply("exp", less), op.axis, True)
    return t.apply("sub", less, t.apply("log", total))


def _logsumexp(t: Translation, op: Any, x: Term) -> Term:
    _, largest = _less_largest(t, x, op.axis)
    largest = t.apply("select", t.apply("isfinite", largest), largest, t.literal(0.0))
    powers = t.apply("exp", t.apply("sub", x, largest))
    total = t.reduce("sum", powers, op.axis, True)
    result = t.apply("add", t.apply("log", total), largest)
    if op.keepdims:
        return result
    axes = range(x.rank) if op.axis is None else op.axis
    gone = {axis % x.rank for axis in ([axes] if isinstance(axes, int) else axes)}
    return t.reshape(result, [s for axis, s in enumerate(result.shape) if axis not in gone])


# Norms.


def _norm(t: Translation, op: Any, x: Term) -> Term:
    axes = op.axis
    is_of_vectors = isinstance(axes, int) or len(axes or x.shape) == 1
    if not is_of_vectors and op.ord not in (None, "fro"):
        raise Untraceable(f"a norm of order {op.ord} over {axes} isn't one of vectors")
    if op.ord in (None, 2, "fro"):
        return t.apply("sqrt", t.reduce("sum", t.apply("square", x), axes, op.keepdims))
    if op.ord == 1:
        return t.reduce("sum", t.apply("abs", x), axes, op.keepdims)
    if op.ord == math.inf:
        return t.reduce("amax", t.apply("abs", x), axes, op.keepdims)
    raise Untraceable(f"a norm of order {op.ord} isn't among programs' operations")


def _normalize(t: Translation, op: Any, x: Term) -> Term:
    epsilon = keras.config.epsilon() if op.epsilon is None else op.epsilon
    if op.order != 2:
        raise Untraceable(f"order {op.order} isn't among programs' operations")
    total = t.reduce("sum", t.apply("square", x), op.axis, True)
    inverse = t.apply("min", t.apply("rsqrt", total), t.literal(1.0 / epsilon))
    return t.apply("mul", x, inverse)


def _epsilon(op: Any) -> float:
    return float(keras.config.epsilon() if op.epsilon is None else op.epsilon)


def _along(t: Translation, x: Term, axes: list[int], weight: Any) -> Term | None:
    """A weight of the sizes of some axes, laid along them."""
    if weight is None:
        return None
    term = t.term(weight)
    if term.rank == x.rank or axes == [x.rank - 1]:
        return term
    return t.reshape(term, [x.shape[axis] if axis in axes else 1 for axis in range(x.rank)])


def _axes_of(op: Any, x: Term) -> list[int]:
    axes = [op.axis] if isinstance(op.axis, int) else list(op.axis)
    return sorted(axis % x.rank for axis in axes)


def _layer_norm(t: Translation, op: Any, x: Any, gamma: Any = None, beta: Any = None) -> Term:
    x = t.term(x)
    axes = _axes_of(op, x)
    gamma, beta = _along(t, x, axes, gamma), _along(t, x, axes, beta)
    centred = x if op.rms_scaling else t.apply("sub", x, mean(t, x, tuple(axes), True))
    spread = variance(t, x, tuple(axes), True)
    if not op.rms_scaling:
        spread = mean(t, t.apply("square", centred), tuple(axes), True)
    inverse = t.apply("rsqrt", t.apply("add", spread, t.literal(_epsilon(op))))
    result = t.apply("mul", centred, inverse)
    if gamma is not None:
        result = t.apply("mul", result, gamma)
    return result if beta is None or op.rms_scaling else t.apply("add", result, beta)


def _batch_norm(
    t: Translation,
    op: Any,
    x: Any,
    mean: Any,
    variance: Any,
    offset: Any = None,
    scale: Any = None,
) -> Term:
    """By statistics that are weights; those of the batch itself mix its rows before this."""
    x = t.term(x)
    axes = _axes_of(op, x)
    centre, spread = _along(t, x, axes, mean), _along(t, x, axes, variance)
    gamma, beta = _along(t, x, axes, scale), _along(t, x, axes, offset)
    assert centre is not None
    assert spread is not None
    inverse = t.apply("rsqrt", t.apply("add", spread, t.literal(float(op.epsilon))))
    if gamma is not None:
        inverse = t.apply("mul", inverse, gamma)
    result = t.apply("mul", t.apply("sub", x, centre), inverse)
    return result if beta is None else t.apply("add", result, beta)


def _rms_norm(t: Translation, op: Any, x: Any, scale: Any = None) -> Term:
    x = t.term(x)
    axes = _axes_of(op, x)
    square = mean(t, t.apply("square", x), tuple(axes), True)
    inverse = t.apply("rsqrt", t.apply("add", square, t.literal(_epsilon(op))))
    result = t.apply("mul", x, inverse)
    scale = getattr(op, "scale", None) if scale is None else scale  # Keras 3.10 has it there
    return result if scale is None else t.apply("mul", result, t.term(scale))


REDUCTIONS: dict[str, Rule] = {
    "Sum": _sum,
    "Mean": _mean,
    "Std": _std,
    "Var": _var,
    "Moments": _moments,
    "Max": _max,
    "Amax": _max,
    "Min": _min,
    "Amin": _min,
    "Any": _any,
    "All": _all,
    "CountNonzero": _count_nonzero,
    "Prod": _prod,
    "Cumprod": _cumprod,
    "Argmax": _first_largest,
    "Argmin": _first_smallest,
    "OneHot": _one_hot,
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "Logsumexp": _logsumexp,
    "Norm": _norm,
    "Normalize": _normalize,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "BatchNorm": _batch_norm,
}
