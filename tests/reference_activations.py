"""The reference's activations in NumPy float64: each a value, and the gradient of its argument."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Activation:
    """`value(z)`, and `vjp(z, dy)`: the gradient at z, given that of value(z)."""

    value: Callable[[Array], Array]
    vjp: Callable[[Array, Array], Array]


def elementwise(value: Callable[[Array], Array], slope: Callable[[Array], Array]) -> Activation:
    return Activation(value, lambda z, dy: dy * slope(z))


def sigmoid(z: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def softplus(z: Array) -> Array:
    return np.logaddexp(z, 0.0)


def normal_cdf(z: Array) -> Array:
    return 0.5 * (1.0 + np.vectorize(math.erf, otypes=[float])(z / math.sqrt(2.0)))


def normal_pdf(z: Array) -> Array:
    return np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_vjp(z: Array, dy: Array) -> Array:
    y = softmax(z)
    return y * (dy - (y * dy).sum(axis=-1, keepdims=True))


def log_softmax(z: Array) -> Array:
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def log_softmax_vjp(z: Array, dy: Array) -> Array:
    return dy - softmax(z) * dy.sum(axis=-1, keepdims=True)


def mish_slope(z: Array) -> Array:
    t = np.tanh(softplus(z))
    return t + z * (1.0 - t * t) * sigmoid(z)


def ramp(z: Array, low: float, high: float) -> Array:
    """1 strictly between low and high, else 0."""
    return ((z > low) & (z < high)).astype(float)


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

ACTIVATIONS = {
    "linear": elementwise(lambda z: z, np.ones_like),
    "tanh": elementwise(np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": elementwise(sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "relu": elementwise(lambda z: np.maximum(z, 0), lambda z: ramp(z, 0, np.inf)),
    "relu6": elementwise(lambda z: np.clip(z, 0, 6), lambda z: ramp(z, 0, 6)),
    "leaky_relu": elementwise(
        lambda z: np.where(z > 0, z, 0.2 * z), lambda z: np.where(z > 0, 1.0, 0.2)
    ),
    "elu": elementwise(
        lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        lambda z: np.exp(np.minimum(z, 0)),
    ),
    "selu": elementwise(
        lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0))),
        lambda z: SELU_SCALE * np.where(z > 0, 1.0, SELU_ALPHA * np.exp(np.minimum(z, 0))),
    ),
    "gelu": elementwise(lambda z: z * normal_cdf(z), lambda z: normal_cdf(z) + z * normal_pdf(z)),
    "silu": elementwise(
        lambda z: z * sigmoid(z), lambda z: sigmoid(z) + z * sigmoid(z) * sigmoid(-z)
    ),
    "mish": elementwise(lambda z: z * np.tanh(softplus(z)), mish_slope),
    "softplus": elementwise(softplus, sigmoid),
    "softsign": elementwise(lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "squareplus": elementwise(
        lambda z: 0.5 * (z + np.sqrt(z * z + 4)), lambda z: 0.5 * (1 + z / np.sqrt(z * z + 4))
    ),
    "sparse_plus": elementwise(
        lambda z: np.where(z < 1, 0.25 * np.maximum(z + 1, 0) ** 2, z),
        lambda z: np.clip(0.5 * (z + 1), 0, 1),
    ),
    "tanh_shrink": elementwise(lambda z: z - np.tanh(z), lambda z: np.tanh(z) ** 2),
    "log_sigmoid": elementwise(lambda z: -softplus(-z), lambda z: sigmoid(-z)),
    "exponential": elementwise(np.exp, np.exp),
    "hard_sigmoid": elementwise(lambda z: np.clip(z / 6 + 0.5, 0, 1), lambda z: ramp(z, -3, 3) / 6),
    "hard_tanh": elementwise(lambda z: np.clip(z, -1, 1), lambda z: ramp(z, -1, 1)),
    "hard_silu": elementwise(
        lambda z: z * np.clip(z / 6 + 0.5, 0, 1),
        lambda z: np.clip(z / 6 + 0.5, 0, 1) + z * ramp(z, -3, 3) / 6,
    ),
    "softmax": Activation(softmax, softmax_vjp),
    "log_softmax": Activation(log_softmax, log_softmax_vjp),
}
