"""Bidirectional around any two recurrent layers: ours, Keras's, or a user's own without a cell."""

from itertools import product

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from ostinato.layers import GRU, LSTM, RNN, Bidirectional, LSTMCell
from support import IS_OLDEST_KERAS, array, assert_close, numpy, on_one_backend, sample

MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]], bool)
MODES = ["concat", "sum", "mul", "ave", None]
MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": np.add,
    "mul": np.multiply,
    "ave": lambda a, b: (a + b) / 2,
}


@keras.saving.register_keras_serializable(package="tests")
class Sums(keras.layers.Layer):
    """A recurrent layer of one's own, without a cell: running sums, times a weight."""

    def __init__(self, return_sequences=False, return_state=False, go_backwards=False, **kwargs):
        self.stateful = kwargs.pop("stateful", False)
        super().__init__(**kwargs)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.supports_masking = go_backwards, True

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        if self.stateful:
            self.states = [keras.Variable(np.zeros((shape[0], shape[-1]), "float32"))]

    def call(self, inputs, initial_state=None, mask=None):
        x = ops.flip(inputs, 1) if self.go_backwards else inputs
        if mask is not None:
            mask = ops.flip(mask, 1) if self.go_backwards else mask
            x = ops.where(mask[..., None], x, 0.0)
        first = ops.zeros_like(x[:, 0]) if initial_state is None else initial_state[0]
        first = self.states[0] + 0.0 if self.stateful and initial_state is None else first
        sums = ops.cumsum(x, 1) * self.scale + first[:, None]
        if self.stateful:
            self.states[0].assign(sums[:, -1])
        output = sums if self.return_sequences else sums[:, -1]
        return (output, sums[:, -1]) if self.return_state else output

    def reset_state(self):
        self.states[0].assign(np.zeros(self.states[0].shape))

    def get_config(self):
        names = ("return_sequences", "return_state", "go_backwards", "stateful")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def conv(rank):
    cls = [None, keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D][rank]
    return lambda **options: cls(2, 3, padding="same", **options)


KINDS = {
    "conv 1D": ((4, 1), conv(1), conv(1), 2, 2),
    "conv 2D": ((3, 4, 1), conv(2), conv(2), 2, 2),
    "conv 3D": ((2, 2, 3, 1), conv(3), conv(3), 2, 2),
    "own": ((3,), Sums, Sums, 1, 1),
    "own and ours": ((3,), Sums, lambda **o: LSTM(3, **o), 1, 2),
    "ours and own": ((3,), lambda **o: RNN(LSTMCell(3), **o), Sums, 2, 1),
    "Keras's and ours": (
        (3,),
        lambda **o: keras.layers.GRU(3, **o),
        lambda **o: LSTM(3, **o),
        1,
        2,
    ),
    "unlike": ((3,), lambda **o: LSTM(3, **o), lambda **o: GRU(3, **o), 2, 1),
}


def directions(kind, mode="concat", forward_reads_backwards=False, **options):
    """A Bidirectional of two layers, with its inputs' shape and the number of each one's states."""
    shape, forward, backward, *counts = KINDS[kind]
    back = forward_reads_backwards
    layer = Bidirectional(
        forward(go_backwards=back, **options),
        backward_layer=backward(go_backwards=not back, **options),
        merge_mode=mode,
    )
    return layer, (3, 4, *shape), counts


def mask_for(kind):
    """A mask, except for ConvLSTM: on JAX Keras's loop takes none beside states of other ranks."""
    return None if kind.startswith("conv") else MASK


def by_hand(layer, x, mask, states=(None, None)):
    """Both directions, called one after the other: outputs in one order, and the states."""
    results = []
    for direction, state in zip((layer.forward_layer, layer.backward_layer), states, strict=True):
        keywords = {} if state is None else {"initial_state": state}
        results.append(numpy(direction(x, mask=mask, **keywords)))
    if not layer.return_state:
        results = [[result] for result in results]
    (forward, *one), (backward, *other) = results
    if layer.return_sequences:
        backward = backward[:, ::-1]
    merged = [MERGES[layer.merge_mode](forward, backward)] if layer.merge_mode else None
    return [*(merged or [forward, backward]), *one, *other]


@pytest.mark.parametrize(
    ("kind", "mode"),
    sample(
        [*product([k for k in KINDS if k not in ("conv 1D", "conv 3D")], MODES)],
        *[("conv 2D", "concat"), ("own", "sum"), ("own and ours", "mul"), ("unlike", None)],
        *[("ours and own", "ave"), ("Keras's and ours", "concat")],
    ),
)
def test_any_two_layers_are_merged_in_every_mode(kind, mode):
    options = {"return_sequences": True, "return_state": True}
    layer, shape, (one, other) = directions(kind, mode, **options)
    x, outputs, mask = array(0, *shape), 2 if mode is None else 1, mask_for(kind)
    results = numpy(layer(x, mask=mask))
    assert_close(results, by_hand(layer, x, mask))
    assert len(results) == outputs + one + other
    given = [array(i, *state.shape) for i, state in enumerate(results[outputs:])]
    expected = by_hand(layer, x, mask, (given[:one], given[one:]))
    assert_close(layer(x, mask=mask, initial_state=given), expected)
    masks = layer.compute_mask(x, MASK)
    assert len(masks) == len(results)
    assert masks[outputs:] == [None] * (one + other)
    for mask in masks[:outputs]:
        np.testing.assert_array_equal(numpy(mask), MASK)
    shapes = layer.compute_output_shape(shape)
    assert [tuple(s) for s in shapes] == [result.shape for result in results]


@pytest.mark.parametrize("kind", sample(KINDS, "conv 1D", "own and ours", "unlike"))
def test_any_two_layers_stand_in_a_model(kind, tmp_path):
    layer, shape, _ = directions(kind, return_sequences=True)
    inputs = keras.Input(shape[1:])
    masked = keras.layers.TimeDistributed(keras.layers.Flatten())(layer(inputs))
    model = keras.Model(inputs, LSTM(2)(masked))
    model.compile("sgd", "mse")
    x = array(0, *shape)
    model.fit(x, array(1, 3, 2), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("kind", "mode"),
    sample(
        [*product(["own", "unlike", "Keras's and ours", "conv 1D"], ["concat", None])],
        *[("unlike", "concat"), ("own", None)],
    ),
)
def test_where_the_forward_layer_reads_backwards_outputs_and_masks_do(kind, mode):
    layer, shape, _ = directions(kind, mode, True, return_sequences=True)
    x, mask = array(0, *shape), mask_for(kind)
    assert_close(layer(x, mask=mask), by_hand(layer, x, mask))
    masks = layer.compute_mask(x, MASK)
    for mask in masks if mode is None else [masks]:
        np.testing.assert_array_equal(numpy(mask), MASK[:, ::-1])
    upright, _, _ = directions("own", mode, return_sequences=True)
    turned, _, _ = directions("own", mode, True, return_sequences=True)
    x = array(0, 3, 4, 3)
    kept, flipped = numpy(upright(x, mask=MASK)), numpy(turned(x, mask=MASK))
    if mode is None:
        assert_close([flipped[1][:, ::-1], flipped[0][:, ::-1]], kept)
    else:
        assert_close(np.roll(flipped[:, ::-1], 3, -1), kept)


@pytest.mark.parametrize("kind", ["own", "own and ours", "conv 2D", "unlike"])
def test_any_two_layers_keep_their_states(kind):
    layer, shape, (one, other) = directions(kind, stateful=True)
    x = array(0, *shape)
    first, second = numpy(layer(x)), numpy(layer(x))
    assert not np.allclose(first, second)
    if IS_OLDEST_KERAS and kind == "conv 2D":
        return  # its ConvLSTM can't be reset on JAX
    layer.reset_state()
    assert_close(layer(x), first)
    kept = numpy(list(layer.states))
    assert len(kept) == one + other
    assert_close(layer(x), second)
    layer.reset_state(kept)
    assert_close(layer(x), second)


@on_one_backend
def test_states_of_another_batch_size_are_refused_in_the_name_of_the_direction():
    layer, *_ = directions("own", stateful=True)
    layer(array(0, 5, 4, 3))
    with pytest.raises(ValueError, match=r"Sums layer .*expected states\[0\] .*\(5, 3\).*\(2, 3\)"):
        layer.reset_state([array(0, 2, 3)] * 2)


@on_one_backend
def test_as_many_states_as_one_direction_takes_are_refused_in_the_wrapper_s_name():
    both = Bidirectional(LSTM(3), name="both")
    expected = r"'both': expected initial_state to be .*states, 2, and .*backward layer's, 2; got"
    with pytest.raises(ValueError, match=expected):
        both(array(0, 5, 4, 2), initial_state=[array(1, 5, 3), array(2, 5, 3)])


@on_one_backend
def test_a_layer_whose_initial_states_are_made_of_its_inputs_as_in_keras_2():
    class OfInputs(Sums):
        def get_initial_state(self, inputs):
            return [ops.zeros_like(inputs[:, 0])]

    layer = Bidirectional(OfInputs(), backward_layer=OfInputs(go_backwards=True))
    x, states = array(0, 3, 4, 3), [array(1, 3, 3), array(2, 3, 3)]
    layer(x)
    expected = by_hand(layer, x, None, ([states[0]], [states[1]]))
    assert_close(layer(x, initial_state=states), expected)


@on_one_backend
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_both_directions_in_another_dtype_than_its_own(dtype):
    inner = GRU(3, return_sequences=True, dtype="float32")
    layer, same = Bidirectional(inner, dtype=dtype), Bidirectional(inner, dtype="float32")
    x = array(0, 2, 5, 4)
    output = layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    same.build(x.shape)
    same.set_weights(layer.get_weights())
    assert_close(keras.ops.cast(output, "float32"), same(x), 1e-6 if dtype == "float64" else 5e-3)


def test_a_subclass_with_a_call_of_its_own_is_called_in_both_directions():
    class Doubling(GRU):
        def __call__(self, sequences, **given):
            return super().__call__(2 * sequences, **given)

    x = array(0, 2, 5, 4)
    layer, plain = Bidirectional(Doubling(3)), Bidirectional(GRU(3))
    layer.build(x.shape)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    assert_close(layer(ops.convert_to_tensor(x)), plain(2 * x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_stacked_cells_run_backwards_as_keras_do(both, masked):
    def make(library):
        cells = [library.GRUCell(4), library.LSTMCell(3), library.SimpleRNNCell(2)]
        options = {"return_sequences": True, "zero_output_for_mask": both}
        layer = library.RNN(cells, go_backwards=not both, **options)
        return library.Bidirectional(layer) if both else layer

    ours, theirs = make(ostinato.layers), make(keras.layers)
    x = array(0, 2, 5, 4)
    for layer in (ours, theirs):
        layer.build(x.shape)
    theirs.set_weights(ours.get_weights())
    mask = np.array([[1, 1, 1, 1, 0], [0, 1, 0, 1, 1]], bool) if masked else None
    assert_close(ours(x, mask=mask), theirs(x, mask=mask))


@on_one_backend
def test_the_last_outputs_and_the_losses_of_both_directions_are_kerass():
    def make(library):
        return library.Bidirectional(library.GRU(3, activity_regularizer="l2"))

    ours, theirs = make(ostinato.layers), make(keras.layers)
    x, mask = array(0, 2, 5, 4), np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1]], bool)
    for layer in (ours, theirs):
        layer.build(x.shape)
    theirs.set_weights(ours.get_weights())
    assert_close(ours(x, mask=mask), theirs(x, mask=mask))
    assert len(ours.losses) == 2
    assert_close(sum(ours.losses), sum(theirs.losses))


def test_one_unit_is_spread_over_the_other_directions():
    for units in ((1, 5), (5, 1)):
        forward, backward = (GRU(n, go_backwards=bool(at)) for at, n in enumerate(units))
        layer = Bidirectional(forward, "sum", backward_layer=backward)
        assert layer.compute_output_shape((2, 3, 4)) == (2, 5)
        assert layer(array(0, 2, 3, 4)).shape == (2, 5)
