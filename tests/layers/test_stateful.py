"""States kept from batch to batch, and states handed from one layer to another."""

import contextlib
from itertools import product

import keras
import numpy as np
import pytest
from refusals import refuses

import ostinato
from ostinato.layers import GRU, LSTM, RNN, Bidirectional, LSTMCell, SimpleRNN
from support import array, assert_close, numpy, on_one_backend, sample

LAYERS = [LSTM, GRU, SimpleRNN]
METHODS = ["fit", "evaluate", "predict"]
X = array(0, 4, 6, 3)


def kept(layer):
    return [numpy(v.value) for v in keras.tree.flatten(layer.states)]


@pytest.mark.parametrize("cls", LAYERS)
@pytest.mark.parametrize("unroll", [False, True])
def test_two_halves_with_kept_state_equal_the_whole(cls, unroll):
    stateful = cls(5, stateful=True, return_sequences=True, unroll=unroll)
    halves = np.concatenate([numpy(stateful(X[:, :2])), numpy(stateful(X[:, 2:]))], axis=1)
    whole = cls(5, return_sequences=True)
    whole.build(X.shape)
    whole.set_weights(stateful.get_weights())
    assert_close(halves, whole(X))


def stateful_model(layer, batch=4):
    return keras.Sequential([keras.Input(batch_shape=(batch, 6, 3)), layer])


@pytest.mark.parametrize(
    ("cls", "method"),
    sample([*product(LAYERS, METHODS)], (LSTM, "fit"), (GRU, "evaluate"), (SimpleRNN, "predict")),
)
def test_states_carry_under_fit_evaluate_and_predict(cls, method):
    layer = cls(2, stateful=True)
    model = stateful_model(layer)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")
    x = array(1, 8, 6, 3)
    arguments = {"x": x, "batch_size": 4, "verbose": 0}
    if method != "predict":
        arguments["y"] = array(2, 8, 2)
    if method == "fit":
        arguments["shuffle"] = False
    getattr(model, method)(**arguments)
    fresh = cls(2, return_state=True)
    fresh.build((4, 6, 3))
    fresh.set_weights(layer.get_weights())
    _, *states = fresh(x[:4])
    _, *states = fresh(x[4:], initial_state=states)
    assert_close(kept(layer), states)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_states_carry_under_mixed_precision(policy):
    layer = LSTM(4, stateful=True, dtype=policy)
    layer(X)
    before = kept(layer)
    assert np.abs(before[0]).max() > 0.01
    layer(X)
    reference = LSTM(4, return_state=True, dtype=policy)
    reference.build(X.shape)
    reference.set_weights(layer.get_weights())
    _, *states = reference(X)
    _, *states = reference(X, initial_state=states)
    assert_close(kept(layer), [numpy(s).astype("float32") for s in states], 2e-2)


def test_states_are_variables_but_no_weights():
    layer = LSTM(4, stateful=True)
    assert layer.states is None
    layer(X)
    assert [tuple(v.shape) for v in layer.states] == [(4, 4), (4, 4)]
    assert len(layer.weights) == 3
    assert all(any(v is s for v in layer.non_trainable_variables) for s in layer.states)


@pytest.mark.parametrize("reset", ["reset_state", "reset_states"])
def test_reset_without_values_starts_anew(reset):
    layer = LSTM(4, stateful=True)
    first = numpy(layer(X))
    layer(X)
    getattr(layer, reset)()
    assert_close(layer(X), first)


@pytest.mark.parametrize("reset", ["reset_state", "reset_states"])
def test_reset_with_values_sets_them(reset):
    layer, values = LSTM(5, stateful=True), [array(1, 4, 5), array(2, 4, 5)]
    getattr(layer, reset)(values)  # before it's built
    assert_close(kept(layer), values)
    first = numpy(layer(X))
    layer(X)
    getattr(layer, reset)(states=values)
    assert_close(layer(X), first)
    assert_close(first, lstm_like(layer)(X, initial_state=values))


def test_a_layer_that_is_made_stateful_later_takes_the_rows_of_the_states_that_are_set():
    layer = LSTM(4)
    layer.build((None, 6, 3))
    layer.stateful = True
    layer.reset_state([np.full((2, 4), 0.5, "float32"), np.ones((2, 4), "float32")])
    assert [numpy(state).tolist() for state in layer.states] == [[[0.5] * 4] * 2, [[1.0] * 4] * 2]
    layer = GRU(4)
    layer.build((None, 6, 3))
    layer.stateful = True
    layer.reset_state([np.ones((2, 4), "float32")])
    assert [state.shape for state in layer.states] == [(2, 4)]
    layer = LSTM(4)
    layer.build((None, 6, 3))
    layer.stateful = True
    with pytest.raises(
        ValueError, match=r"LSTM layer .*states\[1\] of shape \(2, 4\), got \(3, 4\)"
    ):
        layer.reset_state([np.ones((2, 4), "float32"), np.ones((3, 4), "float32")])
    assert not layer._rnn_kept_states.flat()


def lstm_like(layer):
    other = LSTM(layer.units)
    other.build(X.shape)
    other.set_weights(layer.get_weights())
    return other


def test_reset_returns_to_a_cells_own_initial_state():
    class Cell(keras.layers.Layer):
        state_size = 2

        def call(self, inputs, states):
            return states[0], [states[0] + 1.0]

        def get_initial_state(self, batch_size=None):
            return keras.ops.full((batch_size, 2), 7.0)

    layer = RNN(Cell(), stateful=True)
    layer(X)
    assert_close(kept(layer), [np.full((4, 2), 13.0)])
    layer.reset_states()
    assert_close(kept(layer), [np.full((4, 2), 7.0)])


def test_gradients_flow_through_a_stateful_layer():
    model = stateful_model(LSTM(3, stateful=True, return_sequences=True))
    model.compile(optimizer="sgd", loss="mse")
    before = numpy(model.layers[0].weights[1].value)
    model.fit(X, array(1, 4, 6, 3), batch_size=4, epochs=2, verbose=0)
    assert np.abs(numpy(model.layers[0].weights[1].value) - before).max() > 1e-5


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only its variables change in place")
@pytest.mark.parametrize("engine", ["scan", None])
def test_a_later_call_changes_nothing_that_an_earlier_ones_gradient_needs(engine):
    with ostinato.use_engine(engine) if engine else contextlib.nullcontext():
        layer, other = (LSTM(3, stateful=stateful) for stateful in (True, False))
        layer(X)
        start = [keras.ops.copy(state) for state in keras.tree.flatten(layer.states)]
        other.build(X.shape)
        other.set_weights(layer.get_weights())
        first = layer(X)
        layer(X)  # from where that ended
        first.sum().backward()
        other(X, initial_state=start).sum().backward()
    for mine, expected in zip(layer.trainable_weights, other.trainable_weights, strict=True):
        assert_close(mine.value.grad, expected.value.grad)


def test_kept_states_start_another_layer():
    first = LSTM(4, stateful=True)
    first(X)
    second = LSTM(4)
    output = second(X, initial_state=first.states)
    assert_close(output, second(X, initial_state=kept(first)))


def test_kept_states_start_a_layer_of_a_functional_model():
    first = LSTM(4, stateful=True)
    first(X)
    inputs = keras.Input(batch_shape=(4, None, 3))
    second = LSTM(4)
    model = keras.Model(inputs, second(inputs, initial_state=first.states))
    assert_close(model(X), second(X, initial_state=kept(first)))


def test_symbolic_states_start_the_decoder():
    inputs = keras.Input((None, 3))
    _, h, c = LSTM(4, return_state=True, name="encoder")(inputs)
    decoder = LSTM(4, return_sequences=True)
    model = keras.Model(inputs, decoder(inputs, initial_state=[h, c]))
    assert model.output.shape == (None, None, 4)
    encoder = model.get_layer("encoder")
    assert_close(model(X), decoder(X, initial_state=list(encoder(X)[1:])))


@pytest.mark.parametrize("mask", [None, np.arange(6) < np.array([[6], [3], [1], [0]])])
def test_bidirectional_keeps_the_states_of_both_directions(mask):
    layer = Bidirectional(LSTM(3, stateful=True, return_state=True, return_sequences=True))
    output, *states = layer(X, mask=mask)
    assert len(states) == 4
    assert len(layer.states) == 4
    assert_close([numpy(v.value) for v in layer.states], states)
    again, *_ = layer(X, mask=mask)
    restarted, *_ = layer.forward_layer(X, mask=mask, initial_state=states[:2]), None
    assert_close(numpy(again)[..., :3], restarted[0])
    layer.reset_state()
    assert_close(layer(X, mask=mask)[0], output)
    layer.reset_states([np.zeros((4, 3), "float32")] * 4)
    assert_close(layer(X, mask=mask)[0], output)


@pytest.mark.parametrize(("forward", "backward"), [(GRU, LSTM), (LSTM, GRU)])
def test_bidirectional_layers_of_unlike_kinds_take_each_their_states(forward, backward):
    layer = Bidirectional(forward(4), backward_layer=backward(4, go_backwards=True))
    states = list(np.random.default_rng(3).normal(size=(3, 4, 4)).astype("float32"))
    count = 2 if forward is LSTM else 1
    expected = layer(X, initial_state=states)
    one = layer.forward_layer(X, initial_state=states[:count])
    other = layer.backward_layer(X, initial_state=states[count:])
    assert_close(expected, np.concatenate([numpy(one), numpy(other)], -1))
    with pytest.raises(ValueError, match=f"states, {count}, and then of .* {3 - count}; got"):
        layer(X, initial_state=states[:1])


def test_bidirectional_stateful_passes_its_mask_on_with_return_state():
    inputs = keras.Input(batch_shape=(4, 6), dtype="int32")
    embedded = keras.layers.Embedding(9, 3, mask_zero=True)(inputs)
    layer = Bidirectional(LSTM(2, stateful=True, return_state=True, return_sequences=True))
    sequence, *_ = layer(embedded)
    after = LSTM(2)
    model = keras.Model(inputs, after(sequence))
    tokens = np.array(
        [[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1], [0, 0, 0, 0, 0, 0], [1, 0, 2, 0, 3, 0]]
    )
    output = numpy(model(tokens))
    layer.reset_state()
    masked = numpy(layer(keras.ops.convert_to_tensor(model.layers[1](tokens)), mask=tokens > 0)[0])
    assert_close(output, after(masked, mask=tokens > 0))


def test_stacked_cells_are_stateful_together():
    layer = RNN([LSTMCell(3), LSTMCell(2)], stateful=True, return_sequences=True)
    halves = np.concatenate([numpy(layer(X[:, :2])), numpy(layer(X[:, 2:]))], axis=1)
    layer.reset_state()
    assert_close(layer(X), halves)


def counting_layer():
    """A layer whose only state counts the timesteps since it was set."""
    weights = {"kernel_initializer": "ones", "recurrent_initializer": "ones", "use_bias": False}
    return SimpleRNN(1, activation="linear", stateful=True, trainable=False, **weights)


class OnceInABatch(keras.callbacks.Callback):
    """Notes a layer's states, then does something to it, at one moment; knows no model."""

    def __init__(self, layer, moment, act):
        super().__init__()
        self.seen = []

        def once(*args, **kwargs):
            self.seen.append([float(value[0, 0]) for value in kept(layer)])
            act(layer)

        setattr(self, moment, once)


def assign_three(layer):
    for variable in keras.tree.flatten(layer.states):
        variable.assign(np.full((1, 1), 3.0, "float32"))


ACTS = {
    "reset": (lambda layer: layer.reset_state(), 0.0),
    "assign": (assign_three, 3.0),
    "set": (lambda layer: layer.reset_states([np.full((1, 1), 7.0)] * len(kept(layer))), 7.0),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("moment", ["train_batch_begin", "train_batch_end", "test_batch_end"])
def test_states_are_read_and_set_amid_training(act, moment):
    layer = counting_layer()
    model = keras.Sequential([keras.Input(batch_shape=(1, 2, 1)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    do, value = ACTS[act]
    callback = OnceInABatch(layer, f"on_{moment}", do)
    x, y = np.ones((3, 2, 1), "float32"), np.zeros((3, 1), "float32")
    options = {"batch_size": 1, "verbose": 0, "callbacks": [callback]}
    if moment.startswith("test"):
        model.evaluate(x, y, **options)
    else:
        model.fit(x, y, shuffle=False, **options)
    # A batch of two timesteps adds two.
    if moment.endswith("begin"):
        assert callback.seen == [[0.0], [value + 2], [value + 2]]
        assert kept(layer)[0] == value + 2
    else:
        assert callback.seen == [[2.0], [value + 2], [value + 2]]
        assert kept(layer)[0] == value


def test_states_of_both_directions_are_set_amid_predict_and_training_goes_on():
    layer = Bidirectional(counting_layer())
    model = keras.Sequential([keras.Input(batch_shape=(1, 2, 1)), layer])
    callback = OnceInABatch(layer, "on_predict_batch_end", ACTS["set"][0])
    model.predict(np.ones((3, 2, 1)), batch_size=1, verbose=0, callbacks=[callback])
    assert callback.seen == [[2.0, 2.0], [9.0, 9.0], [9.0, 9.0]]
    assert_close(kept(layer), [np.full((1, 1), 7.0)] * 2)


def test_values_that_nobody_can_hand_back_are_asked_for_plainly(monkeypatch):
    layer = counting_layer()
    layer(np.ones((1, 2, 1)))
    if keras.config.backend() != "jax":
        return  # nobody takes them
    monkeypatch.setattr(layer.states[0], "_value", None)
    for act in (layer.reset_state, lambda: layer.states):
        with pytest.raises(RuntimeError, match=r"SimpleRNN layer .* trainer holds .*sync"):
            act()


def test_a_cells_initial_state_is_asked_for_once():
    asked = []

    class Cell(LSTMCell):
        def get_initial_state(self, batch_size=None):
            asked.append(batch_size)
            return super().get_initial_state(batch_size)

    RNN(Cell(3), stateful=True).build((4, 6, 3))
    assert asked == [4]


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_files_hold_kept_states_where_the_user_asks(tmp_path, suffix):
    def make():
        cells = RNN([LSTMCell(3), LSTMCell(2)], stateful=True, return_sequences=True)
        both = Bidirectional(GRU(2, stateful=True))
        return keras.Sequential([keras.Input(batch_shape=(4, 6, 3)), cells, both])

    def loaded(path):
        if suffix == ".keras":
            return keras.saving.load_model(path)
        other = make()
        other.load_weights(path)
        return other

    model, path = make(), tmp_path / f"a{suffix}"
    model(X)
    save = model.save if suffix == ".keras" else model.save_weights
    states = [kept(layer) for layer in model.layers]
    save(path)
    assert not any(value.any() for layer in loaded(path).layers for value in kept(layer))
    with ostinato.saving_states():
        save(path)
    other = loaded(path)
    assert_close([kept(layer) for layer in other.layers], states)
    assert_close(other(X), model(X))


def test_kept_states_of_another_batch_size_are_refused(tmp_path):
    model, path = stateful_model(LSTM(3, stateful=True, name="a")), tmp_path / "a.weights.h5"
    model(X)
    with ostinato.saving_states():
        model.save_weights(path)
    stateless = keras.Sequential([keras.Input((6, 3)), LSTM(3)])
    stateless.load_weights(path)
    assert_close(stateless.get_weights(), model.get_weights())
    with pytest.raises(ValueError, match=r"expected states.* of shape \(2, 3\), got \(4, 3\)"):
        stateful_model(LSTM(3, stateful=True), batch=2).load_weights(path)


def test_those_of_a_layer_within_another_too(tmp_path):
    """Keras looks into a layer's properties for layers that it could load: it mustn't find any."""
    model, path = stateful_model(Bidirectional(GRU(3, stateful=True))), tmp_path / "a.weights.h5"
    model(X)
    with ostinato.saving_states():
        model.save_weights(path)
    with pytest.raises(ValueError, match=r"expected states.* of shape \(2, 3\), got \(4, 3\)"):
        stateful_model(Bidirectional(GRU(3, stateful=True)), batch=2).load_weights(path)


def test_states_are_set_as_an_attribute_too():
    layer = GRU(3, stateful=True)
    layer.states = None  # as a subclass's constructor may
    layer(X)
    layer.states = [array(1, 4, 3)]
    assert_close(layer.states, [array(1, 4, 3)])
    refuses(["GRU layer", "states[0]", "(4, 3)"], setattr, layer, "states", [array(1, 2, 3)])


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="TensorFlow's checkpoints")
def test_tensorflows_checkpoints_hold_kept_states(tmp_path):
    import tensorflow as tf

    layers = [RNN([LSTMCell(3), LSTMCell(2)], stateful=True, return_sequences=True)]
    layers.append(Bidirectional(GRU(2, stateful=True)))
    model = keras.Sequential([keras.Input(batch_shape=(4, 6, 3)), *layers])
    model(X)
    states = [kept(layer) for layer in layers]
    path = tf.train.Checkpoint(model=model).save(tmp_path / "a")
    for layer in layers:
        layer.reset_state()
    tf.train.Checkpoint(model=model).restore(path).assert_consumed()
    assert_close([kept(layer) for layer in layers], states)


@on_one_backend
def test_a_layer_that_is_built_again_starts_anew():
    layer = GRU(3, stateful=True)
    x = array(0, 2, 4, 3)
    first = numpy(layer(x))
    layer.build(x.shape)
    assert_close(layer(x), first)
