"""TimeDistributed against Keras's, and what Keras's gets wrong or can't."""

import keras
import numpy as np
import pytest
from keras import layers as k
from keras import ops

from layers.refusals import refuses
from ostinato.layers import GRU, LSTM, RNN, Bidirectional, TimeDistributed
from ostinato.layers.folding import Fold, OverTime, Unfold
from support import IS_OLDEST_KERAS, array, assert_close, numpy, on_one_backend, one_in

X = array(0, 3, 4, 5, 2)
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]], bool)
WORDS = np.random.default_rng(1).random((3, 4, 5)) < 0.7
WORDS[~MASK] = False
SIZES = [(4, 5, 2), (None, 5, 2), (None, None, 2)]


@keras.saving.register_keras_serializable(package="tests")
class Unbuilt(keras.layers.Layer):
    """Has no build, and takes and gives nests."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = k.Dense(3)

    def call(self, inputs, training):
        a, b = inputs["a"], inputs["b"]
        return {"sum": self.dense(a) + self.dense(b), "training": ops.ones_like(a) * training}


INNER = {
    "dense": lambda: k.Dense(3, activation="tanh"),
    "conv": lambda: k.Conv1D(3, 2),
    "flat": k.Flatten,
    "model": lambda: keras.Sequential([k.Conv1D(2, 2), k.GlobalMaxPooling1D()]),
    "ours": lambda: LSTM(3, return_sequences=True),
    "both ways": lambda: Bidirectional(GRU(3)),
    "Keras's": lambda: k.GRU(3),
    "batch norm": k.BatchNormalization,
    "stateful": lambda: LSTM(3, stateful=True),
}


def pair(kind, shape):
    """Keras's and ours, of the same weights."""
    made = []
    for wrapper in (keras.layers.TimeDistributed, TimeDistributed):
        keras.backend.clear_session()  # so that both have the same names
        made.append(wrapper(INNER[kind]()))
        made[-1].build(shape)
    made[1].set_weights(made[0].get_weights())
    return made


@pytest.mark.parametrize("kind", INNER)
def test_results_are_those_of_keras_in_every_size(kind):
    theirs, ours = pair(kind, X.shape)
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    training = kind == "batch norm"  # whose moving averages go from timestep to timestep
    for _ in range(2):
        expected = numpy(theirs(X, training=training))
        assert_close(ours(X, training=training), expected)
    assert_close(ours.get_weights(), theirs.get_weights())
    sizes = [(3, 4, 5, 2)] if kind == "stateful" else [(None, *size) for size in SIZES]
    for size in sizes[: 2 if kind == "flat" else 3]:
        inputs = keras.Input(batch_shape=size)
        outputs = ours(inputs)
        found = keras.Model(inputs, outputs).predict(X, verbose=0)
        spec = [tuple(y.shape) for y in keras.tree.flatten(outputs)]
        known = [tuple(y.shape) for y in keras.tree.flatten(found)]
        for one, other in zip(spec, known, strict=True):
            assert all(a in (None, b) for a, b in zip(one, other, strict=True))
        if kind != "stateful":
            assert_close(found, ours(X))
    config = theirs.get_config()
    again = TimeDistributed.from_config(config)
    assert again.get_config().keys() == config.keys()


@pytest.mark.parametrize("kind", ["both ways", "batch norm"])
def test_it_trains_in_every_size(kind):
    results = []
    theirs, ours = pair(kind, X.shape)
    start = ours.get_weights()
    # Keras's has to know them.
    for layer, size in [(theirs, SIZES[0]), *((ours, size) for size in SIZES)]:
        layer.set_weights(start)
        inputs = keras.Input(size)
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(X, np.ones_like(numpy(layer(X))), epochs=3, batch_size=3, verbose=0)
        results.append(model.get_weights())
    for result in results[1:]:
        assert_close(result, results[0], 1e-4)


def test_one_call_for_all_timesteps_without_a_word_of_the_sizes():
    calls = []

    class Counts(keras.layers.Layer):
        def call(self, x):
            calls.append(tuple(x.shape))
            return 2.0 * x

    layer = TimeDistributed(Counts())
    layer.build(X.shape)
    calls.clear()
    assert_close(layer(X), 2 * X)
    assert calls == [(12, 5, 2)]
    assert tuple(layer(X[:, :0]).shape) == (3, 0, 5, 2)
    assert tuple(layer(np.arange(6.0).reshape(3, 2)).shape) == (3, 2)


def test_nests_training_and_layers_without_a_build():
    layer = TimeDistributed(Unbuilt())
    nest = {"a": X, "b": array(1, 3, 4, 5, 2)}
    for training in (True, False):
        found = numpy(layer(nest, training=training))
        kernel, bias = map(numpy, layer.layer.dense.weights)
        assert_close(found["sum"], (nest["a"] + nest["b"]) @ kernel + 2 * bias)
        assert (found["training"] == training).all()
    inputs = {name: keras.Input((None, 5, 2), name=name) for name in "ab"}
    model = keras.Model(inputs, TimeDistributed(Unbuilt())(inputs))
    assert {name: tuple(y.shape) for name, y in model.output.items()} == {
        "sum": (None, None, 5, 3),
        "training": (None, None, 5, 2),
    }
    model.set_weights(layer.get_weights())
    assert_close(model.predict(nest, verbose=0), found)


def test_several_outputs():
    inner = LSTM(3, return_sequences=True, return_state=True)
    layer = TimeDistributed(inner)
    each = [numpy(inner(X[:, t], mask=WORDS[:, t])) for t in range(4)]
    expected = [np.stack(steps, 1) for steps in zip(*each, strict=True)]
    assert_close(list(layer(X, mask=WORDS)), expected)
    masks = layer.compute_mask(X, WORDS)
    assert masks[0] is WORDS
    np.testing.assert_array_equal(numpy(masks[1]), WORDS.any(-1))
    shapes = layer.compute_output_shape((None, None, 5, 2))
    assert shapes == ((None, None, 5, 3), (None, None, 3), (None, None, 3))


def test_a_mask_goes_to_the_layer_and_on():
    """Of words, and of whole timesteps; the mask that goes on is the layer's own."""
    inner = GRU(3)
    layer = TimeDistributed(inner)
    expected = np.stack([numpy(inner(X[:, t], mask=WORDS[:, t])) for t in range(4)], 1)
    assert_close(layer(X, mask=WORDS), expected)
    np.testing.assert_array_equal(numpy(layer.compute_mask(X, WORDS)), WORDS.any(-1))
    whole = numpy(layer(X, mask=MASK))
    assert not whole[~MASK].any()
    assert_close(whole[MASK], numpy(layer(X))[MASK])
    np.testing.assert_array_equal(numpy(layer.compute_mask(X, MASK)), MASK)
    sequences = TimeDistributed(GRU(3, return_sequences=True, go_backwards=True))
    np.testing.assert_array_equal(numpy(sequences.compute_mask(X, WORDS)), WORDS[..., ::-1])
    upright = TimeDistributed(GRU(3, return_sequences=True))
    assert upright.compute_mask(X, WORDS) is WORDS
    assert layer.compute_mask(X, None) is None
    conv = TimeDistributed(k.Conv1D(2, 2))  # which has no use for a mask
    assert_close(conv(X, mask=WORDS), conv(X))
    np.testing.assert_array_equal(numpy(conv.compute_mask(X, WORDS)), WORDS.any(-1))
    ids = np.array([[[1, 2, 0]], [[0, 0, 0]]])
    made = TimeDistributed(k.Embedding(4, 2, mask_zero=True)).compute_mask(ids)
    np.testing.assert_array_equal(numpy(made), ids > 0)
    nested = TimeDistributed(k.Concatenate()).compute_mask([X, X], [WORDS, None])
    np.testing.assert_array_equal(numpy(nested), np.ones_like(WORDS))
    both = TimeDistributed(k.Add())
    np.testing.assert_array_equal(numpy(both.compute_mask([X, X], [MASK, MASK])), MASK)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GRU(3, return_sequences=True, return_state=True, go_backwards=True),
        lambda: Bidirectional(GRU(3, return_sequences=True), merge_mode=None),
        lambda: k.Bidirectional(k.GRU(3, return_sequences=True)),
    ],
)
def test_a_mask_of_timesteps_is_that_of_all_that_a_recurrent_layer_reads_in_one(make):
    inner, whole = make(), np.broadcast_to(MASK[..., None], WORDS.shape)
    layer = TimeDistributed(inner)
    results = layer(X, mask=MASK)
    assert_close(results, layer(X, mask=whole))
    masks = layer.compute_mask(X, MASK)
    masks = masks if isinstance(masks, list) else [masks]
    assert len(masks) == len(keras.tree.flatten(results))
    for mask in map(numpy, masks):
        np.testing.assert_array_equal(mask, whole if mask.ndim == 3 else MASK)
    symbols = keras.KerasTensor((None, None, 5, 2)), keras.KerasTensor((None, None), dtype="bool")
    assert len(keras.tree.flatten(layer.compute_mask(*symbols))) == len(masks)


def test_of_nested_inputs_a_timestep_counts_where_both_masks_say_so():
    class Sums(keras.layers.Layer):
        state_size = output_size = 2

        def call(self, inputs, states):
            return (h := states[0] + inputs["a"] * inputs["b"]), [h]

    layer = TimeDistributed(RNN(Sums(), return_sequences=True))
    nest, masks = {"a": X, "b": X + 1}, {"a": MASK, "b": WORDS}
    assert_close(layer(nest, mask=masks), layer(nest, mask=WORDS))  # which are all in MASK
    np.testing.assert_array_equal(numpy(layer.compute_mask(nest, masks)), WORDS)


class Pools(keras.layers.Layer):
    """Says whether it returns sequences, as attention does, and is no recurrent layer."""

    return_sequences, supports_masking = False, True

    def call(self, inputs, mask=None):
        return inputs if mask is None else inputs * ops.cast(mask, inputs.dtype)[:, None, None]


@on_one_backend
def test_a_mask_of_rows_comes_as_it_is_to_what_isnt_recurrent():
    assert_close(TimeDistributed(Pools())(X, mask=MASK), X * MASK[..., None, None])


def test_symbolic_shapes_of_timesteps_as_rows():
    like = keras.KerasTensor((2, 3, 4))
    assert Fold().compute_output_spec(like).shape == (6, 4)
    assert Fold().compute_output_spec(keras.KerasTensor((2, None, 4))).shape == (None, 4)
    rows = keras.KerasTensor((6, 5, 7))
    assert Unfold().compute_output_spec(rows, like).shape == (2, 3, 5, 7)
    mask = keras.KerasTensor((6,), dtype="bool")
    assert OverTime().compute_output_spec(mask, rows).shape == (6, 5)


@pytest.mark.parametrize("sizes", [(2, 2), (None, None)])
def test_documents_of_unknown_sizes(sizes):
    """On TensorFlow Keras's takes as many timesteps as there are rows, where they're unknown."""
    ids = np.array([[[1, 2], [3, 4]], [[5, 0], [0, 0]], [[6, 7], [0, 0]]])
    inputs = keras.Input(sizes, dtype="int32")
    words = TimeDistributed(k.Embedding(9, 3, mask_zero=True))(inputs)
    read = TimeDistributed(GRU(4, return_sequences=True))(words)
    sentences = TimeDistributed(Bidirectional(GRU(3)))(read)
    assert read.shape == (None, *sizes, 4)
    assert sentences.shape == (None, sizes[0], 6)
    last = LSTM(2)
    model = keras.Model(inputs, last(sentences))
    model.compile("sgd", "mse")
    expected = model.predict(ids, verbose=0)
    model.fit(ids, expected, epochs=1, batch_size=2, verbose=0)
    assert_close(model.predict(ids, verbose=0), expected)
    if None in sizes:
        longer = np.pad(ids, [(0, 0), (0, 2), (0, 1)])
        assert_close(model.predict(longer, verbose=0), expected)


def test_losses_and_random_numbers():
    layer = TimeDistributed(k.Dense(3, activity_regularizer="l2"))
    output = numpy(layer(X))
    batch = 1 if IS_OLDEST_KERAS else 3  # by which Keras divides what an activity costs
    assert_close(sum(map(numpy, layer.losses)), 0.01 * (output**2).sum() / batch, 1e-4)
    dropped = numpy(TimeDistributed(k.Dropout(0.5))(np.ones((3, 4, 50)), training=True))
    assert not (dropped[:, 0] == dropped[:, 1]).all()
    assert 0.8 < dropped.mean() < 1.2


def test_files_are_keras_s(tmp_path):
    theirs, ours = pair("model", X.shape)
    inputs = keras.Input((None, 5, 2))
    ours.set_weights([0 * w for w in ours.get_weights()])
    model = keras.Model(inputs, ours(inputs))
    fixed = keras.Input((4, 5, 2))
    source = keras.Model(fixed, theirs(fixed))
    source.save_weights(tmp_path / "keras.weights.h5")
    model.load_weights(tmp_path / "keras.weights.h5")
    expected = source.predict(X, verbose=0)
    assert_close(model.predict(X, verbose=0), expected)
    model.save(tmp_path / "ours.keras")
    loaded = keras.saving.load_model(tmp_path / "ours.keras")
    assert type(loaded.layers[-1]) is TimeDistributed
    assert_close(loaded.predict(X, verbose=0), expected)
    inside = TimeDistributed.from_config(keras.layers.TimeDistributed(k.LSTM(2)).get_config())
    assert type(inside.layer) is LSTM


def test_dtypes():
    layer = TimeDistributed(LSTM(3, dtype="mixed_bfloat16"), dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(X).dtype) == "bfloat16"
    ids = TimeDistributed(k.Lambda(lambda x: ops.cast(x > 0, "int32")))
    assert keras.backend.standardize_dtype(ids(X).dtype) == "int32"


def test_what_is_refused():
    refuses(["TimeDistributed:", "keras.layers.Layer", "3"], TimeDistributed, 3)
    refuses("did you mean `trainable`?", TimeDistributed, k.Dense(2), trainabel=True)
    layer = TimeDistributed(k.Dense(2))
    refuses(["(batch, timesteps, ...)", "(3,)"], layer, np.ones(3))
    for mask in (MASK[:, :3], MASK[:2], MASK[:, 0], WORDS[:, :2]):
        refuses("The `mask` passed to the `TimeDistributed` layer", layer, X, mask=mask)
    refuses("numbers of timesteps disagree", TimeDistributed(k.Add()), [X, X[:, :2]])
    refuses("the batch axis", TimeDistributed(k.Lambda(lambda x: ops.sum(x, 0))), X)
    refuses("entry 'layer'", TimeDistributed.from_config, {"name": "td"})


@pytest.mark.skipif(keras.config.backend() != "torch" or IS_OLDEST_KERAS, reason="newer Keras")
@pytest.mark.parametrize("kind", one_in(2, ["both ways", "ours", "stateful", "conv"]))
def test_torch_compile_takes_it_whole(kind):
    import torch

    layer, x = TimeDistributed(INNER[kind]()), torch.tensor(X, dtype=torch.float32)
    layer.build(X.shape)
    weights = layer.get_weights()
    expected = numpy(layer(x, training=True))
    if kind == "stateful":
        layer.layer.reset_state()
    layer.set_weights(weights)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x, training=True), expected)
