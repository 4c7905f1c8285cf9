"""Sizes that a trace doesn't know: another batch or length is refused while running."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato.layers import GRU, LSTM, RNN, Bidirectional, GRUCell, LSTMCell
from support import array, assert_close

BACKEND = keras.config.backend()


class Scaled(keras.layers.Layer):
    """A cell of two inputs and a constant."""

    state_size = output_size = 3

    def call(self, inputs, states, constants=None):
        h = states[0] + inputs["a"] * inputs["b"] * (constants[0] if constants else 1.0)
        return h, [h]


def traced(function, *like):
    """A function compiled for tensors of any batch size and any length (and of these features)."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        specs = [tf.TensorSpec([None] * min(a.ndim, 2) + list(a.shape[2:]), a.dtype) for a in like]
        return tf.function(function, input_signature=specs)
    return function


ENGINES = ["scan", None]
X, H, MASK = array(0, 3, 4, 2), array(1, 3, 3), np.ones((3, 4), bool)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: LSTM(3, **o),
        lambda **o: RNN([GRUCell(3), LSTMCell(3)], **o),
        lambda **o: Bidirectional(GRU(3, **o)),
    ],
)
def test_states_and_masks_of_another_batch_or_length(make, engine):
    layer = make(return_sequences=True)
    layer.build((None, None, 2))
    count = 3 if isinstance(getattr(layer, "cell", None), ostinato.layers.StackedRNNCells) else 2

    def call(x, mask, h):
        states = [h] if count == 3 else []
        return layer(x, mask=mask, initial_state=[*states, h, h] if count == 2 else [h, [h, h]])

    with ostinato.use_engine(engine) if engine else contextlib.nullcontext():
        run = traced(call, X, MASK, H)
        assert_close(run(X, MASK, H), call(X, MASK, H))
        assert tuple(run(X[:1], MASK[:1], H[:1]).shape[:2]) == (1, 4)
        for given in [
            (X, MASK, H[:1]),
            (X, MASK[:1], H),
            (X, MASK[:, :1], H),
            (X[:1], MASK, H),
            (X[:1], MASK[:1], H),
            (X[:, :1], MASK, H),
            (X[:2], MASK, H),
            (X, MASK, H[:, :1]),
        ]:
            with pytest.raises(Exception, match="expected"):  # of the frameworks' own kinds
                run(*given)


def test_states_and_masks_of_keras_s_layers_in_both_directions():
    """By themselves these spread a mask or a state of one row over the batch."""
    layer = Bidirectional(keras.layers.GRU(3))
    layer.build((None, None, 2))

    def call(x, mask, h):
        return layer(x, mask=mask, initial_state=[h, h])

    run = traced(call, X, MASK, H)
    assert_close(run(X, MASK, H), call(X, MASK, H))
    for given in [(X, MASK, H[:1]), (X, MASK[:1], H), (X, MASK[:, :2], H), (X, MASK, H[:, :1])]:
        with pytest.raises(Exception, match="expected"):
            run(*given)
    symbols = [keras.KerasTensor(a.shape, dtype=str(a.dtype)) for a in (X, MASK, H[:1])]
    with pytest.raises(ValueError, match=r"GRU layer .*initial_state.* of shape \(3, 3\), got"):
        call(*symbols)


def test_inputs_and_constants_of_another_batch_or_length():
    layer = RNN(Scaled(), name="nest")
    other, constant = array(2, 3, 4, 3), array(3, 3, 3)
    x = array(0, 3, 4, 3)
    run = traced(lambda a, b, c: layer({"a": a, "b": b}, constants=[c]), x, other, constant)
    assert_close(run(x, other, constant), constant * (x * other).sum(1))
    for given in [
        (x, other[:1], constant),
        (x, other[:, :1], constant),
        (x, other, constant[:1]),
        (x[:1], other, constant),
        (x[:, :2], other, constant),
    ]:
        with pytest.raises(Exception, match=r"RNN layer \\?'nest\\?': expected"):
            run(*given)
    matrix = array(4, 2, 3)  # has no batch axis
    shown = RNN(Picks())(x, constants=[matrix])
    assert_close(shown, x.sum(1) + 4 * matrix[1])
    bias = array(5, 1)[:, None].repeat(2, 0)[:, 0]  # two numbers; and one is no row of a batch
    assert_close(RNN(Picks())(x, constants=[bias]), x.sum(1) + 4 * bias[1])
    assert_close(RNN(AddsFirst())(x, constants=[bias[:1]]), x.sum(1) + 4 * bias[0])
    with pytest.raises(
        ValueError, match=r"constants\[0\] with the batch size of the inputs, 2, got"
    ):
        layer({"a": x[:2], "b": other[:2]}, constants=[constant[:1]])
    alone = layer({"a": x[:1], "b": other[:1]}, constants=[constant[:1]])
    assert_close(alone, constant[:1] * (x * other).sum(1)[:1])


class Picks(keras.layers.Layer):
    """A cell with a table as its constant."""

    state_size = output_size = 3
    place = 1

    def call(self, inputs, states, constants):
        h = states[0] + inputs + constants[0][self.place]
        return h, [h]


class AddsFirst(Picks):
    """Its constant is one number."""

    place = 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_last_batch_of_one_row_in_predict_of_a_stateful_model(engine):
    layer = LSTM(2, stateful=True, name="keeper")
    model = keras.Sequential([keras.Input(batch_shape=(4, 3, 2)), layer])
    with ostinato.use_engine(engine) if engine else contextlib.nullcontext():
        assert model.predict(np.ones((8, 3, 2)), batch_size=4, verbose=0).shape == (8, 2)
        with pytest.raises(Exception, match=r"(?s)keeper.*the batch size of the inputs must be"):
            model.predict(np.ones((5, 3, 2)), batch_size=4, verbose=0)


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="what XLA leaves out is TensorFlow's assertions"
)
def test_a_function_that_xla_compiles():
    import tensorflow as tf

    layer = LSTM(3, return_sequences=True)
    layer.build((None, None, 2))
    run = tf.function(
        lambda x, h: layer(x, initial_state=[h, h]),
        jit_compile=True,
        input_signature=[tf.TensorSpec((None, None, 2)), tf.TensorSpec((None, 3))],
    )
    assert_close(run(X, H), layer(X, initial_state=[H, H]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(X, H[:1])


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's symbolic sizes")
def test_symbolic_sizes_on_jax():
    import jax
    from jax import export

    layer = GRU(3, activation=ops.square)
    layer.build((None, None, 2))
    b, t, c = export.symbolic_shape("b, t, c")

    def call(x, mask, h):
        return layer(x, mask=mask, initial_state=h)

    def exported(*shapes):
        dtypes = ("float32", "bool", "float32")
        like = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, dtypes, strict=True)]
        return export.export(jax.jit(call))(*like)

    good = exported((b, t, 2), (b, t), (b, 3))
    assert_close(good.call(X, MASK, H), call(X, MASK, H))
    for shapes in [
        ((b, t, 2), (b, t), (1, 3)),
        ((b, t, 2), (b, t), (c, 3)),
        ((b, t, 2), (1, t), (b, 3)),
        ((b, t, 2), (b, 1), (b, 3)),
        ((b, t, 2), (b, c), (b, 3)),
    ]:
        with pytest.raises(ValueError, match="expected"):
            exported(*shapes)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow's own shapes")
@pytest.mark.parametrize("wrap", [lambda layer: layer, Bidirectional])
def test_tensors_of_an_unknown_number_of_axes_are_refused(wrap):
    """As those are that `tf.numpy_function` gives."""
    import tensorflow as tf

    layer = wrap(GRU(3))
    layer.build((None, None, 2))

    def call(x, mask, *states):
        return layer(x, mask=mask, initial_state=states or None)

    x, mask, h = map(tf.convert_to_tensor, (X, MASK, H))
    given = [x, mask, *[h] * (2 if isinstance(layer, Bidirectional) else 1)]
    for at, words in enumerate(("known number of axes", "a mask that is", "to be a tensor")):
        specs = [tf.TensorSpec(each.shape, each.dtype) for each in given]
        specs[at] = tf.TensorSpec(None, given[at].dtype)
        with pytest.raises(ValueError, match=rf"layer '\w+': expected .*{words}"):
            tf.function(call, input_signature=specs)(*given)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow's own shapes")
def test_a_layer_is_built_with_a_shape_of_tensorflow():
    import tensorflow as tf

    for layer, shape in (
        (LSTM(2), (None, 5, 3)),
        (RNN(Scaled()), {"a": (2, 5, 3), "b": (2, 5, 3)}),
    ):
        layer.build(keras.tree.map_shape_structure(tf.TensorShape, shape))
        assert layer.built
