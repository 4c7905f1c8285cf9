"""accelerate and restore of ConvLSTM and TimeDistributed, with all that's within."""

import warnings

import keras
import numpy as np
from converted import EAGERLY, assert_same_training, close
from keras import layers

import ostinato
from ostinato import accelerate, restore
from ostinato.conversion import left_alone
from support import elsewhere_in_long


class MyGRU(layers.GRU):
    pass


def frames():
    inputs = keras.Input((4, 6, 5, 1))
    options = {"padding": "same", "return_sequences": True}
    x = layers.ConvLSTM2D(3, 3, dropout=0.2, recurrent_dropout=0.3, seed=1, name="conv", **options)(
        inputs
    )
    x = layers.Bidirectional(layers.ConvLSTM2D(2, 2, **options), name="both")(x)
    inner = keras.Sequential([layers.Reshape((6, -1)), layers.LSTM(4, name="deep")], name="inner")
    x = layers.TimeDistributed(inner, name="each")(x)
    x = layers.TimeDistributed(layers.Dense(3, activation="tanh"), name="timed")(x)
    return keras.Model(inputs, layers.GRU(2, name="last")(x))


def packages(model):
    """Whose class each layer is, also of those in TimeDistributed and Bidirectional."""
    found = {}

    def walk(layer):
        found[layer.name] = type(layer).__module__.partition(".")[0]
        for child in keras.Model.layers.fget(layer):
            if not layer.name.startswith(("both", "last", "conv")):
                walk(child)

    walk(model)
    return found


@elsewhere_in_long
def test_there_and_back_with_the_training_going_on():
    model, rng = frames(), np.random.default_rng(0)
    x, y = (rng.normal(size=size).astype("float32") for size in ((6, 4, 6, 5, 1), (6, 2)))
    model.compile("adam", "mse", run_eagerly=EAGERLY)
    model.fit(x, y, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fast = accelerate(model)
        again = restore(fast)
    recurrent = {"conv", "both", "each", "deep", "timed", "last", "lstm_cell"}
    assert {name for name, of in packages(fast).items() if of == "ostinato"} == recurrent
    assert set(packages(again).values()) == {"keras"}
    assert [w.path for w in fast.weights] == [w.path for w in model.weights]
    assert_same_training(model, fast, x, y, steps=1)  # first: every call draws dropout masks
    again = restore(fast)
    for other in (fast, again):
        close(other.predict(x, verbose=0), model.predict(x, verbose=0))
    close(accelerate(fast).predict(x, verbose=0), model.predict(x, verbose=0))
    rows = {row.layer: row for row in ostinato.explain(fast)}
    both = fast.get_layer("both")
    directions = [f"both/{layer.name}" for layer in (both.forward_layer, both.backward_layer)]
    assert list(rows) == ["conv", *directions, "each/inner/deep", "last"]


def test_what_explain_and_left_alone_say_of_wrappers():
    inputs = keras.Input((4, 5, 2))
    model = keras.Model(inputs, layers.TimeDistributed(MyGRU(2, name="mine"), name="each")(inputs))
    (left,) = left_alone(model)
    assert left.path == "each/mine"
    each, mine = ostinato.explain(model)
    assert (each.layer, each.engine, each.kind) == ("each", "keras", "TimeDistributed")
    assert "`ostinato.accelerate(model)` converts it" in each.why_not_faster
    assert "derive it from ostinato.layers.GRU" in mine.why_not_faster
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 2)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fast = accelerate(model)
    assert type(fast.get_layer("each")) is ostinato.layers.TimeDistributed
    assert type(fast.get_layer("each").layer) is MyGRU
    close(fast.predict(x, verbose=0), model.predict(x, verbose=0))
    loose = layers.TimeDistributed(layers.LSTM(3, name="in"), name="out")
    assert type(accelerate(loose).layer) is ostinato.layers.LSTM


def test_a_cell_that_keras_lacks_is_left():
    for layer in (
        ostinato.layers.ConvLSTM2DCell(2, 3, name="cell"),
        ostinato.layers.RNN(ostinato.layers.ConvLSTM2DCell(2, 3)),
        ostinato.layers.RNN([ostinato.layers.ConvLSTM1DCell(2, 3)]),
    ):
        (left,) = left_alone(layer, by=restore)
        assert "Keras 3 has no ConvLSTM" in left.reason
