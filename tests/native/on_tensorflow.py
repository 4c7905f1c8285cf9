"""Runs as TensorFlow's tensors: what goes into the native engine, its results, their gradients."""

from dataclasses import replace

import numpy as np
import tensorflow as tf

from ostinato.doors import door


def tensors(case, dtype="float64"):
    """The case's operands."""
    return {n: tf.constant(a, None if a.dtype == bool else dtype) for n, a in case.arrays.items()}


def run(case, operands, training=False):
    return door.native_run((replace(case.spec, training=training),), tuple(operands.values()))


def total(results):
    """A scalar of all results, each element with its own weight."""
    weights = [tf.cos(tf.cast(tf.range(tf.size(y)), y.dtype)) for y in results]
    parts = zip(results, weights, strict=True)
    return sum(tf.reduce_sum(y * tf.reshape(weight, tf.shape(y))) for y, weight in parts)


def pulled(case, operands, training=True):
    """Results and the gradients of `total`, by operand."""
    wanted = {name: operands[name] for name in case.differentiable}
    with tf.GradientTape() as tape:
        tape.watch(wanted)
        results = run(case, operands, training)
        loss = total(results)
    return results, tape.gradient(loss, wanted)


def assert_equal(got, wanted):
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def function_of(case, training=False, **options):
    """`run` as a tf.function of the operands, in order."""

    def call(*operands):
        return run(case, dict(zip(case.arrays, operands, strict=True)), training)

    return tf.function(call, autograph=False, **options)
