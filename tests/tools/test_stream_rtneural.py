"""Streams written as RTNeural's JSON, and read by a reader of its documented format."""

import keras
import numpy as np
import pytest
from keras import layers

import ostinato
from ostinato import native
from ostinato.layers import RNN, LSTMCell
from support import on_one_backend
from tools.rtneural import Model
from tools.stream_zoo import Own, adapted, give_weights, gru, lstm, read, stack, trained
from tools.streamed import VOCABULARY, data_for

pytestmark = [
    on_one_backend,
    pytest.mark.skipif(bool(native.why_not()), reason="what Keras runs has no program"),
]
MODELS = {
    "an amplifier's": lambda: stack(lstm(20), layers.Dense(1), features=1),
    "dense": lambda: stack(
        layers.Dense(4, "tanh"), layers.Dense(3, "elu", use_bias=False), layers.Dense(5, "softmax")
    ),
    "gru": lambda: stack(gru(6), gru(5, use_bias=False), layers.Dense(2, "relu")),
    "lstm without a bias": lambda: stack(lstm(6, use_bias=False), layers.Activation("sigmoid")),
    "convolutions": lambda: stack(
        layers.Conv1D(5, 3, padding="causal", activation="tanh"),
        layers.Conv1D(4, 2, padding="causal", dilation_rate=4, use_bias=False),
        layers.PReLU(shared_axes=[1]),
        layers.Conv1D(3, 1),
        layers.LeakyReLU(0.1),
        layers.Dropout(0.5),
        layers.Activation("softmax"),
    ),
    "normalizations": adapted,
    "batch normalization": trained,
    "rescaled": lambda: stack(
        layers.Rescaling(2.0, -0.5), layers.Activation("leaky_relu"), layers.Activation("elu")
    ),
    "a convolution at the end": lambda: stack(layers.Conv1D(2, 3, padding="causal")),
    "slopes at the end": lambda: stack(layers.Dense(4), layers.PReLU(shared_axes=[1])),
}


@pytest.mark.parametrize("name", MODELS)
def test_gives_what_the_stream_gives(name, tmp_path):
    model = MODELS[name]()
    stream, path = ostinato.stream(model), tmp_path / "model.json"
    stream.save_rtneural(path)
    x = data_for(model, rows=1, timesteps=30)[0]
    there = Model(path)
    made = np.stack([there.forward(row.astype("float64")) for row in x])
    np.testing.assert_allclose(made, stream.run(x), 1e-6, 1e-6)


def of_two():
    x = keras.Input((None, 3))
    return give_weights(keras.Model(x, layers.Add()([layers.Dense(3)(x), x])))


def merged(other, merge=layers.Maximum):
    """A value and what a layer makes of it: a PReLU where that's a slope of at most 1, and no more.

    It's the larger of the two that is.
    """
    x = keras.Input((None, 3))
    return keras.Model(x, merge()([x, other(x)]))


def larger_of_an_earlier(scaled_first):
    """Of what was before the layer that is scaled, in either order."""
    x = keras.Input((None, 3))
    pair = [layers.Rescaling(0.5)(layers.Dense(3)(x)), x]
    return keras.Model(x, layers.Maximum()(pair if scaled_first else pair[::-1]))


def one_of_two(second_reads_first):
    """The first output of a model whose second layer is nobody's."""
    x = keras.Input((None, 3))
    first = layers.Dense(3)(x)
    inner = keras.Model(x, [first, layers.Dense(2)(first if second_reads_first else x)])
    x = keras.Input((None, 3))
    return keras.Model(x, inner(x)[0])


class Carrying(LSTMCell):
    """Begins with a carry that isn't zero."""

    def get_initial_state(self, batch_size=None):
        h, c = super().get_initial_state(batch_size)
        return [h, c + 1.0]


def of_two_outputs():
    x = keras.Input((None, 3))
    return keras.Model(x, [x, layers.Dense(2)(x)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stack(gru(3, reset_after=False)), "not GRU with reset_after=False"),
        (lambda: stack(ostinato.layers.SimpleRNN(3)), "not SimpleRNN"),
        (lambda: stack(lstm(3, activation="relu")), "tanh and sigmoid, got relu and sigmoid"),
        (
            lambda: stack(lstm(3, recurrent_activation="tanh")),
            "tanh and sigmoid, got tanh and tanh",
        ),
        (lambda: stack(layers.Dense(3, "gelu")), "no activation 'gelu', but tanh, relu"),
        (lambda: stack(layers.LayerNormalization()), "no LayerNormalization"),
        (lambda: stack(layers.Masking(), lstm(3)), "a mask"),
        (lambda: stack(RNN(Own(3))), "no cells of one's own"),
        (lambda: stack(layers.GlobalAveragePooling1D()), "no pooling"),
        (lambda: stack(layers.GlobalAveragePooling1D(), layers.Dense(2)), "no pooling"),
        (lambda: stack(layers.DepthwiseConv1D(1)), "no pooling, nor windows"),
        (
            lambda: stack(layers.DepthwiseConv1D(1, use_bias=False), layers.Dense(2)),
            "no pooling, nor windows",
        ),
        (lambda: read(layers.Embedding(VOCABULARY, 3)), "ids"),
        (
            lambda: stack(
                layers.Conv1D(2, 3, padding="causal"), RNN(Carrying(3), return_sequences=True)
            ),
            "begin with states of zero",
        ),
        (lambda: merged(layers.Rescaling(1.5)), "one after another|no merging layers"),
        (lambda: merged(layers.Rescaling(0.5, 0.1)), "one after another|no merging layers"),
        (lambda: merged(layers.Rescaling(0.5), layers.Minimum), "one after|no merging layers"),
        (lambda: merged(layers.Rescaling(0.5), layers.Multiply), "one after|no merging layers"),
        (lambda: merged(layers.LayerNormalization()), "one after|no LayerN"),
        (lambda: merged(layers.Activation("tanh")), "one after|no merging layers"),
        (
            lambda: merged(layers.Dense(3, kernel_initializer="identity")),
            "one after|no merging layers",
        ),
        (lambda: larger_of_an_earlier(True), "one after|no merging layers"),
        (lambda: larger_of_an_earlier(False), "one after|no merging layers"),
        (of_two, "one after another|no merging layers"),
        (lambda: one_of_two(True), "its output isn't that of its last layer"),
        (lambda: one_of_two(False), "its layers aren't one after another"),
        (of_two_outputs, "one input of numbers and one output, .* got 1 inputs and 2 outputs"),
        (lambda: stack(layers.Dropout(0.5)), "a layer that does something"),
        (lambda: stack(layers.UnitNormalization()), "expected a stream on the native engine"),
    ],
)
def test_what_rtneural_has_not(make, message, tmp_path):
    with pytest.raises(ValueError, match=rf"^stream of \w+: save_rtneural: .*({message})"):
        ostinato.stream(make()).save_rtneural(tmp_path / "model.json")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_and_int8(tmp_path):
    model = stack(layers.Dense(2))
    model.set_weights([np.full((3, 2), np.nan), np.zeros(2)])
    small = ostinato.quantize(ostinato.stream(stack(lstm(2))))
    for stream, message in ((ostinato.stream(model), "numbers"), (small, "int8")):
        with pytest.raises(ValueError, match=f"save_rtneural: .*{message}"):
            stream.save_rtneural(tmp_path / "model.json")
    with pytest.raises(ValueError, match="expected the path of a JSON file, got 5"):
        ostinato.stream(stack(lstm(2))).save_rtneural(5)
