"""Training gives Keras's loss history: the same initial weights and dropout masks from one seed."""

import keras
import numpy as np
import pytest

from ostinato import layers
from support import elsewhere_in_long, sample

B, T, D, U = 16, 5, 4, 6
# TensorFlow takes seconds to trace Keras's loops. Layers in its graphs have tests of their own.
EAGERLY = keras.config.backend() == "tensorflow"
DROPOUT = {"dropout": 0.3, "recurrent_dropout": 0.2}

# Each gives layers, out of Keras's `layers` module or out of ours, that run one after the other:
# compiling a model costs more than the layers in it.
STACKS = {
    "a mask a gate": lambda of, **seed: [
        of.SimpleRNN(U, return_sequences=True, **DROPOUT, **seed),
        of.GRU(U, return_sequences=True, **DROPOUT, **seed),
        of.LSTM(U, **DROPOUT, **seed),
    ],
    "one mask for all gates": lambda of: [
        of.GRU(U, reset_after=False, dropout=0.3, return_sequences=True),
        of.LSTM(U, dropout=0.3),
    ],
    "cells": lambda of: [of.RNN([of.LSTMCell(U, **DROPOUT), of.GRUCell(3, dropout=0.2)])],
    "bidirectional": lambda of: [of.Bidirectional(of.GRU(U, seed=5, **DROPOUT))],
}


def make_model(recurrent, run_eagerly=EAGERLY):
    model = keras.Sequential(
        [keras.Input((T, D)), keras.layers.Masking(), *recurrent, keras.layers.Dense(1)]
    )
    model.compile("adam", "mse", run_eagerly=run_eagerly)
    return model


def make_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3 * B + 5, T, D)).astype("float32")
    x[::3, 3:] = 0  # padding, that Masking finds
    return x, x[:, 0, :1] - x[:, 2, 1:2]


def fit(model):
    x, y = make_data()
    return model.fit(
        x, y, batch_size=B, epochs=2, verbose=0, validation_data=(x[:20], y[:20])
    ).history


def assert_same_history(ours, theirs):
    assert ours.keys() == theirs.keys() == {"loss", "val_loss"}
    for name, values in theirs.items():
        # float32 through a few updates
        np.testing.assert_allclose(ours[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", sample(STACKS, "one mask for all gates"))
def test_one_global_seed_gives_keras_weights_masks_and_losses(name):
    histories = []
    for of in (layers, keras.layers):
        keras.utils.set_random_seed(7)
        in_graph = name == "one mask for all gates"  # one of them, on TensorFlow too
        model = make_model(STACKS[name](of), EAGERLY and not in_graph)
        histories.append(fit(model))
    assert_same_history(*histories)


@elsewhere_in_long
def test_copied_weights_and_the_layers_seeds_give_keras_losses():
    theirs, ours = (
        make_model(STACKS["a mask a gate"](of, seed=3)) for of in (keras.layers, layers)
    )
    ours.set_weights(theirs.get_weights())
    histories = []
    for model in (ours, theirs):
        keras.utils.set_random_seed(7)  # the order of the batches
        histories.append(fit(model))
    assert_same_history(*histories)


def test_the_histories_depend_on_dropout():
    """The comparisons above could pass without any dropout in either layer."""
    histories = []
    for rate in (0.0, 0.3):
        keras.utils.set_random_seed(7)
        histories.append(fit(make_model([layers.SimpleRNN(U, dropout=rate)])))
    assert not np.allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-3)
