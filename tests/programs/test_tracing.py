"""What a traced cell's program says is what the cell's call does, values and gradients."""

import cells
import keras
import numpy as np
import pytest
from keras import ops, tree

from ostinato.cells.building import build_cell, initial_states
from ostinato.programs.evaluation import evaluate
from ostinato.programs.tracing import Like, trace
from ostinato.structure import leaves, repack

ROWS = 3


def like(nest):
    """What tensors are like, without their rows."""
    return tree.map_structure(lambda x: Like(tuple(x.shape[1:]), "float32"), nest)


def tensors(rng, nest):
    """Random tensors of the shapes of a nest."""

    def draw(x):
        return ops.convert_to_tensor(rng.standard_normal(x.shape).astype("float32"))

    return tree.map_structure(draw, nest)


def made(cell, width=cells.WIDTH, constants=None):
    """A cell, built, with random inputs and states, and what tracing it gives."""
    rng = np.random.default_rng(5)
    xs = ops.convert_to_tensor(rng.standard_normal((ROWS, width)).astype("float32"))
    build_cell(cell, (None, width), "float32")
    states = tensors(rng, initial_states(cell, ROWS, "float32"))
    given = None if constants is None else like(constants)
    return xs, states, trace(cell, like(xs), like(states), given, training=False)


def assert_says_the_same(cell, xs, states, traced, constants=None, tolerance=2e-6):
    """Asserts that a program gives what the cell's call does."""
    keywords = {} if constants is None else {"constants": constants}
    call = cell if isinstance(cell, keras.layers.Layer) else cell.call
    output, new = call(xs, states, **keywords)
    weights, prepared = traced.prepare(cell, constants)
    got, got_new = evaluate(
        traced.program, tuple(leaves(xs)), tuple(leaves(states)), prepared, weights
    )
    expected = [*tree.flatten(output), *tree.flatten(repack(states, new))]
    for a, b in zip((*got, *got_new), expected, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), atol=tolerance, rtol=tolerance
        )


@pytest.mark.parametrize("name", cells.CELLS)
def test_a_program_says_what_the_cell_does(name):
    cell = cells.CELLS[name]()
    assert_says_the_same(cell, *made(cell))


def test_constants_are_prepared_once():
    cell = cells.Attending()
    memory = [tensors(np.random.default_rng(1), np.zeros((ROWS, 6, cells.WIDTH)))]
    xs, states, traced = made(cell, constants=memory)
    assert traced.program.constant_shapes == ((6, cells.UNITS), (6, cells.WIDTH))
    assert_says_the_same(cell, xs, states, traced, memory)
