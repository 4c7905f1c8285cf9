"""A layer's forward pass and training step as functions to time, in each backend's fastest mode.

A training step here is the forward pass in training and the gradients with respect to the inputs
and every weight. Each function returns NumPy arrays or waits for its results otherwise, so that
nothing is left running when the clock stops.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Run = Callable[[], Any]


def functions(layer: keras.layers.Layer, x: np.ndarray) -> dict[str, Run]:
    """The forward pass and the training step of a layer on inputs x."""
    makers = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}
    forward, train = makers[keras.config.backend()](layer, x)
    return {"forward": forward, "training step": train}


def _jax(layer: keras.layers.Layer, x: np.ndarray) -> tuple[Run, Run]:
    import jax

    weights = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]
    inputs = jax.numpy.asarray(x)

    def output(weights: Any, inputs: Any, training: bool) -> Any:
        return layer.stateless_call(weights, others, inputs, training=training)[0]

    forward = jax.jit(lambda weights, inputs: output(weights, inputs, False))
    train = jax.jit(jax.grad(lambda w, inputs: output(w, inputs, True).sum(), argnums=(0, 1)))

    def gradients() -> list[Any]:
        by_weight, by_input = jax.block_until_ready(train(weights, inputs))
        return [by_input, *by_weight]

    return lambda: [forward(weights, inputs).block_until_ready()], gradients


def _torch(layer: keras.layers.Layer, x: np.ndarray) -> tuple[Run, Run]:
    import torch

    inputs = torch.tensor(x, requires_grad=True)
    tensors = [inputs, *(v.value for v in layer.trainable_variables)]

    def forward() -> list[Any]:
        with torch.inference_mode():
            return [layer(inputs)]

    def train() -> list[Any]:
        for tensor in tensors:
            tensor.grad = None
        layer(inputs, training=True).sum().backward()
        return [tensor.grad for tensor in tensors]

    return forward, train


def _tensorflow(layer: keras.layers.Layer, x: np.ndarray) -> tuple[Run, Run]:
    import tensorflow as tf

    inputs = tf.constant(x)
    forward = tf.function(lambda: layer(inputs))

    @tf.function
    def train() -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(layer(inputs, training=True))
        return tape.gradient(total, [inputs, *(v.value for v in layer.trainable_variables)])

    def wait(function: Any) -> Run:
        def run() -> list[Any]:
            return [tf.convert_to_tensor(t).numpy() for t in keras.tree.flatten(function())]

        return run

    return wait(forward), wait(train)
