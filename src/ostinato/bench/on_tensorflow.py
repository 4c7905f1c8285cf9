"""A layer on TensorFlow, of Keras 3 or of tf_keras: called in a tf.function."""

from typing import Any

import numpy as np
import tensorflow as tf

from ostinato.bench.cases import Case
from ostinato.bench.prepared import Prepared


def prepare(layer: Any, case: Case, options: dict[str, Any], cotangent: np.ndarray) -> Prepared:
    """Inference, or a training step, in a graph; the arguments are those of `on_jax.prepare`."""
    tensors = tf.nest.map_structure(tf.constant, options)
    x, gradient = tf.nest.map_structure(
        lambda array: tf.cast(array, layer.compute_dtype), (case.inputs(), cotangent)
    )
    # Keras 3's variables hold TensorFlow's; tf_keras's are TensorFlow's.
    weights = [v if isinstance(v, tf.Variable) else v.value for v in layer.trainable_variables]

    def infer(x: Any, options: Any, gradient: Any) -> Any:
        return (layer(x, training=False, **options),)

    def train(x: Any, options: Any, gradient: Any) -> Any:
        states = options.get("initial_state", [])
        with tf.GradientTape() as tape:
            tape.watch([x, states])
            ys = tf.nest.flatten(layer(x, training=True, **options))
        wanted = [*tf.nest.flatten(x), *weights, *states]
        given = tf.nest.flatten(gradient)
        return *ys, *tape.gradient(ys, wanted, output_gradients=given)

    compiled = tf.function(infer if case.mode == "infer" else train)
    # Traced by a call: asked for a concrete function, layers take it for one that is to be saved,
    # and trace the portable engine.
    compiled(x, tensors, gradient)

    def values(results: Any) -> list[np.ndarray]:
        flat = tf.nest.flatten(results)
        ys, *gradients = (tf.cast(result, "float32").numpy() for result in flat)
        return [case.comparable(ys), *gradients]

    # On the CPU a function's results are there when it returns.
    return Prepared(lambda: compiled(x, tensors, gradient), values)
