"""What a cell is set to: what of it has changed since it was traced is never missed."""

import math
import sys
from collections import deque
from types import ModuleType, SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

import ostinato
from ostinato.layers import RNN
from ostinato.programs.settings import settings
from support import CellOfUnits, array, sample

X = array(3, 6, 5, 4)
FACTOR = ops.array(2.0)  # a tensor beside a class
config = ModuleType("config_of_a_user")
config.FACTOR = 2.0


def _cell(step, **attributes):
    """A cell with `step(self, z)` behind its product, and attributes before it is built."""

    class Own(CellOfUnits):
        def __init__(self):
            super().__init__(4)
            for name, make in attributes.items():
                setattr(self, name, make())

        def build(self, input_shape):
            super().build(input_shape)
            if hasattr(self, "dense"):
                self.dense.build((None, 4))

        def call(self, inputs, states):
            h = ops.tanh(step(self, ops.matmul(inputs, self.kernel) + states[0]))
            return h, [h]

    return Own()


class Holds:
    """An object that holds another, or a number."""

    def __init__(self, value):
        self.value = value

    def times(self, z):
        return z * self.value


class WithShape(Holds):
    """An object that is no tensor, though it has a shape."""

    shape = (1,)


class Slotted:
    """Equal to all of its kind."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Slotted)

    def __hash__(self):
        return 1


class Wrapper(CellOfUnits):
    """A cell around a cell."""

    def __init__(self, cell):
        super().__init__(cell.units)
        self.cell = cell

    def build(self, input_shape):
        self.cell.build(input_shape)

    def call(self, inputs, states):
        return self.cell(inputs, states)


def _wrapped(depth):
    cell = _cell(lambda self, z: z * self.factor, factor=lambda: 2.0)
    for _ in range(depth):
        cell = Wrapper(cell)
    return cell


def _innermost(cell):
    return _innermost(cell.cell) if isinstance(cell, Wrapper) else cell


def _deep(depth):
    return Holds(2.0) if depth == 0 else Holds(_deep(depth - 1))


def _at_the_end(holds):
    return _at_the_end(holds.value) if isinstance(holds.value, Holds) else holds


def _adapted(cell):
    cell.dense.enable_lora(2)
    cell.dense.lora_kernel_b.assign(np.ones((2, 4), "float32"))


def _edited(self, inputs, states):
    return inputs, [inputs]


def _edit_code(cell):
    """What a notebook's autoreload does: the function stays, its code is another."""
    type(cell).call.__code__ = _edited.__code__.replace(
        co_freevars=type(cell).call.__code__.co_freevars
    )


def _dense():
    return layers.Dense(4)


def _normalization():
    layer = layers.BatchNormalization()
    layer.trainable = False
    return layer


# The cell, and what changes.
CHANGES = {
    "a tensor beside it": (
        lambda: _cell(lambda self, z: z * FACTOR),
        lambda cell: setattr(sys.modules[__name__], "FACTOR", ops.array(-1.0)),
    ),
    "a name of a module": (
        lambda: _cell(lambda self, z: z * config.FACTOR),
        lambda cell: setattr(config, "FACTOR", -1.0),
    ),
    "a tensor of its class": (
        lambda: _cell(lambda self, z: z * self.scale),
        lambda cell: setattr(type(cell), "scale", ops.array(-1.0)),
    ),
    "a tensor's shape": (
        lambda: _cell(lambda self, z: z * self.scale, scale=lambda: ops.array(2.0)),
        lambda cell: setattr(cell, "scale", ops.array([1.0, -2.0, 3.0, 4.0])),
    ),
    "one of two names of a tensor": (
        lambda: _cell(
            lambda self, z: z * self.pair[0] + self.pair[1], pair=lambda: [ops.array(2.0)] * 2
        ),
        lambda cell: setattr(cell, "pair", [cell.pair[0], ops.array(-3.0)]),
    ),
    "a number in a deque": (
        lambda: _cell(lambda self, z: z * self.queue[0], queue=lambda: deque([2.0])),
        lambda cell: cell.queue.__setitem__(0, -1.0),
    ),
    "a tensor in a deque": (
        lambda: _cell(lambda self, z: z * self.queue[0], queue=lambda: deque([ops.array(2.0)])),
        lambda cell: cell.queue.__setitem__(0, ops.array(-1.0)),
    ),
    "an object in an array": (
        lambda: _cell(
            lambda self, z: z * self.held[0].value,
            held=lambda: np.array([Holds(2.0)], dtype=object),
        ),
        lambda cell: setattr(cell.held[0], "value", -1.0),
    ),
    "an object with a shape": (
        lambda: _cell(lambda self, z: z * self.held.value, held=lambda: WithShape(2.0)),
        lambda cell: setattr(cell.held, "value", -1.0),
    ),
    "an object far down": (
        lambda: _cell(lambda self, z: z * _at_the_end(self.held).value, held=lambda: _deep(7)),
        lambda cell: setattr(_at_the_end(cell.held), "value", -1.0),
    ),
    "an object that equals all others": (
        lambda: _cell(lambda self, z: z * self.held.value, held=lambda: Slotted(2.0)),
        lambda cell: setattr(cell, "held", Slotted(-1.0)),
    ),
    "what a bound method is of": (
        lambda: _cell(lambda self, z: self.get(z), get=lambda: Holds(2.0).times),
        lambda cell: setattr(cell.get.__self__, "value", -1.0),
    ),
    "a cell within cells": (
        lambda: _wrapped(6),
        lambda cell: setattr(_innermost(cell), "factor", -1.0),
    ),
    "the type of a number": (
        lambda: _cell(lambda self, z: z * (2.0 if self.flag is True else 3.0), flag=lambda: True),
        lambda cell: setattr(cell, "flag", 1),
    ),
    "the sign of a zero": (
        lambda: _cell(lambda self, z: z * math.copysign(2.0, self.zero), zero=lambda: 0.0),
        lambda cell: setattr(cell, "zero", -0.0),
    ),
    "the type of a key": (
        lambda: _cell(lambda self, z: z * (2.0 if 1 in self.keys else 3.0), keys=lambda: {1: 0}),
        lambda cell: setattr(cell, "keys", {"1": 0}),
    ),
    "whether it's trained": (
        lambda: _cell(lambda self, z: z * (2.0 if self.trainable else 3.0)),
        lambda cell: setattr(cell, "trainable", False),
    ),
    "whether a layer in it is trained": (
        lambda: _cell(lambda self, z: self.dense(z, training=True), dense=_normalization),
        lambda cell: setattr(cell.dense, "trainable", True),
    ),
    "a layer's activation": (
        lambda: _cell(lambda self, z: self.dense(z), dense=_dense),
        lambda cell: setattr(cell.dense, "activation", keras.activations.relu),
    ),
    "a layer's adaptation": (
        lambda: _cell(lambda self, z: self.dense(z), dense=_dense),
        _adapted,
    ),
    "a layer's precision": (
        lambda: _cell(lambda self, z: ops.cast(self.dense(z), "float32"), dense=_dense),
        lambda cell: setattr(cell.dense, "dtype_policy", "mixed_bfloat16"),
    ),
    "a layer that's quantized": (
        lambda: _cell(lambda self, z: self.dense(z), dense=_dense),
        lambda cell: cell.dense.quantize("int8"),
    ),
    "a method of its class": (
        lambda: _cell(lambda self, z: z),
        lambda cell: setattr(type(cell), "call", _edited),
    ),
    "a function's code": (lambda: _cell(lambda self, z: z), _edit_code),
    "an attribute of a plain object": (
        lambda: _cell(lambda self, z: z * self.held.value, held=lambda: SimpleNamespace(value=2.0)),
        lambda cell: setattr(cell.held, "value", -1.0),
    ),
    "Keras's epsilon": (
        lambda: _cell(lambda self, z: ops.normalize(z * 1e-4)),
        lambda cell: keras.config.set_epsilon(1e-2),
    ),
}


@pytest.fixture(autouse=True)
def around(monkeypatch):
    """What's around the cells is for each test as it is here."""
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", FACTOR)
    monkeypatch.setattr(config, "FACTOR", 2.0)
    epsilon = keras.config.epsilon()
    yield
    keras.config.set_epsilon(epsilon)


# What holds the backend's tensors, or layers of Keras's, which are another's on each backend.
OF_BACKENDS = (
    *("a tensor beside it", "a tensor of its class", "a tensor's shape", "a tensor in a deque"),
    *("a layer's adaptation", "a layer's precision", "a layer that's quantized"),
    *("whether a layer in it is trained", "Keras's epsilon"),
)


@pytest.mark.parametrize("change", sample(CHANGES, *OF_BACKENDS))
def test_a_cell_that_has_changed_has_another_program(change):
    make, do = CHANGES[change]
    cell = make()
    if change == "a tensor of its class":
        type(cell).scale = ops.array(2.0)
    layer = RNN(cell, return_sequences=True)

    def run(engine):
        with ostinato.use_engine(engine):
            return ops.convert_to_numpy(layer(X))

    before = run("compiled")
    do(cell)
    is_compiled, why_not = _is_compiled(layer)
    got, expected = run("compiled" if is_compiled else "scan"), run("scan")
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(got - before).max() > 1e-3
    assert is_compiled or change in MAY_END_IT, why_not


def _is_compiled(layer):
    """Whether a layer's cell has a program, and what is said of it."""
    (row,) = ostinato.explain(layer)
    return row.engine == "compiled" or "as fast" in row.why_not_faster, row.why_not_faster


# Of numbers that the core hasn't, and of rows that aren't by themselves, there's no program.
MAY_END_IT = ("whether a layer in it is trained", "a layer's precision", "a layer that's quantized")

COUNT, SEEN = {"calls": 0}, []


def _counts(self, z):
    COUNT["calls"] += 1
    return z


def _keeps(self, z):
    SEEN.append(z)
    return z


def _counts_in_place(self, z):
    self.calls += 1
    return z


def _counts_in_a_slot(self, z):
    self.held.value += 1
    return z


BESIDE = {
    "a dict beside it": (_counts, {}, "calls"),
    "a list beside it": (_keeps, {}, "SEEN"),
    "an array of its own": (_counts_in_place, {"calls": lambda: np.zeros(1)}, "calls"),
    "an object in it": (_counts_in_a_slot, {"held": lambda: Slotted(0)}, "value"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_a_call_that_changes_what_is_around_it_is_refused_by_name(what):
    step, attributes, name = BESIDE[what]
    layer = RNN(_cell(step, **attributes))
    layer(X)
    (row,) = ostinato.explain(layer)
    assert row.engine == "scan"
    assert f"its call changes {name!r}" in row.why_not_faster


def test_telling_is_the_same_while_nothing_changes():
    cells = [make() for make, _ in CHANGES.values() if make is not None]
    for cell in cells:
        RNN(cell).build((None, None, 4))
        assert settings(cell) == settings(cell)
        assert hash(settings(cell)) == hash(settings(cell))


def test_what_reaches_all_there_is_stays_on_scan():
    cell = _cell(lambda self, z: z * self.held[0].value, held=lambda: [Holds(2.0)])
    rnn = RNN(cell)
    rnn(X)
    assert _is_compiled(rnn)[0]
    cell.held += [Holds(float(number)) for number in range(2001)]
    rnn(X)
    assert "more than 2,000 things hang on it, of which a Holds" in _is_compiled(rnn)[1]


def _nested(depth):
    found = ()
    for _ in range(depth):
        found = (found,)
    return found


LARGE = {
    "items": (lambda: list(range(20_000)), "it holds 20,000 items in one list"),
    "a set's": (lambda: frozenset(range(20_000)), "it holds 20,000 items in one frozenset"),
    "bytes": (lambda: np.zeros(1 << 27, "int8"), "it holds 134,217,728 bytes in one ndarray"),
    "depth": (lambda: _nested(2000), "what hangs on it is nested too deeply"),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_cell_that_holds_something_large_stays_on_scan_and_says_so(what):
    make, reason = LARGE[what]
    rnn = RNN(_cell(lambda self, z: z, held=lambda: Holds(make())))
    rnn(X)
    assert reason in _is_compiled(rnn)[1]


RUNS = {
    "a range": (range(10**9), range(10**9 - 1)),
    "bytes": (bytearray(b"a" * 20_000), bytearray(b"a" * 19_999 + b"b")),
    "a view": (memoryview(b"a" * 20_000), memoryview(b"a" * 19_999 + b"b")),
}


@pytest.mark.parametrize("what", RUNS)
def test_ranges_and_bytes_are_told_whole_without_their_items(what):
    one, other = RUNS[what]
    cell = _cell(lambda self, z: z, held=lambda: Holds(one))
    RNN(cell).build((None, None, 4))
    before = settings(cell)
    assert settings(cell) == before
    cell.held.value = other
    assert settings(cell) != before


def test_an_assert_in_a_test_reads_nothing_of_pytest():
    """It puts names into the code from which all of a session is reached."""
    limit = 3

    def bounded(x):
        assert len(x.shape) < limit
        return ops.tanh(x)

    rnn = RNN(_cell(lambda self, z: bounded(z)))
    rnn(X)
    assert _is_compiled(rnn)[0]
    assert len(str(settings(rnn.cell))) < 10_000


def test_a_thing_whose_hash_raises_is_told_by_identity():
    h5py = pytest.importorskip("h5py")
    cell = _cell(lambda self, z: z, of_file=lambda: h5py.h5p.create(h5py.h5p.FILE_ACCESS))
    hash(settings(cell))
    assert settings(cell) == settings(cell)
