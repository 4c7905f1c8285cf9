"""accelerate and restore: the same model with the other library's recurrent layers."""

import random
import warnings

import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops, tree
from zoo import ZOO, B, D, T, U, X

import ostinato
from ostinato import accelerate, restore
from ostinato.cli import main
from ostinato.conversion import left_alone

Y = np.full((B, 1), 0.3, "float32")


def close(actual, expected, tolerance=2e-5):
    actual, expected = tree.flatten(actual), tree.flatten(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        a, b = (ops.convert_to_numpy(ops.cast(t, "float32")) for t in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def classes(layer):
    """The classes of all layers and cells, by path."""
    found = {}

    def walk(part, path):
        found[path] = type(part)
        inner = list(keras.Model.layers.fget(part)) if isinstance(part, keras.layers.Layer) else []
        for index, child in enumerate(inner):
            walk(child, f"{path}/{index}:{child.name}")

    walk(layer, layer.name)
    return found


def recurrent_of(package, model):
    return [
        path
        for path, cls in classes(model).items()
        if cls.__module__.partition(".")[0] == package and cls.__name__ in ostinato.layers.__all__
    ]


def trained(make, steps=2, **options):
    model = make()
    x, y = zoo.batches(model)
    y = y if len(y) > 1 else y[0]
    # Adam divides by a gradient's size: with its default epsilon, rounding errors of a gradient
    # that is nothing but rounding errors become whole steps.
    adam = keras.optimizers.Adam(epsilon=1e-3)
    model.compile(**{"optimizer": adam, "loss": "mse", **options})
    model.fit(x, y, epochs=steps, verbose=0, shuffle=False)
    return model, x, y


def assert_same_training(model, other, x, y, steps=2, tolerance=2e-5):
    """Both train on, with the same losses, and end with the same weights and optimizer."""
    histories = [
        m.fit(x, y, epochs=steps, verbose=0, shuffle=False).history for m in (model, other)
    ]
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    close(other.get_weights(), model.get_weights(), tolerance)
    state = [[v.value for v in m.optimizer.variables] for m in (model, other)]
    close(state[1], state[0], 1e-3)


# --- the zoo --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ZOO, ids=lambda make: make.__name__)
def test_outputs_names_and_training_go_on(make):
    model, x, y = trained(make)
    before = [w.copy() for w in model.get_weights()]
    drawn = random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fast = accelerate(model)
    assert random.getstate() == drawn
    assert type(fast) is type(model)
    assert not recurrent_of("keras", fast)
    assert len(recurrent_of("ostinato", fast)) == len(recurrent_of("keras", model)) > 0
    assert [*classes(fast)] == [*classes(model)]
    for weights in ("weights", "trainable_weights", "non_trainable_weights"):
        assert [w.path for w in getattr(fast, weights)] == [w.path for w in getattr(model, weights)]
    assert all(np.array_equal(a, b) for a, b in zip(fast.get_weights(), before, strict=True))
    close(fast.predict(x, verbose=0), model.predict(x, verbose=0))
    assert_same_training(model, fast, x, y)


@pytest.mark.parametrize("make", ZOO, ids=lambda make: make.__name__)
def test_restore_gives_the_very_model_back(make):
    model, x, y = trained(make)
    again = restore(accelerate(model))
    assert classes(again) == classes(model)
    assert all(
        np.array_equal(a, b) for a, b in zip(again.get_weights(), model.get_weights(), strict=True)
    )
    close(again.predict(x, verbose=0), model.predict(x, verbose=0), 0)
    assert_same_training(model, again, x, y, tolerance=1e-6)


@pytest.mark.parametrize("make", ZOO, ids=lambda make: make.__name__)
def test_the_original_stays_as_it_is(make):
    model, x, y = trained(make)
    weights, said = model.get_weights(), model.predict(x, verbose=0)
    accelerate(model).fit(x, y, epochs=2, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True))
    close(model.predict(x, verbose=0), said, 0)


@pytest.mark.parametrize(
    "make", [zoo.sequential, zoo.cells, zoo.shared, zoo.masked], ids=lambda make: make.__name__
)
def test_files(make, tmp_path):
    custom = {"double": zoo.double, "Halved": zoo.Halved}
    model, x, y = trained(make)
    model.save(tmp_path / "theirs.keras")
    with keras.saving.custom_object_scope(custom):
        loaded = keras.saving.load_model(tmp_path / "theirs.keras")
        fast = accelerate(loaded)
        fast.save(tmp_path / "ours.keras")
        again = keras.saving.load_model(tmp_path / "ours.keras")
        clone = keras.models.clone_model(again)
    assert len(recurrent_of("ostinato", again)) == len(recurrent_of("keras", model))
    assert recurrent_of("ostinato", clone) == recurrent_of("ostinato", again)
    close(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert_same_training(loaded, fast, x, y)


# --- what a model may be --------------------------------------------------------------------


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LSTM(U, name="alone"),
        lambda: layers.RNN([layers.GRUCell(U), layers.LSTMCell(2)]),
        lambda: layers.Bidirectional(layers.SimpleRNN(U), merge_mode=None),
        lambda: keras.Sequential([layers.GRU(U, return_sequences=True), layers.LSTM(U)]),
        lambda: zoo.Subclassed(U),
        lambda: zoo.Block(U),
        lambda: zoo.LateBlock(U),
    ],
)
def test_a_layer_or_model_by_itself_built_or_not(make, built):
    model = make()
    if built:
        model(X)
    fast = accelerate(model)
    assert fast.name == model.name
    assert len(fast.weights) == len(model.weights)
    if not built:
        fast(X)
        model(X)
        fast.set_weights(model.get_weights())
    if isinstance(model, zoo.LateBlock) and not built:
        return  # it makes its layers in `build`, where they can't be seen beforehand
    assert not recurrent_of("keras", fast)
    close(fast(X), model(X))
    close(restore(fast)(X), model(X), 1e-6)


def test_a_layer_shared_by_two_models_stays_shared():
    rnn = layers.LSTM(U, name="rnn")
    inner_in, outer_in = keras.Input((T, D)), keras.Input((T, D))
    inner = keras.Model(inner_in, layers.Dense(2)(rnn(inner_in)), name="inner")
    outer = keras.Model(outer_in, [inner(outer_in), rnn(outer_in)])
    fast = accelerate(outer)
    assert fast.get_layer("inner").get_layer("rnn") is fast.get_layer("rnn")
    assert len(fast.weights) == len(outer.weights)
    close(fast(X), outer(X))


def test_inputs_may_be_optional_or_lie_inside_a_graph():
    a, b = keras.Input((T, D), name="a"), keras.Input((T, D), name="b", optional=True)
    hidden = layers.GRU(U, return_sequences=True)(a)
    fast = accelerate(keras.Model([a, b], [layers.LSTM(U)(hidden), layers.Dense(2)(b)]))
    assert fast.get_layer("b").optional
    assert not fast.get_layer("a").optional
    upper = keras.Model(hidden, layers.LSTM(U)(hidden))
    hidden_x = np.repeat(X, 2, axis=-1)[..., :U]
    close(accelerate(upper)(hidden_x), upper(hidden_x))


def test_states_of_stateful_layers_go_along():
    inputs = keras.Input(batch_shape=(B, T, D))
    x = layers.LSTM(U, stateful=True, return_sequences=True)(inputs)
    x = layers.Bidirectional(layers.GRU(U, stateful=True))(x)
    x = layers.RNN(layers.SimpleRNNCell(U), stateful=True)(ops.expand_dims(x, 1))
    model = keras.Model(inputs, x)
    model(X)
    model(X + 1)
    fast = accelerate(model)
    back = restore(fast)
    for _ in range(2):
        expected = model(X)
        close(fast(X), expected)
        close(back(X), expected)
    assert all(layer.states for layer in back.layers if hasattr(layer, "states"))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model, x, y = trained(zoo.masked)
    finally:
        keras.config.set_dtype_policy("float32")
    fast = accelerate(model)
    assert [w.dtype for w in fast.weights] == [w.dtype for w in model.weights]
    for old, new in list(zip(model.layers, fast.layers, strict=True))[1:]:
        assert new.dtype_policy == old.dtype_policy
    assert type(fast.optimizer) is type(model.optimizer)
    tolerance = 2e-5 if policy == "float64" else 2e-2
    close(fast.predict(x, verbose=0), model.predict(x, verbose=0), tolerance)
    histories = [m.fit(x, y, epochs=2, verbose=0).history["loss"] for m in (model, fast)]
    np.testing.assert_allclose(*histories, rtol=tolerance * 5)


def test_loss_scaling_that_was_switched_off_stays_off():
    model = keras.Sequential([keras.Input((T, D)), layers.LSTM(U, dtype="mixed_float16")])
    model.dtype_policy = "mixed_float16"
    model.compile("sgd", "mse", auto_scale_loss=False)
    assert type(accelerate(model).optimizer) is type(model.optimizer)


def test_trainable_flags_of_layers_and_of_single_weights():
    model = zoo.shared()
    model.get_layer("inner").trainable = False
    model.get_layer("inner").get_layer("inner_gru").trainable = True
    model.get_layer("shared").cell.bias.trainable = False
    fast = accelerate(model)
    flags = [[w.trainable for w in m.weights] for m in (model, fast)]
    assert flags[0] == flags[1]
    assert len(fast.trainable_weights) == len(model.trainable_weights)
    assert not fast.get_layer("inner").trainable
    model.trainable = False
    assert not accelerate(model).trainable_weights


def test_functions_that_arent_registered_stay_the_very_same():
    def act(x):
        return ops.tanh(x) * 0.5

    scale = 3.0
    model = keras.Sequential(
        [
            keras.Input((T, D)),
            layers.Lambda(lambda x: ops.abs(x) * scale),
            layers.GRU(U, activation=act, return_sequences=True, kernel_initializer=zeros_like),
            layers.LSTM(U, activation=lambda x: act(x), recurrent_activation=act),
            layers.Dense(2, activation=act),
        ]
    )
    fast = accelerate(model)
    assert fast.layers[1].activation is act
    close(fast(X), model(X))
    close(restore(fast)(X), model(X), 1e-6)


def zeros_like(shape, dtype=None):
    return ops.zeros(shape, dtype)


def test_other_layers_keep_what_they_learned():
    normalization = layers.Normalization()
    normalization.adapt(X * 3 + 1)
    inputs = keras.Input((T, D))
    x = layers.GRU(U, return_sequences=True)(normalization(inputs))
    x = layers.MultiHeadAttention(2, 2)(x, x)
    x = layers.SpectralNormalization(layers.Dense(3))(x)
    model = keras.Model(inputs, layers.LSTM(U)(layers.GaussianNoise(0.1, seed=1)(x)))
    close(accelerate(model)(X), model(X))


def test_constraints_and_regularizers_stay_on_the_weights():
    rnn = layers.LSTM(
        U, kernel_regularizer="l2", recurrent_constraint="non_neg", bias_constraint=None
    )
    model = keras.Sequential([keras.Input((T, D)), rnn])
    fast = accelerate(model)
    assert type(fast.layers[0].cell.kernel.regularizer) is keras.regularizers.L2
    assert type(fast.layers[0].cell.recurrent_kernel.constraint) is keras.constraints.NonNeg
    close(fast.losses, model.losses)


# --- compiled -------------------------------------------------------------------------------


class OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean(ops.abs(y_true - y_pred), axis=-1)


def own_metric(y_true, y_pred):
    return ops.mean(y_pred)


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1.0 + ops.cast(step, "float32"))

    def get_config(self):
        return {}


MOST_STEPS = 1 if keras.config.backend() == "torch" else 2  # Keras on PyTorch refuses more
COMPILED = {
    "schedule": {"optimizer": lambda: keras.optimizers.SGD(OwnSchedule(), momentum=0.9)},
    "clipped": {"optimizer": lambda: keras.optimizers.RMSprop(clipnorm=0.1, weight_decay=0.01)},
    "amsgrad": {"optimizer": lambda: keras.optimizers.Adam(amsgrad=True)},
    "own_loss": {"loss": OwnLoss, "metrics": lambda: [own_metric, "mae"]},
    "function": {"loss": lambda: own_metric, "weighted_metrics": lambda: ["mse"]},
    "eager": {"run_eagerly": lambda: True},
    "steps": {"steps_per_execution": lambda: MOST_STEPS, "jit_compile": lambda: False},
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_it_was_compiled_with(name):
    options = {key: make() for key, make in COMPILED[name].items()}
    model, x, y = trained(zoo.own_layers, **options)
    fast = accelerate(model)
    assert fast.run_eagerly == model.run_eagerly
    assert fast.steps_per_execution == model.steps_per_execution
    assert fast.optimizer.get_config() == model.optimizer.get_config()
    assert_same_training(model, fast, x, y)


def test_losses_and_metrics_by_output():
    model = zoo.shared()
    x, y = zoo.batches(model)
    model.compile(
        "adam",
        loss={"first": "mse", "second": "mae", "third": OwnLoss()},
        loss_weights={"first": 0.5, "second": 2.0, "third": 1.0},
        metrics={"second": [own_metric, keras.metrics.MeanSquaredError(name="error")]},
    )
    model.fit(x, y, epochs=1, verbose=0)
    assert_same_training(model, accelerate(model), x, y)


def test_a_learning_rate_that_was_changed():
    model, *_ = trained(zoo.own_layers)
    model.optimizer.learning_rate = 1e-4
    assert float(accelerate(model).optimizer.learning_rate) == pytest.approx(1e-4)
    assert int(accelerate(model).optimizer.iterations) == 2


def test_an_optimizer_built_for_other_weights_starts_anew_and_says_so():
    model, *_ = trained(zoo.sequential)
    model.layers[-1].trainable = False
    with pytest.warns(UserWarning, match="starts? anew"):
        accelerate(model)


def test_a_compile_of_ones_own_is_left_to_its_owner():
    class Compiled(keras.Sequential):
        def compile(self, extra, **options):
            super().compile(**options)
            self.extra = extra

    model = Compiled([keras.Input((T, D)), layers.LSTM(U)])
    model.compile(3, optimizer="adam", loss="mse")
    with pytest.warns(UserWarning, match="`compile` of its own"):
        fast = accelerate(model)
    assert type(fast) is Compiled
    assert not fast.compiled
    assert fast.extra == 3


def test_a_train_step_of_ones_own():
    class Counting(keras.Model):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = layers.LSTM(U), layers.Dense(1)
            self.seen = keras.metrics.Mean(name="seen")
            self.noise = keras.random.SeedGenerator(3)
            self.helper = self.plus_one

        def plus_one(self, x):
            return x + 1.0 + 0 * keras.random.normal((1,), seed=self.noise)

        def call(self, x):
            return self.helper(self.head(self.rnn(x)))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            self.seen.update_state(loss)
            return loss

    model = Counting()
    model.compile("adam", "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    fast = accelerate(model)
    assert fast.helper.__self__ is fast
    assert fast.noise is not model.noise
    assert_same_training(model, fast, X, Y)


def test_a_mask_beside_initial_states_is_pointed_out():
    tokens, states = keras.Input((None,), dtype="int32"), keras.Input((U,))
    x = layers.Embedding(6, D, mask_zero=True)(tokens)
    model = keras.Model([tokens, states], layers.GRU(U, name="decoder")(x, initial_state=states))
    with pytest.warns(UserWarning, match="(?s)'decoder'.*Keras 3 drops it"):
        fast = accelerate(model)
    full, some = np.array([[1, 2, 3]]), np.array([[1, 2, 0]])
    start = np.ones((1, U), "float32")
    close(fast([full, start]), model([full, start]))
    close(fast([some, start]), fast([some[:, :2], start]))
    with pytest.warns(UserWarning, match="'decoder'"):
        restore(fast)


# --- left alone -----------------------------------------------------------------------------


class MyLSTM(layers.LSTM):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return 2.0 * super().call(sequences, initial_state, mask, training)


class OurLSTM(ostinato.layers.LSTM):
    pass


def video():
    inputs = keras.Input((T, 6, 6, 1))
    x = layers.ConvLSTM2D(2, 3, name="video")(inputs)
    x = layers.Reshape((4, 8))(x)
    x = MyLSTM(U, return_sequences=True, name="mine")(x)
    return keras.Model(inputs, layers.GRU(U, name="gru")(x), name="video_model")


def test_what_is_left_alone_is_listed_with_the_reason():
    model = video()
    left = {one.path: one for one in left_alone(model)}
    assert [*left] == ["video", "mine"]
    assert left["video"].layer is model.get_layer("video")
    assert left["video"].reason == "Ostinato has no ConvLSTM2D"
    assert "derive it from ostinato.layers.LSTM" in left["mine"].reason
    with pytest.warns(UserWarning, match="(?s)accelerate: left alone:.*ConvLSTM2D.*MyLSTM"):
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
    with pytest.raises(ValueError, match="expected `by`"):
        left_alone(layers.LSTM(2), by=print)


def test_the_command_shows_what_a_file_would_become(tmp_path, capsys):
    zoo.own_layers().save(tmp_path / "model.keras")
    assert main(["explain", str(tmp_path / "model.keras")]) == 0
    before, after = capsys.readouterr().out.split("After `ostinato.accelerate(model)`:")
    assert "keras" in before
    assert not any(line.split()[2] == "keras" for line in after.splitlines()[4:])
    accelerate(zoo.own_layers()).save(tmp_path / "model.keras")
    assert main(["explain", str(tmp_path / "model.keras")]) == 0
    assert "After" not in capsys.readouterr().out
