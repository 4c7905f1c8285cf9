"""Random numbers in a cell: drawn outside of the loop they're the very ones that it would draw."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import ostinato
from ostinato.programs.evaluation import evaluate
from ostinato.programs.tracing import Like, Untraceable, trace
from support import in_turn

ROWS, TIMESTEPS, WIDTH = 3, 5, 4


class Noisy(keras.layers.Layer):
    """Layers of noise, and keras.random by a seed of the cell's own."""

    state_size = WIDTH

    def __init__(self, declares):
        super().__init__()
        self.drop = layers.Dropout(0.4, seed=3)
        self.noise = [layers.GaussianNoise(0.2, seed=5), layers.GaussianDropout(0.2, seed=8)]
        self.whole = layers.SpatialDropout1D(0.3, seed=6)
        self.generator = keras.random.SeedGenerator(7)
        if declares:
            self.output_size = WIDTH

    def call(self, inputs, states, training=False):
        h = self.noise[1](self.noise[0](self.drop(inputs))) + 0.5 * states[0]
        if training:
            h = h + keras.random.uniform(ops.shape(h), seed=self.generator)
            h = keras.random.dropout(h, 0.2, seed=self.generator)
        h = h + self.whole(ops.reshape(h, (-1, 2, 2)))[:, 0, :1]
        return h, [h]


class Unseeded(keras.layers.Layer):
    """One Dropout without a seed, which isn't told whether it trains but by the layer around."""

    state_size = output_size = WIDTH

    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.4)

    def call(self, inputs, states):
        h = self.drop(inputs) + states[0]
        return h, [h]


def like(*shapes):
    return [Like(shape, "float32") for shape in shapes]


def traced(cell, training=True):
    cell.build((None, WIDTH))
    return trace(cell, *like((WIDTH,)), like((WIDTH,)), None, training)


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize(
    "make",
    [lambda: Noisy(True), lambda: Noisy(False), Unseeded],
    ids=["seeded", "bare", "unseeded"],
)
def test_drawn_outside_of_the_loop_they_are_the_same(make, go_backwards):
    x = np.random.default_rng(0).standard_normal((ROWS, TIMESTEPS, WIDTH)).astype("float32")
    keras.utils.set_random_seed(4)
    layer = ostinato.layers.RNN(make(), return_sequences=True, go_backwards=go_backwards)
    layer.build(x.shape)
    keras.utils.set_random_seed(9)  # of the unseeded ones on PyTorch
    with ostinato.use_engine("scan"):
        expected = ops.convert_to_numpy(layer(ops.convert_to_tensor(x), training=True))
    keras.utils.set_random_seed(4)
    cell = make()
    found = traced(cell)
    assert found.program.fixed == {("input", 1 + at) for at in range(len(found.draws))}
    keras.utils.set_random_seed(9)
    masks = found.draw(cell, ROWS, TIMESTEPS, go_backwards)
    states, outputs = (ops.zeros((ROWS, WIDTH)),), []
    for step in range(TIMESTEPS):
        time = TIMESTEPS - 1 - step if go_backwards else step
        xs = (ops.convert_to_tensor(x[:, time]), *(mask[:, time] for mask in masks))
        output, states = evaluate(found.program, xs, states)
        outputs.append(ops.convert_to_numpy(output[0]))
    np.testing.assert_allclose(np.stack(outputs, 1), expected, rtol=1e-5, atol=1e-6)
    for ours, seed in zip(
        cell.non_trainable_variables, layer.cell.non_trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(seed))


class Residual(keras.layers.Layer):
    """A cell whose own cell isn't known to the layer around."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell
        self.state_size, self.output_size = cell.state_size, WIDTH

    def build(self, input_shape):
        self.cell.build(input_shape)

    def call(self, inputs, states, training=False):
        output, new = self.cell(inputs, states, training=training)
        return inputs + output, new


# One mask a sequence, but for the last's, which draws one a timestep.
DROPS = {"dropout": 0.3, "recurrent_dropout": 0.4}
MASKED = {
    "LSTM": lambda: layers.LSTMCell(WIDTH, **DROPS, seed=3),
    "GRU": lambda: layers.GRUCell(WIDTH, **DROPS),
    "one mask": lambda: layers.LSTMCell(WIDTH, dropout=0.3, seed=3),
    "stack": lambda: ostinato.layers.StackedRNNCells(
        [layers.SimpleRNNCell(3, **DROPS, seed=1), layers.LSTMCell(WIDTH, dropout=0.3)]
    ),
    "activation": lambda: ostinato.layers.LSTMCell(WIDTH, **DROPS, activation=lambda x: 0.9 * x),
    "within": lambda: Residual(ostinato.layers.GRUCell(WIDTH, **DROPS, seed=2)),
}

DRAWING = {
    "seeded": lambda: Noisy(True),
    "bare": lambda: Noisy(False),
    "unseeded": Unseeded,
    **MASKED,
}


@pytest.mark.parametrize(("name", "go_backwards"), in_turn([*DRAWING], [False, True]))
def test_the_engine_gives_what_the_portable_loop_does(name, go_backwards):
    make = DRAWING[name]
    x = np.random.default_rng(0).standard_normal((ROWS, TIMESTEPS, WIDTH)).astype("float32")
    mask = np.arange(TIMESTEPS) < np.array([[TIMESTEPS], [3], [0]])
    found = []
    for engine in ("compiled", "scan"):
        keras.utils.set_random_seed(4)
        layer = ostinato.layers.RNN(make(), return_sequences=True, go_backwards=go_backwards)
        layer.build(x.shape)
        keras.utils.set_random_seed(9)  # of the unseeded ones on PyTorch
        with ostinato.use_engine(engine):
            calls = [layer(x, mask=m, training=True) for m in (None, mask)]
        found.append([ops.convert_to_numpy(outputs) for outputs in calls])
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    assert np.abs(found[0][0] - found[0][1]).max() > 0.1


def test_no_noise_needs_no_draw():
    cell = Alike()
    cell.drop.rate = 0.0
    assert traced(cell).draws == ()


def test_nothing_is_drawn_where_it_does_not_train():
    assert traced(Noisy(True), training=False).draws == ()


class Alike(Unseeded):
    """Noise that all rows of a timestep share."""

    def call(self, inputs, states):
        h = inputs + self.drop(ops.ones((1, WIDTH)), training=True) + states[0]
        return h, [h]


class Shuffling(Unseeded):
    """Random numbers by what isn't drawn outside of loops."""

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(7)

    def call(self, inputs, states):
        h = keras.random.shuffle(inputs, axis=1, seed=self.generator)
        return h, [h]


@pytest.mark.parametrize("cls", [Alike, Shuffling])
def test_what_cannot_be_drawn_outside_is_refused(cls):
    cell = cls()
    before = [ops.convert_to_numpy(seed) for seed in cell.non_trainable_variables]
    with pytest.raises(Untraceable, match=r"random numbers|keras\.random\.shuffle"):
        traced(cell)
    for old, seed in zip(before, cell.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(seed))


def test_masks_of_a_sequence_are_constants_without_a_gradient():
    cell = layers.LSTMCell(WIDTH, dropout=0.5, seed=1)
    cell.build((None, WIDTH))
    states = like((WIDTH,), (WIDTH,))
    before = [ops.convert_to_numpy(seed) for seed in cell.non_trainable_variables]
    training, not_training = (trace(cell, *like((WIDTH,)), states, None, t) for t in (True, False))
    assert training.program.constant_shapes == ((WIDTH,),)
    assert training.program.fixed == {("constant", 0)}
    assert not_training.program.constant_shapes == ()
    assert training.draws == not_training.draws == ()
    for old, seed in zip(before, cell.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(seed))
    assert cell.get_dropout_mask(ops.ones((2, WIDTH))).shape[0] == 2  # none is left behind


def test_masks_that_a_cell_would_keep_from_its_first_timestep_are_refused_by_name():
    cell = Residual(layers.LSTMCell(WIDTH, dropout=0.5))
    cell.build((None, WIDTH))
    states = like((WIDTH,), (WIDTH,))
    with pytest.raises(Untraceable, match="LSTMCell in it draws dropout masks in its first"):
        trace(cell, *like((WIDTH,)), states, None, True)
    assert trace(cell, *like((WIDTH,)), states, None, False).draws == ()
