"""On JAX, under jit: a layer's `stateless_call`, and bare products."""

import functools
from typing import Any

import jax
import numpy as np

from ostinato.bench.cases import Case
from ostinato.bench.prepared import Prepared


def prepare(layer: Any, case: Case, options: dict[str, Any], cotangent: np.ndarray) -> Prepared:
    """Inference, or a training step, compiled.

    Args:
        layer: A built layer.
        case: Its inputs and mode.
        options: Call arguments, of arrays: a mask, or initial states, which get gradients too.
        cotangent: The loss's gradient to the outputs.
    """
    weights = [v.value for v in layer.trainable_variables]
    # Arguments and not constants, or dropout masks would be computed while compiling.
    others = [v.value for v in layer.non_trainable_variables]
    options = jax.tree.map(jax.numpy.asarray, options)
    in_dtype = functools.partial(jax.numpy.asarray, dtype=layer.compute_dtype)
    x, cotangent = jax.tree.map(in_dtype, (case.inputs(), cotangent))
    states = options.pop("initial_state", None)

    def output(weights: Any, x: Any, states: Any, fixed: Any, training: bool) -> Any:
        others, options = fixed
        if states is not None:
            options = {**options, "initial_state": states}
        return layer.stateless_call(weights, others, x, training=training, **options)[0]

    def infer(weights: Any, x: Any, states: Any, fixed: Any, cotangent: Any) -> Any:
        return (output(weights, x, states, fixed, False),)

    def train(weights: Any, x: Any, states: Any, fixed: Any, cotangent: Any) -> Any:
        def trained(weights: Any, x: Any, states: Any) -> Any:
            return output(weights, x, states, fixed, True)

        ys, pull_back = jax.vjp(trained, weights, x, states)
        dweights, dx, dstates = pull_back(cotangent)
        return ys, dx, *dweights, dstates

    function = jax.jit(infer if case.mode == "infer" else train)
    arguments = (weights, x, states, (others, options), cotangent)
    # Compiled ahead, so that the first run is like any other.
    compiled = function.lower(*arguments).compile()

    def values(results: Any) -> list[np.ndarray]:
        ys, *gradients = (np.asarray(y, "float32") for y in jax.tree.leaves(results))
        return [case.comparable(ys), *gradients]

    return Prepared(lambda: jax.block_until_ready(compiled(*arguments)), values)


def products(case: Case) -> Prepared:
    """The case's matrix products alone; there are no values to compare."""
    left, right, times = case.products()
    operands, weights = jax.numpy.asarray(left), jax.numpy.asarray(right)
    start = jax.numpy.zeros((left.shape[1], right.shape[1]))

    def multiply(operands: Any, weights: Any) -> Any:
        def one(index: Any, _: Any) -> Any:
            return operands[index % len(operands)] @ weights

        return jax.lax.fori_loop(0, times, one, start)

    compiled = jax.jit(multiply).lower(operands, weights).compile()
    run = functools.partial(compiled, operands, weights)
    return Prepared(lambda: run().block_until_ready(), lambda results: [], f"{times} products")
