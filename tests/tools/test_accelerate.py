"""accelerate and restore: the same model with the other library's recurrent layers."""

import random
import warnings

import keras
import numpy as np
import pytest
import zoo
from converted import assert_same_training, assert_trained_alike, close, train_on, trained
from keras import layers, ops
from zoo import ZOO, B, D, T, U, X

import ostinato
from ostinato import accelerate, restore
from ostinato.cli import main
from support import in_turn, on_one_backend, sample

POLICIES = ["mixed_float16", "mixed_bfloat16", "float64"]


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


# --- the zoo --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", sample(ZOO, zoo.subclassed), ids=lambda make: make.__name__)
def test_there_and_back_with_the_training_going_on(make):
    """One test, since most of its time goes into tracing the steps of three models."""
    model, x, y = trained(make)
    before, said = [w.copy() for w in model.get_weights()], model.predict(x, verbose=0)
    drawn = random.getstate()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fast = accelerate(model)
    assert random.getstate() == drawn
    again = restore(accelerate(model))

    assert type(fast) is type(model)
    assert not recurrent_of("keras", fast)
    assert len(recurrent_of("ostinato", fast)) == len(recurrent_of("keras", model)) > 0
    assert [*classes(fast)] == [*classes(model)]
    assert classes(again) == classes(model)
    for weights in ("weights", "trainable_weights", "non_trainable_weights"):
        assert [w.path for w in getattr(fast, weights)] == [w.path for w in getattr(model, weights)]
    for other in (fast, again):
        assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), before, strict=True))
    close(fast.predict(x, verbose=0), said)
    close(again.predict(x, verbose=0), said, 0)

    histories = [train_on(other, x, y) for other in (fast, again)]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    close(model.predict(x, verbose=0), said, 0)  # the original is as it was
    expected = train_on(model, x, y)
    assert_trained_alike(model, fast, expected, histories[0])
    assert_trained_alike(model, again, expected, histories[1], tolerance=1e-6)


@pytest.mark.parametrize(
    "make",
    sample([zoo.sequential, zoo.cells, zoo.shared, zoo.masked], zoo.cells),
    ids=lambda make: make.__name__,
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


BY_THEMSELVES = [
    lambda: layers.LSTM(U, name="alone"),
    lambda: layers.RNN([layers.GRUCell(U), layers.LSTMCell(2)]),
    lambda: layers.Bidirectional(layers.SimpleRNN(U), merge_mode=None),
    lambda: keras.Sequential([layers.GRU(U, return_sequences=True), layers.LSTM(U)]),
    lambda: zoo.Subclassed(U),
    lambda: zoo.Block(U),
    lambda: zoo.LateBlock(U),
]


@pytest.mark.parametrize(("make", "built"), in_turn(BY_THEMSELVES, [False, True]))
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


@on_one_backend
def test_a_stateful_layer_that_is_ours_already_has_states_of_its_own_in_the_copy():
    ours = ostinato.layers.LSTM(U, stateful=True, return_sequences=True)
    model = keras.Sequential([keras.Input(batch_shape=(B, T, D)), ours, layers.GRU(U)])
    model(X)
    fast = accelerate(model)
    close(model(X), fast(X))
    assert fast.layers[0].states[0] is not ours.states[0]


@pytest.mark.parametrize("policy", sample(POLICIES, "mixed_bfloat16"))
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


def test_a_mask_that_is_turned_is_pointed_out():
    back = layers.GRU(U, go_backwards=True, return_sequences=True, name="back")
    masked = keras.Sequential([keras.Input((T, D)), layers.Masking(), back, layers.GRU(U)])
    for convert, model in ((accelerate, masked), (restore, accelerated_quietly(masked))):
        with pytest.warns(UserWarning, match=f"{convert.__name__}: run backwards.*: 'back'"):
            convert(model)


def accelerated_quietly(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return accelerate(model)


def test_the_command_shows_what_a_file_would_become(tmp_path, capsys):
    zoo.own_layers().save(tmp_path / "model.keras")
    assert main(["explain", str(tmp_path / "model.keras")]) == 0
    before, after = capsys.readouterr().out.split("After `ostinato.accelerate(model)`:")
    assert "keras" in before
    assert not any(line.split()[2] == "keras" for line in after.splitlines()[4:])
    accelerate(zoo.own_layers()).save(tmp_path / "model.keras")
    assert main(["explain", str(tmp_path / "model.keras")]) == 0
    assert "After" not in capsys.readouterr().out
