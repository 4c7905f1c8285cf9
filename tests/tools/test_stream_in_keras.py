"""Streams that Keras runs: the weights they have, and what they take and refuse."""

import threading

import keras
import numpy as np
import pytest
from keras import layers, ops

import ostinato
from ostinato.layers import RNN
from support import sample
from tools.stream_zoo import OfAllRows, give_weights, lstm, of_all_rows, read, stack
from tools.streamed import VOCABULARY, N, T, data_for, floats, run_whole

CLOSE = {"rtol": 1e-6, "atol": 1e-6}


def wave(x):
    """An activation that no program can be made of."""
    return ops.sin(2 * x) + 0 * ops.sum(x, axis=0)


@keras.saving.register_keras_serializable(package="tests")
class Begins(OfAllRows):
    """A cell that begins with a state that is trained."""

    def build(self, shape):
        super().build(shape)
        self.first = self.add_weight(shape=(self.units,), name="first")

    def get_initial_state(self, batch_size=None, dtype=None):
        return [ops.repeat(self.first[None], batch_size, axis=0)]


MODELS = {
    "an activation": lambda: stack(lstm(4, activation=of_all_rows), layers.Dense(2)),
    "a cell": lambda: stack(layers.BatchNormalization(), RNN(OfAllRows(4), return_sequences=True)),
    "an initial state": lambda: stack(RNN(Begins(4), return_sequences=True)),
    "a mask": lambda: stack(layers.Masking(), lstm(3), RNN([Begins(3), OfAllRows(4)])),
    "ids": lambda: read(layers.Embedding(VOCABULARY, 4), lstm(3, activation=of_all_rows)),
}


@pytest.fixture(params=MODELS)
def model(request):
    """A model that Keras runs."""
    return MODELS[request.param]()


class TestWeights:
    def test_are_those_of_the_opening_until_refresh(self, model):
        data, stream = data_for(model), ostinato.stream(model, streams=N)
        again = ostinato.stream(model, streams=N)
        before = stream.run(data)
        give_weights(model, seed=8)
        for each in (stream, again):  # one that has run, and one that begins now
            each.reset()
            np.testing.assert_array_equal(each.run(data), before)
            each.refresh()
            each.reset()
            after = each.run(data)
            whole = run_whole(model, data)
            np.testing.assert_allclose(after if whole.ndim == 3 else after[:, -1], whole, **CLOSE)
        assert np.abs(after - before).max() > 1e-3

    def test_what_a_layer_computed_of_data(self):
        normal = layers.Normalization()
        normal.adapt(2.0 + floats(20, 5, 3))
        model = stack(normal, lstm(4, activation=of_all_rows))
        data, stream = data_for(model), ostinato.stream(model, streams=N)
        stream.run(data)
        normal.adapt(5.0 + 3.0 * floats(20, 5, 3))
        stream.refresh()
        stream.reset()
        whole = ops.convert_to_numpy(model(data))
        np.testing.assert_allclose(stream.run(data), whole, **CLOSE)

    def test_of_layers_that_were_changed(self):
        model = stack(lstm(4, activation=of_all_rows))
        data, stream = data_for(model), ostinato.stream(model, streams=N)
        stream.run(data)
        for activation in (wave, keras.activations.relu):
            model.layers[0].cell.activation = activation
            stream.refresh()
            stream.reset()
            whole = ops.convert_to_numpy(model(data))
            np.testing.assert_allclose(stream.run(data), whole, **CLOSE)

    @pytest.mark.parametrize("change", [lambda m: m.pop(), lambda m: m.add(layers.Dense(2))])
    def test_of_another_structure(self, change):
        model = stack(lstm(4, activation=of_all_rows), layers.Dense(3))
        stream, data = ostinato.stream(model), data_for(model)[0]
        change(model)
        with pytest.raises(ValueError, match="refresh: the model's layers have changed"):
            stream.refresh()
        assert stream.run(data).shape == (T, 3)

    @pytest.mark.parametrize("model", sample(MODELS, "a cell", "a mask"), indirect=True)
    def test_while_the_model_trains(self, model):
        data, outcomes = data_for(model), []
        stream = ostinato.stream(model)
        expected = stream.run(data[0])

        def at_batch(*_, **__):
            stream.reset()
            np.testing.assert_array_equal(stream.run(data[0]), expected)
            for act in (stream.refresh, lambda: ostinato.stream(model)):
                try:
                    act()
                except RuntimeError as error:
                    outcomes.append(str(error))

        class Callbacks(keras.callbacks.Callback):
            on_train_batch_end = at_batch

            def on_epoch_end(self, *_, **__):
                stream.refresh()

        model.compile("sgd", "mse")
        target = np.zeros_like(run_whole(model, data))
        model.fit(data, target, batch_size=N, verbose=0, callbacks=[Callbacks()])
        stream.reset()
        whole = run_whole(model, data)[0]
        after = stream.run(data[0])
        np.testing.assert_allclose(after if whole.ndim == 2 else after[-1], whole, **CLOSE)
        on_jax = keras.config.backend() == "jax"  # which alone takes the weights away
        assert ["on_epoch_end" in text for text in outcomes] == [True, True] * on_jax


@pytest.mark.skipif(keras.config.backend() == "jax", reason="JAX is without float64 here")
def test_double_precision():
    model = stack(lstm(4, activation=of_all_rows, dtype="float64"), dtype="float64")
    data = data_for(model).astype("float64") / 3
    got = ostinato.stream(model, streams=N).run(data)
    whole = ops.convert_to_numpy(model(data))
    np.testing.assert_allclose(got, whole, rtol=1e-14, atol=1e-14)


class Column:
    """An array of another library, such as pandas."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


class TestArrays:
    X = np.array([0.0, 1.0, 2.0], "float32")

    @pytest.fixture(scope="class")
    @staticmethod
    def stream():
        """A stream of 3 features."""
        return ostinato.stream(stack(lstm(4, activation=of_all_rows)))

    @pytest.mark.parametrize(
        "convert",
        [
            lambda x: x.astype(">f4"),
            lambda x: x.astype("float64"),
            lambda x: x.astype("float16"),
            lambda x: x.astype("int64"),
            lambda x: np.repeat(x, 2)[::2],
            lambda x: x[::-1].copy()[::-1],
            lambda x: np.ma.masked_array(x),
            ops.convert_to_tensor,
            keras.Variable,
            Column,
        ],
    )
    def test_of_all_kinds(self, stream, convert):
        stream.reset()
        expected = stream.step(self.X)
        stream.reset()
        np.testing.assert_array_equal(stream.step(convert(self.X)), expected)

    @pytest.mark.parametrize("dtype", ["complex64", "U3", "S3", "object", "datetime64[s]"])
    def test_that_are_none(self, stream, dtype):
        with pytest.raises(ValueError, match=r"of shape \(3,\) and float32, got \(3,\) of"):
            stream.step(np.zeros(3, dtype))


def test_what_comes_while_it_runs_is_refused():
    entered, go, waits = threading.Event(), threading.Event(), []

    def waiting(x):
        if waits:
            entered.set()
            assert go.wait(60)
        return of_all_rows(x)

    stream = ostinato.stream(stack(lstm(4, activation=waiting, name="a")))
    state = stream.state
    waits.append(True)
    thread = threading.Thread(target=lambda: stream.step(np.ones(3, "float32")))
    thread.start()
    try:
        assert entered.wait(60)
        for act in (
            stream.reset,
            stream.refresh,
            lambda: stream.state,
            lambda: setattr(stream, "state", state),
            lambda: stream.step(np.ones(3, "float32")),
        ):
            with pytest.raises(RuntimeError, match="in use in another thread"):
                act()
    finally:
        go.set()
        thread.join()
    assert np.abs(stream.state["a"][0]).max() > 1e-4
