"""What a traced cell's program says is what the cell's call does, values and gradients."""

import keras
import numpy as np
import pytest
from keras import ops, tree

from ostinato.cells.building import build_cell, initial_states
from ostinato.programs.evaluation import evaluate
from ostinato.programs.tracing import Like, trace
from ostinato.structure import leaves, repack
from programs import cells

ROWS = 3


def like(nest):
    """What tensors are like, without their rows."""
    return tree.map_structure(lambda x: Like(tuple(x.shape[1:]), "float32"), nest)


def tensors(rng, nest):
    """Random tensors of the shapes of a nest."""

    def draw(x):
        return ops.convert_to_tensor(rng.standard_normal(x.shape).astype("float32"))

    return tree.map_structure(draw, nest)


def made(cell, constants=None, training=False):
    """A cell, built, with random inputs and states, and what tracing it gives."""
    rng = np.random.default_rng(5)
    size = cells.SIZES.get(type(cell).__name__, (cells.WIDTH,))
    xs = ops.convert_to_tensor(rng.standard_normal((ROWS, *size)).astype("float32"))
    build_cell(cell, (None, *size), "float32")
    states = tensors(rng, initial_states(cell, ROWS, "float32"))
    given = None if constants is None else like(constants)
    return xs, states, trace(cell, like(xs), like(states), given, training=training)


def pulled(function, tensors, variables):
    """A function's results, and the gradients of a sum of them, of its tensors and variables."""
    pull = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}[keras.config.backend()]
    results, gradients = pull(function, tensors, variables)
    flat = [*results, *(np.zeros(()) if g is None else g for g in gradients)]
    return [ops.convert_to_numpy(ops.convert_to_tensor(tensor)) for tensor in flat]


def weighed(results):
    """A sum of all results in which no two elements count the same."""
    return sum(
        ops.sum(ops.cos(ops.reshape(ops.arange(ops.size(r), dtype="float32"), ops.shape(r))) * r)
        for r in results
    )


def _jax(function, tensors, variables):
    import jax

    def loss(tensors, values):
        pairs = zip(variables, values, strict=True)
        with keras.StatelessScope(pairs):
            results = function(*tensors)
        return weighed(results), results

    gradients, results = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
        tensors, [variable.value for variable in variables]
    )
    return results, [*gradients[0], *gradients[1]]


def _torch(function, tensors, variables):
    import torch

    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    results = function(*tensors)
    inputs = [*tensors, *(variable.value for variable in variables)]
    gradients = torch.autograd.grad(weighed(results), inputs, allow_unused=True)
    return [result.detach() for result in results], list(gradients)


def _tensorflow(function, tensors, variables):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        results = function(*tensors)
        loss = weighed(results)
    return results, tape.gradient(loss, [*tensors, *(variable.value for variable in variables)])


def assert_says_the_same(cell, xs, states, traced, constants=None, tolerance=5e-6):
    """Asserts that a program gives what the cell's call does, and its gradients."""
    call = cell if isinstance(cell, keras.layers.Layer) else cell.call
    counts = [len(leaves(nest)) for nest in (xs, states)]

    def parts(tensors):
        xs_, states_ = tensors[: counts[0]], tensors[counts[0] : sum(counts)]
        return xs_, states_, list(tensors[sum(counts) :]) or None

    def by_cell(*tensors):
        flat_xs, flat_states, constants = parts(tensors)
        keywords = {} if constants is None else {"constants": constants}
        packed = tree.pack_sequence_as(xs, flat_xs), tree.pack_sequence_as(states, flat_states)
        output, new = call(*packed, **keywords)
        return [*tree.flatten(output), *tree.flatten(repack(states, new))]

    def by_program(*tensors):
        flat_xs, flat_states, constants = parts(tensors)
        weights, prepared = traced.prepare(cell, constants)
        outputs, new = evaluate(traced.program, flat_xs, flat_states, prepared, weights)
        return [*outputs, *new]

    given = [*leaves(xs), *leaves(states), *(constants or [])]
    variables = [v for v in getattr(cell, "variables", []) if "seed" not in v.path]
    expected = pulled(by_cell, given, variables)
    for a, b in zip(pulled(by_program, given, variables), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", cells.CELLS)
def test_a_program_says_what_the_cell_does(name):
    cell = cells.CELLS[name]()
    assert_says_the_same(cell, *made(cell))


def test_a_slope_is_a_number_where_the_branch_not_taken_is_infinite():
    class Steep(cells.Cell):
        def call(self, inputs, states):
            h = keras.activations.elu(300.0 * states[0], alpha=0.5)
            h = 1e-3 * (h + keras.activations.celu(300.0 * states[0], alpha=0.7))
            return h, [h]

    assert_says_the_same(Steep(), *made(Steep()))


def test_constants_are_prepared_once():
    cell = cells.Attending()
    memory = [tensors(np.random.default_rng(1), np.zeros((ROWS, 6, cells.WIDTH)))]
    xs, states, traced = made(cell, constants=memory)
    assert traced.program.constant_shapes == ((6, cells.UNITS), (6, cells.WIDTH))
    assert_says_the_same(cell, xs, states, traced, memory)


def test_what_is_prepared_can_be_compiled():
    """In a trace of the framework's own; what a program keeps outlives that."""
    cell = cells.Attending()
    memory = [tensors(np.random.default_rng(1), np.zeros((ROWS, 6, cells.WIDTH)))]
    xs, states, _ = made(cell, constants=memory)
    found = []

    def prepared(memory):
        found.append(trace(cell, like(xs), like(states), like([memory]), training=False))
        return found[0].prepare(cell, [memory])

    if keras.config.backend() == "jax":
        import jax

        compiled = jax.jit(prepared)(memory[0])
    elif keras.config.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(prepared, autograph=False)(memory[0])  # as Keras does
    else:
        import torch

        prepared(memory[0])
        prepare = torch.compile(lambda memory: found[0].prepare(cell, [memory]), backend="eager")
        compiled = prepare(memory[0])
    now = found[0].prepare(cell, memory)
    for a, b in zip(tree.flatten(compiled), tree.flatten(now), strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), rtol=1e-5, atol=1e-6
        )


def test_a_program_serves_cells_of_the_same_configuration():
    one, other = cells.WithLayers(), cells.WithLayers()
    xs, states, traced = made(one)
    made(other)
    assert_says_the_same(other, xs, states, traced)


def test_mixed_precision_reads_the_weights_as_the_cell_does():
    cell = cells.WithLayers()
    cell.dtype_policy = "mixed_bfloat16"
    cell.build((None, cells.WIDTH))
    half = [Like((cells.UNITS,), "bfloat16")]
    traced = trace(cell, Like((cells.WIDTH,), "bfloat16"), half, None, training=False)
    weights, _ = traced.prepare(cell, None)
    assert traced.dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in weights} == {"bfloat16"}
