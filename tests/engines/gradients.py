"""A layer's results and its gradients, on whichever backend Keras runs: one function a backend."""

import contextlib
import functools
from dataclasses import dataclass

import keras
import numpy as np
from keras import tree


@dataclass(frozen=True)
class Pulled:
    """NumPy arrays: the results in order, and the gradients of inputs, initial states, weights."""

    results: list
    inputs: list
    states: list
    weights: list


def pull_back(layer, x, states, d_results, **call) -> Pulled:
    """Calls a built layer, and pulls the gradients `d_results` of its flat results back.

    `states` is a list of arrays or None; `call` holds the other call arguments. None as
    `d_results` stands for random ones, always the same.
    """
    run = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}[keras.config.backend()]
    return _in_numpy(x, states, *run(layer, x, states, d_results, call))


def pull_back_outside_jit(layer, x, states, d_results, **call) -> Pulled:
    """The same on JAX without compiling it."""
    return _in_numpy(x, states, *_jax(layer, x, states, d_results, call, compiled=False))


def pull_back_in_graph(layer, x, states, d_results, *, mask=None, xla=False) -> Pulled:
    """The same in a tf.function that knows neither batch nor time; with `xla` it knows both."""
    import tensorflow as tf

    def known(array):
        free = 0 if xla else 2 if array.ndim == 3 or array is mask else 1
        return tf.TensorSpec([None] * free + list(array.shape[free:]), array.dtype)

    arguments = (x, states or [], [] if mask is None else [mask], d_results)

    @tf.function(jit_compile=xla, input_signature=tree.map_structure(known, arguments))
    def run(x, states, mask, d_results):
        return _tensorflow(layer, x, states or None, d_results, {"mask": mask[0] if mask else None})

    return _in_numpy(x, states, *run(*tree.map_structure(tf.constant, arguments)))


def _in_numpy(x, states, results, gradients) -> Pulled:
    in_numpy = [keras.ops.convert_to_numpy(g) for g in gradients]
    inputs, initial = len(tree.flatten(x)), len(tree.flatten(states or []))
    return Pulled(
        [keras.ops.convert_to_numpy(r) for r in results],
        in_numpy[:inputs],
        in_numpy[inputs : inputs + initial],
        in_numpy[inputs + initial :],
    )


def double_precision():
    """JAX keeps float64 only inside this context; the other backends always do."""
    if keras.config.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    # jax.enable_x64 is the newer spelling of the same context.
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    return enable(True)


def _jax(layer, x, states, d_results, call, *, compiled=True):
    import jax

    trainable = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]

    def results(x, states, trainable):
        got, _ = layer.stateless_call(trainable, others, x, initial_state=states, **call)
        return tree.flatten(got)

    def run(x, states, trainable, d_results):
        got, vjp = jax.vjp(results, x, states, trainable)
        return got, vjp(d_results or random_like(got))

    if compiled:
        run = jax.jit(run, compiler_options=_quick_to_compile())
    got, gradients = run(x, states, trainable, d_results)
    return got, jax.tree_util.tree_leaves(gradients)


@functools.cache
def _quick_to_compile():
    """Every example compiles a program that runs once: 0.15 s with these options, 0.5 without."""
    import jax

    options = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # an XLA that doesn't know one of them
        return {}
    return options


def _torch(layer, x, states, d_results, call):
    import torch

    x, states = _tensors(lambda a: torch.tensor(a, requires_grad=True), x, states)
    got = tree.flatten(layer(x, initial_state=states, **call))
    sources = [*tree.flatten(x), *tree.flatten(states or [])]
    sources += [v.value for v in layer.trainable_variables]
    d_results = [torch.tensor(d) for d in d_results or random_like(got)]
    gradients = torch.autograd.grad(got, sources, d_results, allow_unused=True)
    pairs = zip(gradients, sources, strict=True)
    return got, [torch.zeros_like(s) if g is None else g for g, s in pairs]


def _tensorflow(layer, x, states, d_results, call):
    import tensorflow as tf

    x, states = _tensors(tf.convert_to_tensor, x, states)
    sources = [*tree.flatten(x), *tree.flatten(states or [])]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        got = tree.flatten(layer(x, initial_state=states, **call))
    sources += [v.value for v in layer.trainable_variables]
    d_results = d_results or random_like(got)
    return got, tape.gradient(
        got, sources, d_results, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def _tensors(convert, x, states):
    x = tree.map_structure(convert, x)
    return x, None if states is None else tree.map_structure(convert, states)


def random_like(arrays) -> list:
    """Random upstream gradients, for results of these shapes and dtypes; always the same."""
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=tuple(a.shape)).astype(keras.backend.standardize_dtype(a.dtype))
        for a in arrays
    ]
