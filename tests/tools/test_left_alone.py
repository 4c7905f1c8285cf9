"""What accelerate and restore leave as it is, each with its reason, and what they refuse."""

import warnings

import keras
import numpy as np
import pytest
from converted import close
from keras import layers, ops
from zoo import D, T, U, X

import ostinato
from ostinato import accelerate, restore
from ostinato.conversion import left_alone


class MyLSTM(layers.LSTM):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return 2.0 * super().call(sequences, initial_state, mask, training)


class OurLSTM(ostinato.layers.LSTM):
    pass


class MyConvLSTM(layers.ConvLSTM2D):
    pass


def video():
    inputs = keras.Input((T, 6, 6, 1))
    x = MyConvLSTM(2, 3, name="video")(inputs)
    x = layers.Reshape((4, 8))(x)
    x = MyLSTM(U, return_sequences=True, name="mine")(x)
    return keras.Model(inputs, layers.GRU(U, name="gru")(x), name="video_model")


def test_what_is_left_alone_is_listed_with_the_reason():
    model = video()
    left = {one.path: one for one in left_alone(model)}
    assert [*left] == ["video", "mine"]
    assert left["video"].layer is model.get_layer("video")
    assert "derive it from ostinato.layers.ConvLSTM2D" in left["video"].reason
    assert "derive it from ostinato.layers.LSTM" in left["mine"].reason
    with pytest.warns(UserWarning, match="(?s)accelerate: left alone:.*MyConvLSTM.*MyLSTM"):
        fast = accelerate(model)
    x = np.random.default_rng(0).normal(size=(2, T, 6, 6, 1)).astype("float32")
    close(fast(x), model(x))
    assert type(fast.get_layer("gru")) is ostinato.layers.GRU
    assert type(fast.get_layer("mine")) is MyLSTM
    assert fast.get_layer("mine") is not model.get_layer("mine")


def test_bidirectionals_left_alone():
    scope = keras.saving.custom_object_scope({"MyLSTM": MyLSTM})
    with scope:
        model = keras.Sequential([keras.Input((T, D)), layers.Bidirectional(MyLSTM(U), name="b")])
    (left,) = left_alone(model)
    assert left.path == "b"
    assert "forward_layer" in left.reason
    with pytest.warns(UserWarning, match="forward_layer"):
        fast = accelerate(model)
    close(fast(X), model(X))


def test_a_bidirectional_of_keras_around_layers_of_ours_is_converted():
    ours = ostinato.layers  # as where the import of LSTM alone was changed
    both = layers.Bidirectional(
        ours.LSTM(U), backward_layer=layers.GRU(3, go_backwards=True), name="b"
    )
    model = keras.Sequential([keras.Input((T, D)), both])
    assert not left_alone(model)
    fast = accelerate(model)
    found = fast.get_layer("b")
    assert type(found) is ours.Bidirectional
    assert type(found.forward_layer) is ours.LSTM
    assert type(found.backward_layer) is ours.GRU
    close(fast(X), model(X))
    around_theirs = keras.Sequential([keras.Input((T, D)), ours.Bidirectional(layers.LSTM(U))])
    plain = restore(around_theirs)
    assert type(plain.layers[0]) is layers.Bidirectional
    close(plain(X), around_theirs(X))


def test_cells_called_by_hand():
    class ByHand(keras.layers.Layer):
        def __init__(self, dropout):
            super().__init__()
            self.cell = layers.GRUCell(U, dropout=dropout, name="cell")

        def call(self, x):
            h = self.cell.get_initial_state(batch_size=ops.shape(x)[0])
            for t in range(T):
                out, h = self.cell(x[:, t], h)
            return out

    for dropout, count in ((0.0, 0), (0.5, 1)):
        layer = ByHand(dropout)
        layer(X)
        left = left_alone(layer)
        assert len(left) == count
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            close(accelerate(layer)(X), layer(X))
    assert "masks" in left[0].reason


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda o: o.RNN(PairCell()), "nested states"),
        (lambda o: o.RNN(WithConstants()), "constants"),
        (lambda o: OurLSTM(U), "derived from our LSTM"),
        (lambda o: o.RNN([o.LSTMCell(2), PairCell()]), "nested states"),
    ],
)
def test_what_keras_has_no_layer_for_isnt_restored(make, reason):
    layer = make(ostinato.layers)
    (left,) = left_alone(layer, by=restore)
    assert reason in left.reason
    with pytest.warns(UserWarning, match=reason):
        again = restore(layer)
    assert type(again) is type(layer)
    assert again is not layer


class PairCell(keras.layers.Layer):
    state_size = ostinato.Shape(2, 3)
    output_size = 2

    def call(self, inputs, states):
        return inputs[:, :2], states


class WithConstants(keras.layers.Layer):
    state_size = 3

    def call(self, inputs, states, constants=None):
        return states[0], states


@pytest.mark.parametrize("given", [3, None, layers.LSTM, "model.keras"])
def test_what_is_no_model_is_refused(given):
    for convert in (accelerate, restore, left_alone):
        with pytest.raises(ValueError, match="expected a Keras model or layer, got"):
            convert(given)
    for by in (print, []):
        with pytest.raises(ValueError, match="expected `by`"):
            left_alone(layers.LSTM(2), by=by)
