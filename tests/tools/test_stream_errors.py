"""What a stream refuses, and in which words; and what it takes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import ostinato
from ostinato import Shape
from ostinato.layers import GRU, LSTM, RNN, Bidirectional
from support import elsewhere_in_long
from tools.stream_zoo import ZOO, gru, lstm, read, stack
from tools.streamed import VOCABULARY, N, T, assert_nests_close, cut, data_for, floats

pytestmark = elsewhere_in_long


class Subclassed(keras.Model):
    """A model whose call may do anything."""

    def __init__(self):
        super().__init__(name="mine")
        self.rnn = LSTM(3)

    def call(self, x):
        return self.rnn(x)


def graph(connect, timesteps=None):
    """A functional model of an input (batch, time, 3)."""
    x = keras.Input((timesteps, 3), name="x")
    return keras.Model(x, connect(x))


def with_states(x):
    """A layer called with states of another."""
    _, h, c = LSTM(4, return_state=True)(x)
    return lstm(4, name="late")(x, initial_state=[h, c])


def with_constants(x):
    """A layer called with a constant."""
    return RNN(TakesConstant(4), name="late")(x, constants=LSTM(4)(x))


def with_state_as_output(x):
    """A model that gives a layer's state."""
    return LSTM(4, return_state=True)(x)[1]


def with_mask_of_its_own(x):
    """A layer under a mask that isn't that of its inputs."""
    other = layers.Masking()(layers.Dense(3)(x))
    return lstm(4, name="late")(x, mask=other._keras_mask)


def last_beside_all(x):
    """The last timestep's output, added to every one."""
    return layers.Add(name="late")([lstm(4)(x), LSTM(4)(x)])


@keras.saving.register_keras_serializable(package="tests")
class TakesConstant(keras.layers.Layer):
    """A cell with a constant."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.state_size = self.output_size = units

    def call(self, inputs, states, constants=None):
        new = states[0] + constants[0][:, :1]
        return new, [new]


class Clock(keras.layers.Layer):
    """A cell with a state without rows: the time."""

    def __init__(self, units):
        super().__init__()
        self.units, self.state_size, self.output_size = units, [units, Shape()], units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def get_initial_state(self, batch_size=None):
        return [ops.zeros((batch_size, self.units)), ops.zeros(())]

    def call(self, inputs, states):
        new = states[0] + states[1] * (inputs @ self.kernel)
        return new, [new, states[1] + 1.0]


def fixed_length():
    """A model that mixes timesteps of a known number."""
    x = keras.Input((T, 3))
    return keras.Model(x, layers.EinsumDense("btd,ts->bsd", (T, 3), name="mixes")(x))


def subclassed():
    """A subclassed model that is built."""
    model = Subclassed()
    model(floats(1, 2, 3))
    return model


REFUSED = {
    "Bidirectional": (
        lambda: stack(Bidirectional(LSTM(3), name="both")),
        "Bidirectional layer 'both' reads a sequence from its end",
    ),
    "go_backwards": (
        lambda: stack(LSTM(3, go_backwards=True, name="back")),
        "LSTM layer 'back' has go_backwards=True",
    ),
    "a layer of Keras's": (
        lambda: stack(layers.LSTM(3, name="theirs")),
        r"LSTM layer 'theirs' is Keras's own recurrent layer: `ostinato.accelerate\(model\)`",
    ),
    "not built": (lambda: LSTM(3, name="new"), "LSTM layer 'new' isn't built"),
    "a Sequential that is not built": (
        lambda: keras.Sequential([LSTM(3)], name="new"),
        "Sequential .*'new' isn't built",
    ),
    "subclassed": (subclassed, "'mine' is a model with a `call` of its own"),
    "Lambda": (
        lambda: graph(layers.Lambda(lambda x: x + 1, name="adds")),
        "Lambda layer 'adds' isn't known to act on each timestep by itself",
    ),
    "pooling of all": (
        lambda: stack(layers.GlobalMaxPooling1D(keepdims=True, name="most")),
        "GlobalMaxPooling1D layer 'most' has keepdims=True",
    ),
    "pooling": (
        lambda: stack(layers.MaxPooling1D(2, name="most")),
        "MaxPooling1D layer 'most' gives one timestep for every 2",
    ),
    "convolution": (
        lambda: stack(layers.Conv1D(3, 2, name="conv")),
        r"Conv1D layer 'conv' gives 1 timesteps less than it reads.*ZeroPadding1D\(\(1, 0\)\)",
    ),
    "a convolution that looks ahead": (
        lambda: stack(layers.Conv1D(3, 2, padding="same", name="conv")),
        "Conv1D layer 'conv' looks ahead",
    ),
    "zeros for another window": (
        lambda: stack(layers.ZeroPadding1D((2, 0)), layers.Conv1D(3, 2, name="conv")),
        "Conv1D layer 'conv' reads a sequence with 2 timesteps of zeros.*: expected 1",
    ),
    "zeros for no window": (
        lambda: stack(layers.ZeroPadding1D((2, 0)), lstm(3, name="of")),
        "LSTM layer 'of' reads a sequence with 2 timesteps of zeros",
    ),
    "zeros for nobody": (
        lambda: stack(lstm(3), layers.ZeroPadding1D((2, 0))),
        "gives a sequence with timesteps of zeros before it",
    ),
    "zeros at the end": (
        lambda: stack(layers.ZeroPadding1D(1, name="pad"), lstm(3)),
        "ZeroPadding1D layer 'pad' adds 1 timesteps after the last",
    ),
    "an operation": (lambda: graph(lambda x: lstm(3, name="of")(x * 2.0)), "'of' reads what oper"),
    "a mask of its own": (
        lambda: graph(with_mask_of_its_own),
        "LSTM layer 'late' is called with a mask of its own",
    ),
    "initial_state": (
        lambda: graph(with_states),
        r"LSTM layer 'late' is called with more than its inputs \(initial_state\)",
    ),
    "constants": (
        lambda: graph(with_constants),
        r"RNN layer 'late' is called with more than its inputs \(constants\)",
    ),
    "constant states": (
        lambda: graph(lambda x: lstm(3, name="late")(x, initial_state=[ops.ones((1, 3))] * 2)),
        r"LSTM layer 'late' is called with more than its inputs \(initial_state\)",
    ),
    "constant resets": (
        lambda: graph(lambda x: lstm(3, name="late")(x, resets=np.ones((1, 5), bool)), 5),
        r"LSTM layer 'late' is called with `resets`, .* `stream.step\(x, resets",
    ),
    "a constant mask": (
        lambda: graph(lambda x: lstm(3, name="late")(x, mask=ops.ones((1, 5), "bool")), 5),
        "LSTM layer 'late' is called with a mask of its own",
    ),
    "a constant input": (
        lambda: graph(lambda x: layers.Add(name="sum")([x, ops.ones((1, 5, 3))]), 5),
        "Add layer 'sum' reads a constant beside its inputs",
    ),
    "a state of all rows": (
        lambda: stack(RNN(Clock(4), name="timed")),
        "RNN layer 'timed' has a state without rows",
    ),
    "a state as output": (lambda: graph(with_state_as_output), "uses a state that a layer with"),
    "the last beside all": (
        lambda: graph(last_beside_all),
        "Add layer 'late' puts the last timestep's output beside every one's",
    ),
    "normalization over time": (
        lambda: stack(layers.Softmax(axis=1, name="over_time")),
        "'over_time' acts along axis 1, expected one of the features",
    ),
    "EinsumDense over time": (
        fixed_length,
        "EinsumDense layer 'mixes' mixes timesteps",
    ),
    "vectors": (
        lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2, name="flat")]),
        "'flat' reads an input without features",
    ),
    "no time": (
        lambda: keras.Sequential([keras.Input(()), layers.Rescaling(2.0)], name="scalars"),
        "of .*'scalars' has no axis of timesteps",
    ),
    "training": (
        lambda: graph(lambda x: layers.Dropout(0.5, name="always")(x, training=True)),
        "'always' is called with training=True",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_streamed(name):
    make, message = REFUSED[name]
    model = make()
    with pytest.raises(ValueError, match=message) as caught:
        ostinato.stream(model)
    assert str(caught.value).startswith("stream: ")


@pytest.mark.parametrize("thing", [None, "model", 3, ops.ones(3), LSTM])
def test_things_that_are_no_models(thing):
    with pytest.raises(ValueError, match="stream: expected a Keras model or layer, got"):
        ostinato.stream(thing)


@pytest.fixture(scope="module")
def vectors():
    """A stream of 3 features."""
    return ostinato.stream(stack(lstm(4), layers.Dense(2)))


@pytest.fixture(scope="module")
def ids():
    """A stream of ids."""
    return ostinato.stream(read(layers.Embedding(VOCABULARY, 4), gru(3)))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(2),
        np.zeros((1, 3)),
        np.zeros((3, 1)),
        1.0,
        np.zeros(3, complex),
        np.zeros(3, object),
        np.zeros(3, "datetime64[s]"),
        np.zeros(3, "V4"),
        np.zeros(3, []),
        ["a", "b", "c"],
        [[1.0], [2.0, 3.0]],
        None,
        {"x": np.zeros(3)},
        [np.zeros(3), np.zeros(3)],
    ],
    ids=repr,
)
def test_a_step_that_does_not_fit(vectors, x):
    with pytest.raises(ValueError, match=r"stream of .*: expected "):
        vectors.step(x)


def test_what_was_expected_and_what_came(vectors):
    with pytest.raises(ValueError, match=r"of shape \(3,\) and float32, got \(4,\) of float64"):
        vectors.step(np.zeros(4))
    with pytest.raises(ValueError, match=r"of shape \(T, 3\) and float32, got \(5, 4\) of int64"):
        vectors.run(np.zeros((5, 4), int))
    for nothing, kind in ((None, "NoneType"), ({}, "dict"), (vectors, "Stream")):
        with pytest.raises(ValueError, match=rf"expected x of shape \(3,\) .*, got {kind}\."):
            vectors.step(nothing)
    with pytest.raises(ValueError, match=r"expected x of shape \(3,\) .*, got \(\) of <U4\."):
        vectors.step("text")


def test_inputs_without_a_name():
    one, other = keras.Input((None, 2)), keras.Input((None, 3))
    joined = layers.Concatenate()([one, other])
    for inputs, name in (([one, other], r"x\[1\]"), ({"a": one, "b": other}, r"x\['b'\]")):
        stream = ostinato.stream(keras.Model(inputs, joined))
        given = keras.tree.map_structure(lambda _: np.zeros(2), inputs)
        with pytest.raises(ValueError, match=rf"expected {name} of shape \(3,\)"):
            stream.step(given)


@pytest.mark.parametrize("module", [layers, ostinato.layers])
def test_a_cell(module):
    cell = module.LSTMCell(4, name="one")
    for each in (cell, module.StackedRNNCells([cell], name="some")):
        with pytest.raises(ValueError, match=f"'{each.name}', which is a cell: wrap it in RNN"):
            ostinato.stream(each)


@pytest.mark.parametrize("x", [VOCABULARY, -1, -(2**31), 2**31 - 1])
def test_ids_out_of_range(ids, x):
    message = f"stream of .*: input x: expected ids of 0 to {VOCABULARY - 1}, got {x}"
    with pytest.raises(ValueError, match=message):
        ids.step(x)
    with pytest.raises(ValueError, match=message):
        ids.run([1, 2, x])


@pytest.mark.parametrize("x", [2**31, 2**40, -(2**40), -(2**32), 2**63])
def test_ids_that_do_not_fit_in_32_bits(ids, x):
    with pytest.raises(ValueError, match=r"expected .* within int32, got"):
        ids.step(np.array(x))


@pytest.mark.parametrize("x", [1.0, True, [1], np.zeros(3, int), "1"])
def test_ids_that_are_none(ids, x):
    with pytest.raises(ValueError, match=r"of shape \(\) and integers, got"):
        ids.step(x)


def test_nests_that_do_not_fit():
    model = ZOO["dicts"].make()
    stream, data = ostinato.stream(model), cut(data_for(model), 0)
    with pytest.raises(ValueError, match=r"expected inputs nested like \{.*'pressure'.*got dict"):
        stream.run({"at": data["at"]})
    with pytest.raises(ValueError, match=r"nested like .*got list"):
        stream.run([*data.values()])
    with pytest.raises(ValueError, match=r"same number of timesteps, got \[4, 9\]"):
        stream.run(data | {"at": data["at"][:4]})
    with pytest.raises(ValueError, match=r"expected at of shape \(T, 3\)"):
        stream.run(data | {"at": data["at"][..., :2]})


# --- what fits, however it lies in memory ---------------------------------------------------------


def laid_out():
    """The same numbers, in arrays of all kinds; exact in float16."""
    x = np.arange(N * T * 3).reshape(N, T, 3).astype("float32") / 64
    read_only = x.copy()
    read_only.flags.writeable = False
    bytes_ = np.empty(x.nbytes + 1, "uint8")
    unaligned = bytes_[1:].view("float32").reshape(x.shape)
    unaligned[...] = x
    wide = np.zeros((N, 2 * T, 6), "float32")
    wide[:, ::2, ::2] = x
    return {
        "Fortran": np.asfortranarray(x),
        "strided": wide[:, ::2, ::2],
        "negative strides": x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        "read-only": read_only,
        "unaligned": unaligned,
        "float64": x.astype("float64"),
        "float16": x.astype("float16"),
        "longdouble": x.astype("longdouble"),
        "big-endian": x.astype(">f4"),
        "broadcast": np.broadcast_to(x, x.shape),
        "a list": x.tolist(),
        "a tensor": ops.convert_to_tensor(x),
    }


@pytest.mark.parametrize("kind", laid_out())
def test_arrays_of_all_kinds(kind):
    model = stack(lstm(4))
    x = np.arange(N * T * 3).reshape(N, T, 3).astype("float32") / 64
    expected = ostinato.stream(model, streams=N).run(x)
    given = laid_out()[kind]
    stream = ostinato.stream(model, streams=N)
    np.testing.assert_array_equal(stream.run(given), expected)
    if kind not in ("a list", "a tensor"):
        stream.reset()
        stepped = np.stack([stream.step(given[:, t]) for t in range(T)], 1)
        np.testing.assert_array_equal(stepped, expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", ">i4"])
def test_ids_of_all_kinds(ids, dtype):
    ids.reset()
    expected = ids.run(np.array([1, 2, 3], "int32"))
    ids.reset()
    np.testing.assert_array_equal(ids.run(np.array([1, 2, 3], dtype)), expected)
    ids.reset()
    np.testing.assert_array_equal(np.stack([ids.step(i) for i in (1, 2, 3)]), expected)


@pytest.mark.parametrize("name", ["LSTM", "dicts", "a cell over dicts", "Embedding with a mask"])
def test_no_timesteps(name):
    model = ZOO[name].make()
    for streams in (None, N):
        stream, data = ostinato.stream(model, streams=streams), data_for(model)
        before = stream.state
        nothing = stream.run(
            cut(data, slice(None), slice(0)) if streams else cut(data, 0, slice(0))
        )
        for leaf in keras.tree.flatten(nothing):
            assert leaf.size == 0
        assert_nests_close(stream.state, before, 0)


def test_outputs_are_new_arrays(vectors):
    vectors.reset()
    first = vectors.step(floats(3))
    kept = first.copy()
    vectors.step(floats(3))
    np.testing.assert_array_equal(first, kept)


def test_what_it_says_of_itself():
    stream = ostinato.stream(stack(GRU(4)), streams=2)
    assert "(3,) -> (4,), 2 streams; on the native engine>" in repr(stream)
    assert "on Keras, timestep by timestep" in repr(
        ostinato.stream(ZOO["a cell over nests"].make())
    )


def test_a_number_for_a_timestep_isnt_refused_for_its_dtype():
    layer = GRU(4)
    layer.build((None, None, 3))
    with pytest.raises(ValueError, match=r"of shape \(3,\) and float32, got the number 1\.0\.$"):
        ostinato.stream(layer).step(1.0)
