"""Writes models with Keras 2's recurrent layers, as .h5 and .keras files, with what they compute.

    python keras2_files.py FOLDER

A process of its own, since tf_keras and Keras 3 don't get on in one.
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers
from tf_keras.src.layers.rnn.cudnn_gru import CuDNNGRU
from tf_keras.src.layers.rnn.cudnn_lstm import CuDNNLSTM

B, T, D, U = 2, 7, 3, 4
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(B, T, D)).astype("float32")
PADDED = np.where(np.arange(T)[None, :, None] < [[[T]], [[4]]], X, 0).astype("float32")
IDS = np.array([[1, 2, 3, 4], [5, 6, 0, 0]], "int32")


def sequential(*parts, shape=(T, D), **options):
    return keras.Sequential([keras.Input(shape, **options), *parts])


def encoder_decoder():
    x = keras.Input((T, D))
    y, *states = layers.LSTM(U, return_sequences=True, return_state=True)(x)
    return keras.Model(x, layers.LSTM(U)(y, initial_state=states))


def bidirectional_states():
    x = keras.Input((T, D))
    y, *states = layers.Bidirectional(layers.GRU(U, return_sequences=True, return_state=True))(x)
    return keras.Model(x, layers.Bidirectional(layers.GRU(U))(y, initial_state=states))


def nested_twice():
    """A model in a model, called twice, and a layer that is shared."""
    inner = sequential(layers.GRU(U, return_sequences=True))
    x, last = keras.Input((T, D)), layers.LSTM(3)
    y = layers.Dense(D)(inner(x))
    return keras.Model(x, layers.Add()([last(inner(y)), last(inner(x))]))


def several():
    a, b = keras.Input((T, D), name="a"), keras.Input((T, D), name="b")
    return keras.Model({"a": a, "b": b}, layers.Add()([layers.LSTM(U)(a), layers.GRU(U)(b)]))


def mask_by_keyword():
    x, mask = keras.Input((T, D), name="a"), keras.Input((T,), name="b", dtype="bool")
    return keras.Model({"a": x, "b": mask}, layers.SimpleRNN(U)(x, mask=mask))


class Gated(layers.Layer):
    """A cell of one's own, with a constant; tests/tools/test_keras2.py has it for Keras 3."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        features = (input_shape[0] if isinstance(input_shape, list) else input_shape)[-1]
        self.kernel = self.add_weight(shape=(features, self.units), name="kernel")
        self.built = True

    def call(self, inputs, states, constants):
        h = states[0] * constants[0] + tf.tanh(inputs @ self.kernel)
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def constants():
    x, gate = keras.Input((T, D), name="a"), keras.Input((U,), name="b")
    return keras.Model({"a": x, "b": gate}, layers.RNN(Gated(U))(x, constants=gate))


def masked_directions():
    lstm = layers.LSTM(U, return_sequences=True)
    return sequential(layers.Masking(), layers.Bidirectional(lstm), shape=(None, D))


def recurrent_after_time_distributed():
    return sequential(
        layers.TimeDistributed(layers.LSTM(U)),
        layers.Bidirectional(layers.GRU(U, return_sequences=True), merge_mode="ave"),
        shape=(5, T, D),
    )


def beside():
    """Layers beside a recurrent one that masks reach: two columns of the output for each."""
    ids = keras.Input((6,), name="ids", dtype="int32")
    free, g = keras.Input((6, D), name="free"), keras.Input((6, D), name="padded")
    e, padded = layers.Embedding(9, D, mask_zero=True)(ids), layers.Masking()(g)
    merging = [layers.Add, layers.Multiply, layers.Maximum, layers.Minimum, layers.Average]
    merging += [layers.Subtract, layers.Concatenate]
    tensors = [merge()(pair) for merge in merging for pair in ([e, free], [padded, e])]
    tensors += [layers.Concatenate(axis=1)([e, padded]), layers.Add()([e, layers.GRU(D)(free)])]
    single = [layers.SpatialDropout1D(0.2), layers.Reshape((6, D)), layers.Permute((1, 2))]
    single += [
        layers.Identity(),
        layers.Rescaling(0.5),
        layers.Normalization(mean=0.1, variance=2.0),
    ]
    single += [
        layers.Conv1D(D, 2, padding="same"),
        layers.BatchNormalization(),
        layers.LeakyReLU(0.2),
    ]
    single += [layers.SeparableConv1D(3, 2, padding="same"), layers.Cropping1D(0)]
    single += [layers.TimeDistributed(layers.Masking()), layers.TimeDistributed(layers.Dense(2))]
    single += [
        layers.TimeDistributed(keras.Sequential([layers.Dense(3), layers.Activation("tanh")]))
    ]
    tensors += [layer(e) for layer in single]
    tensors += [layers.Attention()([e, padded]), layers.Attention(use_scale=True)([free, e])]
    tensors += [layers.AdditiveAttention()([padded, e], use_causal_mask=True)]
    heads = layers.MultiHeadAttention(2, 3, dropout=0.1)
    tensors += [heads(e, padded), heads(free, e, use_causal_mask=True)]
    y, scores = layers.MultiHeadAttention(2, 3)(e, e, return_attention_scores=True)
    tensors += [layers.Reshape((6, D))(y), layers.Reshape((6, 12))(scores)]
    x, z = keras.Input((6, D)), keras.Input((6, D))
    tensors += [keras.Model(x, layers.Conv1D(2, 1)(x))(e)]
    tensors += [keras.Model([x, z], layers.Add()([x, z]))([e, free])]
    ends = [layers.LSTM(2)(tensor) for tensor in tensors]
    return keras.Model({"ids": ids, "free": free, "padded": g}, layers.Concatenate()(ends))


def by_sentence():
    """Layers called at each timestep, and masks of the timesteps' own timesteps."""
    x = keras.Input((5, 4, D))
    each = layers.TimeDistributed
    inside, outside = each(layers.Masking())(x), layers.Masking()(x)
    tensors = [each(layers.LSTM(2))(inside), each(layers.Bidirectional(layers.GRU(2)))(inside)]
    tensors += [each(layers.LSTM(2))(outside), each(layers.GRU(2))(each(layers.Dense(3))(outside))]
    tensors += [each(keras.Sequential([layers.Masking(), layers.LSTM(2)]))(x)]
    tensors += [each(layers.LSTM(2))(each(each(layers.Dense(3)))(inside))]
    tensors += [each(layers.GRU(2))(layers.BatchNormalization()(outside))]
    return keras.Model(x, layers.Concatenate()([layers.LSTM(2)(tensor) for tensor in tensors]))


MODELS = {
    "beside": beside,
    "by_sentence": by_sentence,
    "simple_rnn": lambda: sequential(layers.SimpleRNN(U, "relu", return_sequences=True)),
    "lstm": lambda: sequential(layers.LSTM(U, dropout=0.1, recurrent_dropout=0.2, unroll=True)),
    "gru_reset_after": lambda: sequential(layers.GRU(U, go_backwards=True)),
    "gru_reset_before": lambda: sequential(layers.GRU(U, reset_after=False)),
    "no_bias": lambda: sequential(layers.GRU(U, use_bias=False), layers.Dense(2)),
    "hard_sigmoid": lambda: sequential(
        layers.LSTM(U, recurrent_activation="hard_sigmoid"),
        layers.Dense(2, activation="hard_sigmoid"),
    ),
    "bidirectional": lambda: sequential(
        layers.Bidirectional(layers.LSTM(U, return_sequences=True)),
        layers.Bidirectional(layers.LSTM(U), backward_layer=layers.GRU(U, go_backwards=True)),
    ),
    "cell": lambda: sequential(layers.RNN(layers.LSTMCell(U), return_sequences=True)),
    "stacked_cells": lambda: sequential(
        layers.RNN([layers.LSTMCell(U), layers.GRUCell(U), layers.SimpleRNNCell(5)])
    ),
    "masking": lambda: sequential(
        layers.Masking(),  # the initializer is called as a layer is
        layers.LSTM(U, recurrent_initializer=keras.initializers.Identity(0.5)),
        shape=(None, D),
    ),
    "embedding": lambda: sequential(
        layers.Embedding(11, 3, mask_zero=True), layers.GRU(U), shape=(None,), dtype="int32"
    ),
    "ragged": lambda: sequential(layers.LSTM(U), shape=(None, D), ragged=True),
    "stateful": lambda: keras.Sequential(
        [keras.Input(batch_shape=(B, T, D)), layers.LSTM(U, stateful=True)]
    ),
    "time_distributed": recurrent_after_time_distributed,
    "encoder_decoder": encoder_decoder,
    "bidirectional_states": bidirectional_states,
    "nested_twice": nested_twice,
    "several": several,
    "mask_by_keyword": mask_by_keyword,
    "constants": constants,
    "masked_directions": masked_directions,
    "time_major": lambda: sequential(layers.LSTM(U, time_major=True), shape=(B, D)),
}
SIX = RANDOM.normal(size=(2, 3, 6, D)).astype("float32")
SIX[1, [0, 0, 1, 2, 2], [4, 5, 1, 0, 3]] = 0
SENTENCES = RANDOM.normal(size=(3, 5, 4, D)).astype("float32")
SENTENCES[0, 3:], SENTENCES[1, :, 2:], SENTENCES[2, 1] = 0, 0, 0
INPUTS = {
    "beside": {
        "ids": np.array([[1, 2, 3, 4, 0, 0], [5, 6, 7, 0, 0, 0], [0, 1, 2, 0, 3, 4]], "int32"),
        "free": SIX[0],
        "padded": SIX[1],
    },
    "by_sentence": SENTENCES,
    "masking": PADDED,
    "embedding": IDS,
    "ragged": X,
    "masked_directions": PADDED,
    "several": {"a": X, "b": X[::-1]},
    "mask_by_keyword": {"a": X, "b": np.abs(X[..., 0]) > 0.3},
    "constants": {"a": X, "b": np.abs(X[:, 0, :1]) * np.ones((B, U), "float32")},
    "time_distributed": RANDOM.normal(size=(B, 5, T, D)).astype("float32"),
    "time_major": X[:, :B],
}


def compile_and_fit(name, model, x):
    """In each way that a file tells in other words than Keras 3's."""
    if name == "lstm":
        metrics = ["mae", keras.metrics.RootMeanSquaredError()]
        model.compile(keras.optimizers.Adam(0.02, clipnorm=1.0), keras.losses.Huber(), metrics)
        model.fit(x, np.zeros((B, U)), verbose=0)
    elif name not in ("ragged", "cell"):
        model.compile(keras.optimizers.RMSprop(0.02), "mse", metrics=["mse"])


def cudnn_models():
    """Layers on cuDNN, which can't run here, and what plain ones compute with their weights."""
    for name, (first, second) in {
        "cudnn_lstm_gru": (CuDNNLSTM, CuDNNGRU),
        "cudnn_gru_lstm": (CuDNNGRU, CuDNNLSTM),
    }.items():
        plain = {CuDNNLSTM: layers.LSTM, CuDNNGRU: layers.GRU}

        def made(one, two):
            both = layers.Bidirectional(one(U, return_sequences=True))
            return sequential(both, two(5))

        model, twin = made(first, second), made(plain[first], plain[second])
        scramble(model)
        yield name, model, twin


def scramble(model):
    # Positive where a variance may be meant.
    model.set_weights(
        [np.abs(RANDOM.normal(size=w.shape)) / 2 - 0.3 * (w.ndim > 1) for w in model.get_weights()]
    )


def main(folder):
    results = {}
    for name, make in MODELS.items():
        model, x = make(), INPUTS.get(name, X)
        scramble(model)
        compile_and_fit(name, model, x)
        results[name] = model(tf.RaggedTensor.from_tensor(x) if name == "ragged" else x).numpy()
        for suffix in (".h5", ".keras"):
            model.save(folder / f"{name}{suffix}")
        (folder / f"{name}.json").write_text(model.to_json())
        model.save_weights(folder / f"{name}.weights.h5")  # of Keras 2.13 and later
        model.save_weights(folder / f"{name}_weights.h5")  # of all older ones
    for name, model, twin in cudnn_models():
        model.save(folder / f"{name}.h5")
        (folder / f"{name}.json").write_text(model.to_json())
        model.save_weights(folder / f"{name}_weights.h5")
        twin.load_weights(folder / f"{name}.h5")
        results[name] = twin(X).numpy()
    np.savez(folder / "results.npz", **results)
    flat = {}
    for name in MODELS:
        x = INPUTS.get(name, X)
        nested = x if isinstance(x, dict) else {"x": x}
        flat.update({f"{name}/{key}": value for key, value in nested.items()})
    np.savez(folder / "inputs.npz", **flat)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
