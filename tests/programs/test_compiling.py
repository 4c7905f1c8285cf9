"""Programs kept with their cells: what makes another one, and what none is trusted without."""

import contextlib
import sys
import weakref
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato import native
from ostinato.layers import RNN
from ostinato.programs import compiling, elementwise
from ostinato.programs.settings import settings
from ostinato.programs.tracing.rules import RULES

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason="no native engine")

X = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")


class Held:
    factor = 1.0


class Doubled:
    def __call__(self, x):
        return x * 2


class Tripled:
    def __call__(self, x):
        return x * 3


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor


class Cell(keras.layers.Layer):
    """Reads its attributes wherever they are."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = 4
        self._decay, self.parts, self.table = 0.5, [Held()], np.ones(3, "float32")
        self.parts[0].factor = 2.0
        self.leak, self.outer = np.float32(0.1), Doubled()

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, inputs, states):
        h = ops.tanh(ops.matmul(inputs, self.kernel)) * self.parts[0].factor
        h = h * float(self.table[0]) + self._decay * states[0]
        return self.outer(h) + self.leak, [h]


SCALE, TABLE = 1.5, {"shift": 0.25}


def shifted(x):
    return x * SCALE + TABLE["shift"]


class Around(keras.layers.Layer):
    """Reads what isn't its own: its class's, a name beside it, one that a function of it reads."""

    state_size = output_size = 5
    decay = 0.5

    def call(self, inputs, states):
        h = self.decay * states[0] + shifted(inputs)
        return h, [h]


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [(Around, "decay", -1.0), (None, "SCALE", 3.0), (None, "TABLE", {"shift": 2.0})],
)
def test_what_changes_around_a_cell_is_another_program(monkeypatch, owner, name, value):
    layer = RNN(Around())
    before, _ = both(layer)
    monkeypatch.setattr(owner or sys.modules[__name__], name, value)
    got, expected = both(layer)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got - before).max() > 0.1
    assert programs_of(layer.cell) == 2


def both(layer, is_compiled=True):
    """What a layer gives on the engine for such cells, or on what it takes, and on `scan`."""
    with ostinato.use_engine("compiled") if is_compiled else contextlib.nullcontext():
        got = ops.convert_to_numpy(layer(X))
    with ostinato.use_engine("scan"):
        return got, ops.convert_to_numpy(layer(X))


def programs_of(cell):
    return len(compiling._KEPT[id(cell)])


CHANGES = {
    "a private number": lambda cell: setattr(cell, "_decay", 0.1),
    "an object in a list": lambda cell: setattr(cell.parts[0], "factor", -1.0),
    "an array in place": lambda cell: cell.table.__setitem__(0, 3.0),
    "a number of NumPy's": lambda cell: setattr(cell, "leak", np.float32(0.7)),
    "another object without attributes": lambda cell: setattr(cell, "outer", Tripled()),
    "a part of a function": lambda cell: setattr(cell, "outer", partial(ops.multiply, 5.0)),
    "an object with slots": lambda cell: setattr(cell, "outer", Slotted(7.0)),
}
# What the cell has before the change: another of the same kind.
BEFORE = {
    "a part of a function": lambda cell: setattr(cell, "outer", partial(ops.multiply, 4.0)),
    "an object with slots": lambda cell: setattr(cell, "outer", Slotted(6.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_attribute_is_another_program(change):
    layer = RNN(Cell())
    BEFORE.get(change, lambda cell: None)(layer.cell)
    before, _ = both(layer)
    both(layer)
    assert programs_of(layer.cell) == 1
    CHANGES[change](layer.cell)
    got, expected = both(layer)
    assert programs_of(layer.cell) == 2
    assert np.abs(got - before).max() > 0.01
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_function_is_not_taken_for_one_that_is_gone():
    """A new one may have the id, which is its address, of one before it."""
    layer, addresses = RNN(Cell()), set()
    for factor in range(1, 30):
        layer.cell.outer = None
        layer.cell.outer = eval(f"lambda x: x * {factor}")
        was_known = id(layer.cell.outer) in addresses
        addresses.add(id(layer.cell.outer))
        got, expected = both(layer)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        if was_known:
            return
    pytest.skip("no address came again")


def test_a_changed_weight_is_none():
    layer = RNN(Cell())
    layer(X)
    told = settings(layer.cell)
    layer.cell.kernel.assign(layer.cell.kernel * 2)
    assert settings(layer.cell) == told
    got, expected = both(layer)
    assert programs_of(layer.cell) == 1
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_attributes_that_change_with_every_call_end_it():
    layer = RNN(Cell())
    layer.build((None, None, 5))
    for number in range(compiling._MOST):
        compiling._kept_with(layer.cell)[number] = "kept"
    layer(X)
    assert programs_of(layer.cell) == compiling._MOST
    (row,) = ostinato.explain(layer)
    assert row.engine == "scan"
    assert "change from call to call" in row.why_not_faster


def test_a_rule_that_is_wrong_at_negative_numbers_alone_is_found_out(monkeypatch):
    class Own(keras.layers.Layer):
        state_size = output_size = 6

        def call(self, inputs, states):
            h = ops.abs(states[0]) + ops.mean(inputs, axis=-1, keepdims=True)
            return h, [h]

    monkeypatch.setitem(RULES, "Absolute", lambda t, op, x: x)
    layer = RNN(Own())
    with pytest.warns(UserWarning, match="isn't compiled: .* result 0 differs"):
        layer(X)


@pytest.mark.parametrize("function", [ops.sqrt, ops.log, lambda x: ops.log(ops.relu(x - 0.5))])
def test_a_cell_that_is_not_defined_everywhere_is_proven_where_it_is(function):
    class Own(keras.layers.Layer):
        state_size = output_size = 6

        def call(self, inputs, states):
            h = ops.tanh(function(states[0])) + ops.mean(inputs, axis=-1, keepdims=True)
            return h, [h]

    layer = RNN(Own())
    with ostinato.use_engine("compiled"):
        layer(X)


def test_a_wrong_program_is_found_out(monkeypatch):
    """With a derivative that's a little wrong, the cell runs on the portable loop, and says so."""
    wrong = elementwise.elementwise()["tanh"]._replace(
        pull=lambda at: [at.graph.mul(at.upstream, at.graph.literal(1.1))]
    )
    from ostinato.programs import operations

    monkeypatch.setitem(operations.operations(), "tanh", wrong)
    layer = RNN(Cell())
    layer.cell._decay = 0.3217  # as no other test has it: the same program has its routines once
    with pytest.warns(
        UserWarning, match="isn't compiled: its program isn't what the cell computes"
    ):
        got = ops.convert_to_numpy(layer(X))
    (row,) = ostinato.explain(layer)
    assert row.engine == "scan"
    assert "the gradient of" in row.why_not_faster
    assert np.isfinite(got).all()


class Multiplicative(keras.layers.Layer):
    """Two products in a row: numbers of one sign would shut its gates, whose slopes vanish then."""

    def __init__(self, units):
        super().__init__()
        self.units, self.state_size, self.output_size = units, [units, units], units
        self.ramp = np.arange(units, dtype="float32") / units  # an array among the operands

    def build(self, shape):
        units, columns = self.units, 4 * self.units
        self.kernel = self.add_weight(shape=(shape[-1], units), name="kernel")
        self.within = self.add_weight(shape=(units, units), initializer="orthogonal", name="within")
        self.recurrent = self.add_weight(
            shape=(units, columns), initializer="zeros", name="recurrent"
        )

    def call(self, inputs, states):
        h, c = states
        m = ops.matmul(inputs, self.kernel) * ops.matmul(h, self.within)
        i, f, g, o = ops.split(ops.matmul(m, self.recurrent), 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(ops.add(g, self.ramp))
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


@pytest.mark.parametrize("units", [16, 64, 72, 200])
def test_wide_cells_are_proven_where_gates_are_open(units):
    layer = RNN(Multiplicative(units))
    layer(np.ones((1, 2, units), "float32"))
    (row,) = ostinato.explain(layer)
    assert row.engine == "compiled", row.why_not_faster


@pytest.mark.skipif(keras.config.backend() != "torch", reason="a mode of PyTorch")
def test_a_program_made_in_inference_mode_trains():
    import torch

    layer = RNN(Multiplicative(3))
    layer.build((None, None, 3))
    x = torch.ones((2, 3, 3))
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
    assert layer.cell.kernel.value.grad is not None


@pytest.mark.skipif(keras.config.backend() != "torch", reason="PyTorch's device without numbers")
def test_a_program_made_while_a_model_is_run_for_its_shapes_has_numbers(recwarn):
    """As `fit` runs it at first."""

    class Scales(keras.layers.Layer):
        state_size = output_size = 5

        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def build(self, shape):
            self.norm.build(shape)

        def call(self, inputs, states):
            h = states[0] + self.norm(inputs, training=False) * ops.arange(5, dtype="float32")
            return h, [h]

    layer = RNN(Scales())
    model = keras.Sequential([keras.Input((3, 5)), layer])
    model.compile("sgd", "mse")
    model.fit(X, np.zeros((2, 5)), verbose=0)
    (row,) = ostinato.explain(layer)
    assert row.engine == "compiled", row.why_not_faster
    assert not [str(w.message) for w in recwarn if "isn't compiled" in str(w.message)]


def test_a_program_is_proven_once_for_all_cells_that_have_it(monkeypatch):
    class Same(Cell):
        pass

    proofs = []
    real = compiling.disproved
    monkeypatch.setattr(compiling, "disproved", lambda *a: proofs.append(a) or real(*a))
    both(RNN(Same()))
    assert len(proofs) == 1
    both(RNN(Same()))
    assert len(proofs) == 1
    other = RNN(Same())
    other.cell._decay = 0.25
    both(other)
    assert len(proofs) == 2

    class Another(Same):  # its `call` may be its own
        pass

    both(RNN(Another()))
    assert len(proofs) == 3


def _chained(inputs, h):
    z = ops.sum(inputs, axis=-1, keepdims=True) + h
    for _ in range(100):  # 400 operations in a row
        z = ops.tanh(z * 0.9 + 0.1) + 0.01 * inputs[:, :1]
    return z


def _solved(inputs, h):
    z = ops.sum(inputs, axis=-1, keepdims=True) + h
    for _ in range(60):
        z = z + 0.1 * ops.tanh(ops.matmul(z, ops.eye(4) * 0.5))
    return z


def _summed(inputs, h):
    return sum(ops.matmul(inputs, ops.ones((5, 4)) * number) for number in range(150)) * 1e-3 + h


@pytest.mark.parametrize("step", [_chained, _solved, _summed])
def test_a_cell_of_many_operations_is_compiled(step):
    class Long(keras.layers.Layer):
        state_size = output_size = 4

        def call(self, inputs, states):
            h = step(inputs, states[0])
            return h, [h]

    layer = RNN(Long())
    np.testing.assert_allclose(*both(layer), atol=1e-5, rtol=1e-5)


def test_a_cell_without_a_derivative_runs_forward(monkeypatch):
    def fails(*args):
        raise RuntimeError("derivative isn't implemented")

    layer = RNN(Cell())
    layer.build((2, 3, 5))
    monkeypatch.setattr(compiling, "_PROVEN", weakref.WeakKeyDictionary())
    monkeypatch.setattr("ostinato.programs.proving.door.pulled", fails)
    np.testing.assert_allclose(*both(layer, is_compiled=False), atol=1e-6)
    (row,) = ostinato.explain(layer)
    assert row.engine == "scan"
    assert "derivative isn't implemented" in row.why_not_faster


def test_a_fault_of_ours_does_not_stop_a_cell(monkeypatch):
    def fails(program):
        raise IndexError("somewhere within")

    monkeypatch.setattr(compiling, "canonical", fails)
    layer = RNN(Cell())
    with pytest.warns(UserWarning, match="IndexError: somewhere within; this is a fault"):
        np.testing.assert_allclose(*both(layer, is_compiled=False), atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_a_cell_of_another_precision_is_compiled(dtype):
    layer = RNN(Cell(dtype=dtype), dtype=dtype)
    got, expected = (np.asarray(each, "float64") for each in both(layer))
    np.testing.assert_allclose(got, expected, atol=1e-6 if dtype == "float64" else 0.05)


class Attending(Multiplicative):
    """Has a constant, that only a call can show."""

    def call(self, inputs, states, constants):
        output, new = super().call(inputs, states)
        return output + ops.sum(constants[0], axis=1), new


def test_explain_knows_a_cell_with_constants_from_its_last_call():
    layer = RNN(Attending(3))
    layer.build((None, None, 3))
    (row,) = ostinato.explain(layer)
    assert row.engine == "scan"
    assert "its constants come with a call, and none came yet" in row.why_not_faster
    layer(np.ones((2, 3, 3), "float32"), constants=[np.ones((2, 4, 3), "float32")])
    (row,) = ostinato.explain(layer)
    assert row.engine == "compiled", row.why_not_faster
