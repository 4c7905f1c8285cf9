"""ConvLSTM1D, 2D and 3D against Keras's, and what Keras's lack."""

from dataclasses import astuple

import keras
import numpy as np
import pytest
from keras import ops

import ostinato
from engines.gradients import pull_back
from layers.refusals import refuses
from ostinato import layers
from ostinato.layers import RNN, Bidirectional, ConvLSTM1D, ConvLSTM2D, ConvLSTM2DCell
from support import WHOLE, array, assert_close, numpy

SIZES = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]], bool)

OPTIONS = [
    {"rank": 1, "return_sequences": True, "return_state": True, "go_backwards": True},
    {"rank": 1, "kernel_size": 2, "dilation_rate": 2, "use_bias": False},
    {"rank": 2, "kernel_size": (3, 2), "strides": (2, 1), "padding": "SAME", "activation": "relu"},
    {"rank": 2, "data_format": "channels_first", "padding": "same", "unit_forget_bias": False},
    {"rank": 2, "dropout": 0.3, "recurrent_dropout": 0.4, "seed": 3, "return_sequences": True},
    {"rank": 2, "recurrent_activation": "hard_sigmoid", "unroll": True, "return_state": True},
    {"rank": 3, "padding": "same", "return_sequences": True, "recurrent_dropout": 0.2, "seed": 1},
]


def pair(rank=2, kernel_size=2, **options):
    """Keras's layer and ours of the same config and weights, and inputs for both."""
    theirs = getattr(keras.layers, f"ConvLSTM{rank}D")(3, kernel_size, **options)
    ours = getattr(layers, f"ConvLSTM{rank}D").from_config(theirs.get_config())
    first = options.get("data_format") == "channels_first"
    shape = (2, *SIZES[rank]) if first else (*SIZES[rank], 2)
    for layer in (theirs, ours):
        layer.build((None, 4, *shape))
    for number, weight in enumerate(theirs.weights):
        weight.assign(numpy(weight) + 0.1 * array(number, *weight.shape))
    ours.set_weights(theirs.get_weights())
    return theirs, ours, array(0, 3, 4, *shape)


@pytest.mark.parametrize("options", OPTIONS if WHOLE else OPTIONS[::2], ids=str)
def test_results_and_gradients_are_those_of_keras(options):
    theirs, ours, x = pair(**options)
    assert [w.path for w in ours.weights] == [w.path for w in theirs.weights]
    assert ours.get_config() == theirs.get_config()
    shapes = [layer.compute_output_shape(x.shape) for layer in (ours, theirs)]
    assert shapes[0] == shapes[1]
    size = ours.cell.output_size
    states = [array(seed, 3, *size) for seed in (1, 2)]
    training = "seed" in options
    found = [
        astuple(pull_back(each, x, states, None, training=training)) for each in (ours, theirs)
    ]
    assert_close(*found, 2e-5)
    assert_close(ours(x), theirs(x))  # from zeros
    assert_close(ours(x, training=training), theirs(x, training=training))  # with other masks


def test_a_seed_gives_keras_s_weights():
    made = []
    for library in (keras.layers, layers):
        keras.utils.set_random_seed(5)
        made.append(library.ConvLSTM2D(2, 3))
        made[-1].build((None, None, 4, 4, 1))
    assert_close(made[0].get_weights(), made[1].get_weights(), 1e-7)


def by_hand(layer, x, mask, states):
    """The cell in a loop: the outputs of all timesteps and the final states."""
    held, outputs = np.zeros_like(states[0]), []
    for t in range(x.shape[1]):
        valid = mask[:, t].reshape(-1, *[1] * (held.ndim - 1))
        output, new = numpy(layer.cell(x[:, t], list(states)))
        states = [np.where(valid, *both) for both in zip(new, states, strict=True)]
        held = np.where(valid, output, 0 if layer.zero_output_for_mask else held)
        outputs.append(held)
    return np.stack(outputs, 1), *states


@pytest.mark.parametrize("zero", [False, True])
def test_masks_and_states_that_are_kept(zero):
    options = {"return_sequences": True, "return_state": True, "zero_output_for_mask": zero}
    layer = ConvLSTM2D(3, 2, padding="same", stateful=True, **options)
    x = array(0, 3, 4, 4, 3, 2)
    layer.build(x.shape)
    states = [array(seed, 3, 4, 3, 3) for seed in (1, 2)]
    expected = by_hand(layer, x, MASK, states)
    assert_close(layer(x, mask=MASK, initial_state=states), expected)
    assert_close(list(layer.states), list(expected[1:]))
    np.testing.assert_array_equal(numpy(layer.compute_mask(x, MASK)[0]), MASK)
    layer.reset_state(states)
    first = numpy(layer(x[:, :2], mask=MASK[:, :2]))
    second = numpy(layer(x[:, 2:], mask=MASK[:, 2:]))
    shown = MASK[:, 2:, None, None, None]  # a held output comes from within a call
    pairs = [(second[0] * shown, expected[0][:, 2:] * shown), (first[0], expected[0][:, :2])]
    for found, wanted in (*pairs, *zip(second[1:], expected[1:], strict=True)):
        assert_close(found, wanted)
    layer.reset_states()
    assert not any(numpy(state).any() for state in layer.states)


def test_states_are_carried_in_fit():
    inputs = keras.Input(batch_shape=(3, 2, 4, 1))
    layer = ConvLSTM1D(2, 3, padding="same", stateful=True)
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = array(0, 3, 4, 4, 1)
    batches = np.concatenate([x[:, :2], x[:, 2:]])
    model.fit(batches, np.zeros((6, 4, 2)), batch_size=3, shuffle=False, verbose=0)
    plain = ConvLSTM1D(2, 3, padding="same", return_state=True)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    assert_close(list(layer.states), list(plain(x)[1:]))


@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "merge_mode": "ave"}], ids=str)
def test_bidirectional_of_ours_around_ours(options):
    mode = {"merge_mode": options.pop("merge_mode", "concat")}
    theirs, ours, x = pair(padding="same", return_state=True, **options)
    both = [
        keras.layers.Bidirectional(theirs, **mode),
        Bidirectional(ours, **mode),
    ]
    expected, _ = (numpy(layer(x)) for layer in both)
    both[1].set_weights(both[0].get_weights())
    assert_close(both[1](x), expected)
    states = [array(seed, 3, 6, 5, 3) for seed in range(4)]
    found = both[1](x, initial_state=states, mask=MASK)
    assert [tuple(each.shape) for each in found] == [each.shape for each in expected]


class Gated(ConvLSTM2DCell):
    """Takes constants of whatever size, averaged over all places."""

    def call(self, inputs, states, constants, training=False):
        scale = ops.mean(constants[0], axis=(1, 2), keepdims=True)
        return super().call(inputs * scale, states, training=training)


def test_cells_alone_stacked_and_with_constants():
    x = array(0, 3, 4, 4, 4, 2)
    cells = [ConvLSTM2DCell(3, 2), ConvLSTM2DCell(2, (1, 2), padding="same")]
    stack = RNN(cells, return_sequences=True, return_state=True)
    output, *states = stack(x)
    below = RNN(cells[0], return_sequences=True)(x)
    assert_close(output, RNN(cells[1], return_sequences=True)(below))
    assert [tuple(s.shape) for pair in states for s in pair] == 2 * [(3, 3, 3, 3)] + 2 * [
        (3, 3, 3, 2)
    ]
    again = ConvLSTM2DCell.from_config(cells[0].get_config())
    assert again.get_config() == cells[0].get_config()
    inputs, constant = keras.Input((None, 4, 4, 2)), keras.Input((None, None, 1))
    layer = RNN(Gated(3, 2))
    model = keras.Model([inputs, constant], layer(inputs, constants=constant))
    assert model.output.shape == (None, 3, 3, 3)
    c = array(1, 3, 5, 6, 1)
    plain = RNN(cells[0])
    cells[0].set_weights(layer.get_weights())
    scale = c.mean((1, 2)).reshape(3, 1, 1, 1, 1)
    assert_close(model.predict([x, c], verbose=0), plain(x * scale))


def test_files_and_weights_are_keras_s(tmp_path):
    theirs, ours, x = pair(rank=1, padding="same", return_sequences=True)
    inputs = keras.Input((None, *x.shape[2:]))
    models = [keras.Model(inputs, layer(inputs)) for layer in (theirs, ours)]
    assert models[1].output.shape == (None, None, 7, 3)
    expected = models[0].predict(x, verbose=0)
    models[0].save_weights(tmp_path / "keras.weights.h5")
    ours.set_weights([0 * w for w in ours.get_weights()])
    models[1].load_weights(tmp_path / "keras.weights.h5")
    assert_close(models[1].predict(x, verbose=0), expected)
    models[1].save(tmp_path / "ours.keras")
    loaded = keras.saving.load_model(tmp_path / "ours.keras")
    assert type(loaded.layers[-1]) is ConvLSTM1D
    assert_close(loaded.predict(x, verbose=0), expected)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16", "float64"])
def test_dtype_policies(policy):
    if keras.config.backend() == "jax" and policy == "float64":
        return  # which JAX has only with jax_enable_x64
    layer = ConvLSTM2D(3, 2, return_state=True, recurrent_dropout=0.5, dtype=policy)
    output, h, c = layer(array(0, 2, 3, 4, 4, 1), training=True)
    dtypes = {keras.backend.standardize_dtype(each.dtype) for each in (output, h, c)}
    variables = {weight.dtype for weight in layer.weights}
    assert dtypes == {keras.DTypePolicy(policy).compute_dtype}
    assert variables == {keras.DTypePolicy(policy).variable_dtype}


def test_dropout_of_a_cell_by_itself():
    cell = ConvLSTM2DCell(2, 2, dropout=0.5, recurrent_dropout=1.0, seed=1)
    x, states = array(0, 3, 4, 4, 2), [array(1, 3, 3, 3, 2), array(2, 3, 3, 3, 2)]
    cell.build(x.shape)
    plain, one, other = (numpy(cell(x, states, training=t)[0]) for t in (False, True, True))
    assert not np.allclose(one, other)
    assert not np.allclose(one, plain)
    assert_close(cell(x, states, training=False)[0], plain)


def test_dropout_on_the_core_is_that_of_the_portable_loop():
    options = {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 3, "return_sequences": True}
    found = []
    for engine in ("compiled", "scan"):
        keras.utils.set_random_seed(1)
        layer = ConvLSTM2D(2, 2, **options)
        with ostinato.use_engine(engine):
            found.append([numpy(layer(array(0, 2, 3, 4, 4, 2), training=True)) for _ in range(2)])
    assert_close(found[0], found[1])
    assert not np.allclose(found[0][0], found[0][1])


def test_a_cell_called_by_itself_drops_nothing_unless_it_trains():
    cell, x = layers.ConvLSTM1DCell(2, 2, dropout=0.5, recurrent_dropout=0.5), array(0, 3, 5, 2)
    cell.build(x.shape)
    states = [ops.ones((3, 4, 2))] * 2
    plain = numpy(cell(x, states)[0])
    assert_close(cell(x, states)[0], plain)
    assert_close(cell(x, states, training=False)[0], plain)
    assert not np.allclose(numpy(cell(x, states, training=True)[0]), plain)


def test_what_is_refused():
    refuses(["ConvLSTM2D:", "`kernel_size`", "2 integers"], ConvLSTM2D, 3, (2, 2, 2))
    refuses(["ConvLSTM2D:", "`kernel_size`", "positive"], ConvLSTM2D, 3, 0)
    refuses(["ConvLSTM1D:", "`filters`", "positive"], ConvLSTM1D, 0, 2)
    refuses(["`padding`", "'valid'", "causal"], ConvLSTM1D, 2, 2, padding="causal")
    refuses(["`data_format`", "last"], ConvLSTM1D, 2, 2, data_format="last")
    refuses("did you mean `strides`?", ConvLSTM2D, 2, 2, stride=1)
    stack = [keras.Input((3, 4, 4, 1)), ConvLSTM2D(2, 2), ConvLSTM2D(2, 2, name="upper")]
    refuses(["'upper'", "found ndim=4", "return_sequences=True"], keras.Sequential, stack)
    refuses("strides=(2, 2)", ConvLSTM2D, 2, 2, strides=2, dilation_rate=2)
    refuses("static input shapes", ConvLSTM2D(2, 2), keras.Input((3, None, 4, 1)))
    refuses("static input shapes", ConvLSTM2D(2, 2), keras.Input((3, 4, 4, None)))
    refuses("ConvLSTM2DCell layer", ConvLSTM2D(2, 5), array(0, 2, 3, 4, 4, 1))  # nothing is left
    words = ["expected ndim=5", "of shape (batch, timesteps, ...)"]
    refuses(words, ConvLSTM2D(2, 2), array(0, 2, 3, 4, 1))
    layer = ConvLSTM2D(2, 2)
    layer.build((None, None, 4, 4, 1))
    refuses("(4, 4, 1)", layer, array(0, 2, 3, 5, 4, 1))
    h = layer.get_initial_state(2)
    wanted = "(batch, size 1, size 2, channels) at a timestep, built for (None, 4, 4, 1);"
    refuses(f"{wanted} got (2, 1, 4, 1)", layer.cell, array(0, 2, 1, 4, 1), h)
    refuses(["states[0]", "(3, 3, 3, 2)"], layer.cell, array(0, 3, 4, 4, 1), h)
    first = layers.ConvLSTM1DCell(2, 2, data_format="channels_first")
    refuses("(batch, channels, size 1) at a timestep; got (2, 4)", first, array(0, 2, 4), [])
    states = [array(0, 2, 1, 1, 2), array(0, 2, 3, 3, 2)]
    refuses("initial_state[0]", layer, array(0, 2, 3, 4, 4, 1), initial_state=states)
    refuses("states[0]", layer.cell, array(0, 2, 4, 4, 1), states)
    refuses("constants", layer, array(0, 2, 3, 4, 4, 1), constants=array(0, 2, 1))
    refuses("expected to be built", ConvLSTM2DCell(2, 2).get_initial_state, 3)
