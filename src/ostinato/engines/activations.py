"""Which of Keras's functions the engines have, by identity."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from ostinato import native
from ostinato.doors import opaque

# Functions of keras.ops that are, with their defaults, what keras.activations has by that name.
_SAME_IN_OPS = ("tanh", "sigmoid", "relu", "relu6", "silu", "softplus", "softsign", "elu", "selu")

# What cuDNN has: known also where the native kernels aren't built.
_CUDNN = ("tanh", "sigmoid", "relu")


def activation_name(function: Callable[..., Any]) -> str | None:
    """The engines' name of a function of keras.activations or keras.ops; None of any other."""
    return _activation_names().get(id(function))


@opaque
@functools.cache
def _activation_names() -> dict[int, str]:
    """By identity: a user's own function may have any name, and Keras's live on in their module."""
    names = native.activation_names() if native.why_not() is None else _CUDNN
    pairs = [(name, getattr(keras.activations, name, None)) for name in names]
    pairs += [(name, getattr(ops, name, None)) for name in names if name in _SAME_IN_OPS]
    return {id(function): name for name, function in pairs if function is not None}
