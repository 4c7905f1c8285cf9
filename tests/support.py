"""What the tests of the layers share."""

import os
import random
from collections import namedtuple
from itertools import combinations, product

import keras
import numpy as np
import pytest
from keras import ops, tree

from ostinato import Shape

PenState = namedtuple("PenState", ["position", "pressure"])

# The oldest that is tested, and what of Keras's own it hasn't or gets wrong.
IS_OLDEST_KERAS = keras.__version__.startswith("3.10.")

# What needs Keras, but gives the same on every backend, runs on the one that compiles nothing.
ON_ONE_BACKEND = keras.config.backend() == "torch"
on_one_backend = pytest.mark.skipif(not ON_ONE_BACKEND, reason="the same on every backend")

# What a backend could change, but hardly does, runs on PyTorch with the newest Keras. Of the rest
# `make test` has a sample, and `make long`, where Keras is the newest, all.
LONG = os.environ.get("OSTINATO_LONG", "0") not in ("", "0")
WHOLE = (ON_ONE_BACKEND and not IS_OLDEST_KERAS) or LONG
in_long = pytest.mark.skipif(not LONG, reason="in `make long`")
elsewhere_in_long = pytest.mark.skipif(
    not (ON_ONE_BACKEND or LONG), reason="on PyTorch, and in `make long`"
)


def sample(whole, *some):
    """For parametrize: all there is, or where it isn't the whole those of them that `some` says.

    `whole` is a list or a dict, and `some` are its items or its keys.
    """
    if WHOLE:
        return list(whole)
    left = [each for each in some if each not in whole]
    assert not left, f"{left} isn't among {list(whole)}"
    return [each for each in whole if each in some]


def one_in(number, whole):
    """For parametrize: of a list or a dict every `number`-th; in `make long` all of it."""
    return list(whole) if LONG else list(whole)[::number]


def crossed(*axes):
    """For parametrize: the full cross; where it isn't the whole, each pair of values at least."""
    return [*product(*axes)] if WHOLE or len(axes) < 2 else pairwise(axes)


def in_turn(cases, *options):
    """For parametrize: each case with each combination of the options; else with one, in turn."""
    every = [*product(*options)]
    # Not by turns alone: of the doors' cases each fourth is of the same kind.
    turns = [every[(at + at // 4) % len(every)] for at in range(len(cases))]
    if WHOLE:
        return [(case, *chosen) for case, chosen in product(cases, every)]
    return [(case, *chosen) for case, chosen in zip(cases, turns, strict=True)]


def pairwise(axes):
    """Rows, a value of each axis, in which any two values of two axes meet; the same every time."""
    missing = {
        frozenset(((a, i), (b, j)))
        for a, b in combinations(range(len(axes)), 2)
        for i, j in product(range(len(axes[a])), range(len(axes[b])))
    }
    drawn, rows = random.Random(0), []
    while missing:
        # Each begins with a pair that has to come, and is the one of 50 with most of the rest.
        must = dict(min(missing, key=sorted))
        tried = [
            [must.get(a, drawn.randrange(len(values))) for a, values in enumerate(axes)]
            for _ in range(50)
        ]
        row = max(tried, key=lambda row: len(missing & _pairs(row)))
        missing -= _pairs(row)
        rows.append(tuple(values[i] for values, i in zip(axes, row, strict=True)))
    return rows


def _pairs(row):
    return {frozenset(pair) for pair in combinations(enumerate(row), 2)}


def array(seed, *shape):
    """Random float32 values of a shape."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy(structure):
    """A structure of tensors as NumPy arrays, in the same containers."""
    return tree.map_structure(ops.convert_to_numpy, structure)


def assert_close(actual, expected, tolerance=1e-5):
    """Asserts that two structures have the same leaves, to an absolute tolerance."""
    actual, expected = tree.flatten(numpy(actual)), tree.flatten(numpy(expected))
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


class CellOfUnits(keras.layers.Layer):
    """What a user's cell has beside its mathematics: as many units, a kernel, a config."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="tests")
class NestedCell(keras.layers.Layer):
    """The guide's cell: two inputs, two states and two outputs, one of each a matrix a timestep."""

    def __init__(self, unit_1, unit_2, unit_3, **kwargs):
        self.unit_1, self.unit_2, self.unit_3 = unit_1, unit_2, unit_3
        self.state_size = [Shape(unit_1), Shape(unit_2, unit_3)]
        self.output_size = [Shape(unit_1), Shape(unit_2, unit_3)]
        super().__init__(**kwargs)

    def build(self, input_shapes):
        (_, i1), (_, i2, i3) = input_shapes
        self.kernel_1 = self.add_weight(shape=(i1, self.unit_1), name="kernel_1")
        self.kernel_2_3 = self.add_weight(
            shape=(i2, i3, self.unit_2, self.unit_3), name="kernel_2_3"
        )

    def call(self, inputs, states):
        input_1, input_2 = tree.flatten(inputs)
        s1, s2 = states
        output_1 = ops.matmul(input_1, self.kernel_1)
        output_2 = ops.einsum("bij,ijkl->bkl", input_2, self.kernel_2_3)
        return (output_1, output_2), (s1 + output_1, s2 + output_2)

    def get_config(self):
        config = super().get_config()
        return {**config, "unit_1": self.unit_1, "unit_2": self.unit_2, "unit_3": self.unit_3}


@keras.saving.register_keras_serializable(package="tests")
class DictCell(keras.layers.Layer):
    """Dicts all the way: inputs, states and outputs, with a leaky sum in each state."""

    def __init__(self, leak=0.5, **kwargs):
        super().__init__(**kwargs)
        self.leak = leak
        self.state_size = {"pen": PenState(Shape(2), Shape(3, 1)), "count": 1}
        self.output_size = {"where": 2, "force": Shape(3, 1)}

    def call(self, inputs, states):
        pen = states["pen"]
        position = self.leak * pen.position + inputs["location"]
        pressure = self.leak * pen.pressure + inputs["pressure"]
        count = states["count"] + 1.0
        output = {"where": position * count, "force": pressure}
        return output, {"count": count, "pen": PenState(position, pressure)}

    def get_config(self):
        return {**super().get_config(), "leak": self.leak}


def dict_cell_by_numpy(location, pressure, leak=0.5, mask=None, states=None):
    """What an RNN(DictCell()) gives for all timesteps, and its final states."""
    batch, timesteps = location.shape[:2]
    if states is None:
        states = (np.zeros((batch, 2)), np.zeros((batch, 3, 1)), np.zeros((batch, 1)))
    position, force, count = states
    where_before, force_before = np.zeros((batch, 2)), np.zeros((batch, 3, 1))
    wheres, forces = [], []
    for t in range(timesteps):
        valid = np.ones(batch, bool) if mask is None else mask[:, t]
        column, matrix = valid[:, None], valid[:, None, None]
        new_position = leak * position + location[:, t]
        new_force = leak * force + pressure[:, t]
        where = np.where(column, new_position * (count + 1), where_before)
        shown = np.where(matrix, new_force, force_before)
        position = np.where(column, new_position, position)
        force = np.where(matrix, new_force, force)
        count = np.where(column, count + 1, count)
        where_before, force_before = where, shown
        wheres.append(where)
        forces.append(shown)
    outputs = {"where": np.stack(wheres, 1), "force": np.stack(forces, 1)}
    return outputs, {"pen": PenState(position, force), "count": count}
