"""Calls without Keras's `Layer.__call__`: that they're as with it, and which they are."""

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers
from support import array

if keras.config.backend() != "torch":
    pytest.skip("only PyTorch's calls are direct", allow_module_level=True)

import torch

B, T, D, U = 3, 5, 2, 4
KINDS = (layers.SimpleRNN, layers.GRU, layers.LSTM)


def made(kind=layers.LSTM, **arguments):
    """A layer, built, with a sequence."""
    layer = kind(U, **arguments)
    layer.build((B, T, D))
    return layer, torch.tensor(array(0, B, T, D))


def mask():
    return torch.tensor(np.arange(T) < np.array([[5], [0], [3]]))


def states_of(layer):
    count = len(layer.get_initial_state(1))
    return [torch.tensor(array(seed, B, U)) for seed in range(count)]


def by_keras(call):
    """What a call gives with all of Keras's `__call__`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ostinato.layers.rnn.is_direct", lambda *_: False)
        return call()


@pytest.fixture
def through_keras(monkeypatch):
    """The names of the layers whose `Layer.__call__` runs, call after call."""
    names, original = [], keras.layers.Layer.__call__

    def noted(layer, *args, **kwargs):
        names.append(layer.name)
        return original(layer, *args, **kwargs)

    monkeypatch.setattr(keras.layers.Layer, "__call__", noted)
    return names


def assert_same(direct, whole):
    """Equal tensors with equal masks, in equal containers."""
    assert type(direct) is type(whole)
    pairs = (
        zip(direct, whole, strict=True) if isinstance(whole, (tuple, list)) else [(direct, whole)]
    )
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
        masks = [getattr(result, "_keras_mask", None) for result in (one, other)]
        assert (masks[0] is None) == (masks[1] is None)
        assert masks[0] is None or torch.equal(*masks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True},
        {"return_sequences": True, "return_state": True, "go_backwards": True},
        {"return_state": True, "zero_output_for_mask": True},
        {"stateful": True},
    ],
)
@pytest.mark.parametrize("grad", [True, False])
def test_results_and_masks_are_those_of_keras(kind, options, grad, through_keras):
    layer, x = made(kind, **options)
    masked, states = torch.tensor(array(0, B, T, D)), states_of(layer)
    masked._keras_mask = mask()
    calls = [
        lambda: layer(x),
        lambda: layer(x, training=None, mask=mask()),
        lambda: layer(masked),
        lambda: layer(masked, initial_state=states),
        lambda: layer(masked, mask=~mask(), initial_state=tuple(states)),
    ]
    with torch.set_grad_enabled(grad):
        for call in calls:
            through_keras.clear()
            direct = call()
            assert layer.name not in through_keras
            if layer.stateful:
                layer.reset_state()
            whole = by_keras(call)
            assert layer.name in through_keras
            if layer.stateful:
                layer.reset_state()
            assert_same(direct, whole)


def test_masks_go_from_layer_to_layer(through_keras):
    embedding = keras.layers.Embedding(5, D, mask_zero=True)
    first, second = layers.LSTM(U, return_sequences=True), layers.GRU(U)
    tokens = torch.tensor([[1, 2, 0, 0, 0], [0, 0, 0, 0, 0], [4, 3, 2, 1, 0]])

    def call():
        return second(first(embedding(tokens)))

    call()
    through_keras.clear()
    direct = call()
    assert through_keras == [embedding.name]
    assert_same(direct, by_keras(call))


class Doubled(layers.LSTM):
    def call(self, sequences, training=False, mask=None):
        return super().call(sequences, mask=mask) * (2 if training else 1)


class Marked(layers.LSTM):
    def compute_mask(self, sequences, mask=None):
        return sequences[..., 0] > 0


class Within(keras.layers.Layer):
    """Tells a layer within that it's training, or not, without an argument."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, x, training=False):
        return self.layer(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: made(Doubled)[0],
        lambda: made(Marked, return_sequences=True)[0],
        lambda: made(dropout=0.5, seed=1)[0],
        lambda: made(recurrent_dropout=0.5, seed=1)[0],
        lambda: made(activity_regularizer="l2")[0],
        lambda: made(dtype="mixed_bfloat16")[0],
        lambda: made(dtype="float64")[0],
        lambda: layers.RNN(layers.LSTMCell(U, dropout=0.5, seed=1)),
        lambda: layers.RNN([layers.LSTMCell(U), layers.LSTMCell(U)]),
        lambda: layers.LSTM(U),  # to be built
    ],
)
def test_what_keras_has_a_part_in_goes_through_keras(make, through_keras):
    layer, x = make(), torch.tensor(array(0, B, T, D))
    got = Within(layer)(x, training=True)
    assert layer.name in through_keras
    assert got.dtype == getattr(torch, layer.compute_dtype)


def test_what_is_told_by_an_outer_layer_arrives():
    twice = made(Doubled)
    assert_same(Within(twice[0])(twice[1], training=True), 2 * Within(twice[0])(twice[1]))
    layer, x = made(dropout=0.5, seed=1)
    assert not torch.equal(Within(layer)(x, training=True), Within(layer)(x, training=False))
    layer, x = made(activity_regularizer="l2")
    layer(x)
    assert len(layer.losses) == 1


def test_a_function_of_one_layer_s_own_is_called_by_keras():
    layer, x = made(return_sequences=True)
    layer(x)
    layer.compute_mask = lambda *_: mask()
    assert torch.equal(layer(x)._keras_mask, mask())
    layer.call = lambda sequences, training=False, mask=None: sequences + int(training)
    assert torch.equal(Within(layer)(x, training=True), x + 1)


def test_variables_are_read_in_the_dtype_of_the_layer():
    """An outer layer in bfloat16 has all within read its variables so, unless told not to."""
    layer, x = made()
    outer = Within(layer, dtype="mixed_bfloat16", autocast=False)

    class Casting(Within):
        def call(self, x, training=False):
            return self.layer(x.float())

    assert_same(Casting(layer, dtype="mixed_bfloat16")(x.bfloat16()), layer(x.bfloat16().float()))
    assert outer(x).dtype == torch.float32


def test_weights_in_int8_refuse_to_be_trained_within_a_model():
    inputs = keras.Input((T, D))
    quantized = ostinato.quantize(keras.Model(inputs, layers.LSTM(U, name="lstm")(inputs)))
    layer, x = quantized.get_layer("lstm"), torch.tensor(array(0, B, T, D))
    with pytest.raises(ValueError, match="int8"):
        Within(layer)(x, training=True)


def test_hooks_of_pytorch_are_called():
    layer, x = made()
    seen = []
    with layer.register_forward_hook(lambda module, args, output: seen.append(output.shape)):
        layer(x)
    assert seen == [(B, U)]


@pytest.mark.parametrize(
    ("given", "keywords"),
    [
        (lambda x: x[:, 0], {}),
        (lambda x: x[..., :1], {}),
        (lambda x: x, {"initial_state": [torch.zeros(B, U)]}),
        (lambda x: x, {"initial_state": [torch.zeros(2, U)] * 2}),
        (lambda x: x, {"mask": torch.ones(B, T + 1, dtype=torch.bool)}),
        (lambda x: x.to_sparse(), {}),
        (lambda x: [x], {}),
        (lambda x: x, {"maks": None}),
    ],
)
def test_refusals_are_the_same(given, keywords):
    layer, x = made()
    layer(x)
    messages = []
    for call in (lambda f: f(), by_keras):
        with pytest.raises((ValueError, TypeError)) as refused:
            call(lambda: layer(given(x), **keywords))
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


def test_a_rule_of_the_user_s_for_inputs_is_checked():
    layer, x = made()
    layer(x)
    layer.input_spec = keras.layers.InputSpec(shape=(B, T + 1, D))
    with pytest.raises(ValueError, match="incompatible"):
        layer(x)


def test_transformations_of_pytorch_see_the_same():
    layer, x = made()

    def loss(x):
        return layer(x).square().sum()

    for call in (torch.func.grad(loss), torch.func.vmap(lambda x: layer(x[None])[0])):
        assert torch.allclose(call(x), by_keras(lambda call=call: call(x)), atol=1e-6)


class After(Within):
    """Calls something after the layer within, and gives it no `training`."""

    def __init__(self, layer, after, **kwargs):
        super().__init__(layer, **kwargs)
        self.after = after

    def call(self, x, training=False, within=None):
        keywords = {} if within is None else {"training": within}
        return self.after(self.layer(x, **keywords))


@pytest.mark.parametrize(("training", "within"), [(None, True), (True, False), (True, None)])
def test_layers_after_it_are_told_what_keras_tells_them(training, within):
    layer, x = made()

    def call():
        dropout = keras.layers.Dropout(0.5, seed=1)
        return After(layer, dropout)(x, training=training, within=within)

    assert_same(call(), by_keras(call))


@pytest.mark.parametrize("training", [True, False])
def test_layers_in_functions_of_the_user_s_are_told_what_keras_tells_them(training):
    def results():
        dropout = keras.layers.Dropout(0.5, seed=1)
        one, x = made(activation=lambda z: dropout(keras.ops.tanh(z)))
        other, _ = made(kernel_initializer="ones")
        other.register_forward_hook(lambda module, args, output: dropout(output))
        keras.utils.set_random_seed(0)
        for layer in (one, other):
            layer.set_weights([array(i, *w.shape) for i, w in enumerate(layer.get_weights())])
        return [layer(x, training=training) for layer in (one, other)]

    assert_same(results(), by_keras(results))


def test_losses_are_those_of_the_last_call():
    layer, x = made()
    layer.register_forward_hook(lambda module, args, output: module.add_loss(output.sum()))
    layer(x)
    layer(x)
    assert len(layer.losses) == 1


@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("keywords", [{}, {"training": True}, {"mask": mask()}])
def test_hooks_are_given_the_keywords_that_keras_gives(keywords, with_states):
    layer, x = made()
    states = {"initial_state": states_of(layer)} if with_states else {}
    seen = []

    def note(module, args, given):
        seen.append({name: type(value) for name, value in given.items()})

    layer.register_forward_pre_hook(note, with_kwargs=True)
    layer(x, **keywords, **states)
    by_keras(lambda: layer(x, **keywords, **states))
    assert seen[0] == seen[1]


def test_masks_that_hooks_or_layers_decide_on_stay():
    layer, x = made(return_sequences=True)
    x._keras_mask = mask()

    def marked(module, args, output):
        output._keras_mask = ~mask()

    with layer.register_forward_hook(marked):
        assert torch.equal(layer(x)._keras_mask, ~mask())
    with layer.register_forward_hook(lambda module, args, output: {"output": output}):
        assert torch.equal(layer(x)["output"]._keras_mask, mask())
    layer.supports_masking = False
    with pytest.warns(UserWarning, match="does not support masking"):
        assert getattr(layer(x), "_keras_mask", None) is None


def test_how_keras_passes_masks_on_is_found_out_unseen():
    """No name of the user's layers is taken for it, and no policy of theirs keeps it from it."""
    from ostinato.layers import direct_call

    layer, x = made(return_sequences=True)
    direct_call._a_given_mask_goes_on.cache_clear()
    keras.backend.clear_session()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("int8_from_float32")
    try:
        layer(x, mask=mask())
    finally:
        keras.config.set_dtype_policy(policy)
    assert keras.layers.Softmax().name == "softmax"


def test_a_layer_as_an_activation_goes_through_keras(through_keras):
    layer, x = made(activation=keras.layers.PReLU())
    layer(x)
    assert layer.name in through_keras


def test_training_that_is_no_bool_is_read_by_keras():
    layer, x = made()
    with pytest.raises(RuntimeError, match="Boolean value of Tensor"):
        layer(x, training=np.array([True, False]))
