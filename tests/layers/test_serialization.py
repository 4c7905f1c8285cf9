"""Configs and weights: to and from Keras, and through files."""

import keras
import numpy as np
import pytest

import ostinato.layers
from ostinato import Shape
from ostinato.layers import GRU, LSTM, RNN, Bidirectional, GRUCell, LSTMCell, SimpleRNN
from ostinato.layers.arguments import argument_names
from support import DictCell, NestedCell, array, assert_close

X = array(0, 2, 5, 3)
UNUSUAL = {
    "activation": "relu",
    "use_bias": False,
    "kernel_initializer": "he_normal",
    "recurrent_initializer": keras.initializers.RandomNormal(0.1, seed=3),
    "kernel_regularizer": keras.regularizers.L2(0.1),
    "recurrent_regularizer": "l1",
    "bias_constraint": "non_neg",
    "kernel_constraint": keras.constraints.MaxNorm(2.0),
    "dropout": 0.25,
    "recurrent_dropout": 0.5,
    "seed": 5,
    "name": "unusual",
    "dtype": "mixed_bfloat16",
    "trainable": False,
}
GATED = {"recurrent_activation": "hard_sigmoid"}
LOOP = {
    "return_sequences": True,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "unroll": True,
    "zero_output_for_mask": True,
    "activity_regularizer": "l2",
}
CASES = [
    ("SimpleRNNCell", {}),
    ("SimpleRNNCell", UNUSUAL),
    ("GRUCell", {}),
    ("GRUCell", {**UNUSUAL, **GATED, "reset_after": False}),
    ("LSTMCell", {}),
    ("LSTMCell", {**UNUSUAL, **GATED, "unit_forget_bias": False}),
    ("SimpleRNN", {}),
    ("SimpleRNN", {**UNUSUAL, **LOOP}),
    ("GRU", {}),
    ("GRU", {**UNUSUAL, **GATED, **LOOP, "reset_after": False}),
    ("LSTM", {}),
    ("LSTM", {**UNUSUAL, **GATED, **LOOP, "unit_forget_bias": False}),
]


def both(name, options):
    return getattr(ostinato.layers, name)(4, **options), getattr(keras.layers, name)(4, **options)


def comparable(config):
    """Without the name, and a seed of None, which Keras's SimpleRNN writes from 3.16 on."""
    left_out = {"name", *(["seed"] if config.get("seed") is None else [])}
    return {key: value for key, value in config.items() if key not in left_out}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_configs_equal_kerass(name, options):
    ours, theirs = both(name, options)
    config, expected = comparable(ours.get_config()), comparable(theirs.get_config())
    if name == "SimpleRNN" and options:  # Keras's SimpleRNN forgets these two
        assert config.pop("seed") == options["seed"] == expected.pop("seed", options["seed"])
        assert config.pop("activity_regularizer")
        assert not expected.pop("activity_regularizer")
    assert config == expected


@pytest.mark.parametrize(("name", "options"), CASES)
def test_configs_build_either_class(name, options):
    ours, theirs = both(name, options)
    cls = type(ours)
    rebuilt = cls.from_config(theirs.get_config())
    expected = comparable(theirs.get_config())
    assert {k: v for k, v in comparable(rebuilt.get_config()).items() if k in expected} == expected
    assert comparable(cls.from_config(ours.get_config()).get_config()) == comparable(
        ours.get_config()
    )
    assert comparable(type(theirs).from_config(ours.get_config()).get_config()) == expected


@pytest.mark.parametrize("name", ["LSTM", "GRU", "LSTMCell", "GRUCell"])
def test_implementation_is_kept(name):
    cls = getattr(ostinato.layers, name)
    assert cls(4, implementation=1).get_config()["implementation"] == 1
    again = cls.from_config(cls(4, implementation=1).get_config())
    assert getattr(again, "cell", again).implementation == 1
    assert "implementation" not in cls(4).get_config()


@pytest.mark.parametrize("value", [True, False])
def test_use_cudnn_is_kept(value):
    assert LSTM.from_config(LSTM(4, use_cudnn=value).get_config()).use_cudnn is value
    assert "use_cudnn" not in GRU(4).get_config()


def test_attributes_of_the_cell_show_on_the_layer():
    ours, theirs = both("LSTM", {**UNUSUAL, **GATED})
    for name in argument_names(LSTMCell):
        if hasattr(theirs, name):
            assert type(getattr(ours, name)) is type(getattr(theirs, name)), name
    assert ours.units == 4
    assert ours.state_size == theirs.state_size == [4, 4]
    assert GRU(4).state_size == keras.layers.GRU(4).state_size == [4]


@pytest.mark.parametrize("name", ["LSTM", "GRU", "SimpleRNN"])
def test_weights_have_kerass_names_order_and_values(name):
    for layer_cls in (None, "Bidirectional"):
        keras.utils.set_random_seed(4)
        theirs = getattr(keras.layers, name)(4, name="layer")
        keras.utils.set_random_seed(4)
        ours = getattr(ostinato.layers, name)(4, name="layer")
        if layer_cls:
            keras.utils.set_random_seed(4)
            theirs = keras.layers.Bidirectional(theirs, name="both")
            keras.utils.set_random_seed(4)
            ours = Bidirectional(ours, name="both")
        for layer in (ours, theirs):
            layer.build(X.shape)
        assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
        assert_close(ours.get_weights(), theirs.get_weights(), 0)
        ours.set_weights([w + 1 for w in ours.get_weights()])
        theirs.set_weights(ours.get_weights())
        assert_close(ours(X), theirs(X))


def keras_model(layers):
    """A model with each kind of recurrent layer, of one library or the other."""
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
            layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)], return_sequences=True),
            layers.RNN(layers.SimpleRNNCell(3), return_sequences=True),
            layers.GRU(3, return_sequences=True, reset_after=False),
            layers.SimpleRNN(2),
        ]
    )


def test_weights_files_go_either_way(tmp_path):
    ours, theirs = keras_model(ostinato.layers), keras_model(keras.layers)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.load_weights(tmp_path / "theirs.weights.h5")
    assert_close(ours(X), theirs(X))
    ours.set_weights([w * 0.5 for w in ours.get_weights()])
    ours.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    assert_close(ours(X), theirs(X))


def test_a_keras_config_builds_ours_all_the_way_down():
    theirs = keras_model(keras.layers)
    for layer in theirs.layers:
        rebuilt = getattr(ostinato.layers, type(layer).__name__).from_config(layer.get_config())
        rebuilt.build(layer._build_shapes_dict["sequences_shape"])
        rebuilt.set_weights(layer.get_weights())
        parts = [rebuilt, getattr(rebuilt, "cell", None), getattr(rebuilt, "forward_layer", None)]
        assert all(type(p).__module__.startswith("ostinato") for p in parts if p is not None)
        for cell in getattr(getattr(rebuilt, "cell", None), "cells", []):
            assert type(cell).__module__.startswith("ostinato")
        x = array(1, 2, 4, *layer._build_shapes_dict["sequences_shape"][2:])
        assert_close(rebuilt(x), layer(x))


def test_keras_files_round_trip(tmp_path):
    model = keras_model(ostinato.layers)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert_close(loaded(X), model(X), 1e-6)


def test_a_compiled_model_goes_on_training_after_loading(tmp_path):
    model = keras.Sequential([keras.Input((5, 3)), LSTM(4), keras.layers.Dense(1)])
    model.compile(optimizer="adam", loss="mse")
    y = array(1, 2, 1)
    model.fit(X, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.fit(X, y, epochs=3, verbose=0).history["loss"]
    np.testing.assert_allclose(
        loaded.fit(X, y, epochs=3, verbose=0).history["loss"], expected, 1e-5
    )


def test_stateful_models_save_their_weights_alone(tmp_path):
    model = keras.Sequential([keras.Input(batch_shape=(2, 5, 3)), GRU(4, stateful=True)])
    model(X)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    model.layers[0].reset_state()
    assert_close(loaded(X), model(X), 1e-6)


def test_clones_and_copies_are_fresh():
    layer = RNN([LSTMCell(4), GRUCell(3)])
    model = keras.Sequential([keras.Input((None, 3)), layer])
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert clone.layers[0] is not layer
    assert_close(clone(X), model(X))


@pytest.mark.parametrize("cell", [NestedCell(2, 3, 4), DictCell(0.25)])
def test_custom_cells_round_trip(cell):
    config = RNN(cell, name="around").get_config()
    again = RNN.from_config(config)
    assert type(again.cell) is type(cell)
    assert again.get_config() == config


def test_bidirectional_copies_cells_that_arent_registered():
    class Local(keras.layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)
            self.size = self.state_size = size

        def call(self, inputs, states):
            return inputs + states[0], [inputs + states[0]]

        def get_config(self):
            return {**super().get_config(), "size": self.size}

    class Plain:
        state_size = 3

        def call(self, inputs, states):
            return inputs + states[0], [inputs + states[0]]

    for cell in (Local(3), Plain()):
        layer = Bidirectional(RNN(cell), merge_mode="sum")
        assert_close(layer(X), 2 * X.sum(axis=1))
        assert layer.forward_layer.cell is not layer.backward_layer.cell


def test_shapes_are_values():
    shape = Shape(4, 5)
    assert list(shape) == shape.as_list() == [4, 5]
    assert shape == Shape(4, 5) != Shape(4)
    assert len(shape) == 2
    assert hash(shape) == hash(Shape(4, 5))
    assert repr(shape) == "Shape(4, 5)"
    config = keras.saving.serialize_keras_object(shape)
    assert keras.saving.deserialize_keras_object(config) == shape


def test_a_user_subclass_keeps_kerass_ways():
    @keras.saving.register_keras_serializable(package="tests")
    class MyLSTM(LSTM):
        def __init__(self, units, extra=1, **kwargs):
            super().__init__(units, **kwargs)
            self.extra = extra

        def call(self, sequences, initial_state=None, mask=None, training=False):
            return self.extra * super().call(sequences, initial_state, mask, training)

        def get_config(self):
            return {**super().get_config(), "extra": self.extra}

    layer = MyLSTM(4, extra=2, activation="relu")
    plain = LSTM(4, activation="relu")
    plain.build(X.shape)
    layer.build(X.shape)
    layer.set_weights(plain.get_weights())
    assert_close(layer(X), 2 * keras.ops.convert_to_numpy(plain(X)))
    assert MyLSTM.from_config(layer.get_config()).extra == 2


@pytest.mark.parametrize("symbolic", [False, True])
def test_a_subclass_may_have_kerass_call_and_an_argument_of_its_own(symbolic):
    class Scaled(LSTM):
        def call(self, sequences, initial_state=None, mask=None, training=False, scale=1.0):
            return scale * super().call(sequences, initial_state, mask, training)

    layer = Scaled(4)
    inputs = keras.Input((None, 3)) if symbolic else X
    assert layer(inputs, scale=2.0).shape[1:] == (4,)
    assert layer(inputs, initial_state=[array(0, 2, 4)] * 2).shape[1:] == (4,)


def test_bidirectional_starts_from_given_weights():
    source = Bidirectional(GRU(2))
    source.build(X.shape)
    layer = Bidirectional(GRU(2), weights=[w + 1 for w in source.get_weights()])
    layer.build(X.shape)
    assert_close(layer.get_weights(), [w + 1 for w in source.get_weights()])


def test_simple_rnn_signature_is_kerass():
    import inspect

    for name in ("RNN", "SimpleRNN", "GRU", "LSTM", "SimpleRNNCell", "GRUCell", "LSTMCell"):
        theirs = inspect.signature(getattr(keras.layers, name).__init__).parameters
        ours = inspect.signature(getattr(ostinato.layers, name).__init__).parameters
        positional = [p for p in ours.values() if p.kind is not p.KEYWORD_ONLY]
        assert [(p.name, p.default) for p in positional] == [
            (p.name, p.default) for p in theirs.values()
        ], name
        assert "Args:" in getattr(ostinato.layers, name).__doc__
    assert SimpleRNN(3, "relu").activation is keras.activations.relu
