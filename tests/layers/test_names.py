"""A subclass owns every plain name that Keras's class of the same name hasn't."""

import contextlib

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers
from support import array, assert_close, sample

FRAMES = {f"ConvLSTM{rank}D": array(0, 2, 5, *[4] * rank, 3) for rank in (1, 2, 3)}
ALL = [name for name in layers.__all__ if name != "Shape"]
NAMES = sample(ALL, "GRU", "LSTMCell", "Bidirectional")
# Keras's ConvLSTM cell is of a class that it doesn't export, with names of its own.
OF_CONV_CELL = {
    *("rank", "spatial_dims", "input_dim", "kernel_shape", "input_conv", "recurrent_conv"),
    "dropout_mask_count",
}
# Keras 2 had it, and users still call it.
WE_ADD = {"reset_states"}
# What Keras's RNN calls on cells with dropout, and on our stack of such.
MASK_METHODS = {"_create_dropout_mask"} | {
    f"{verb}_{mask}"
    for verb in ("get", "reset")
    for mask in ("dropout_mask", "recurrent_dropout_mask")
}
# Names that a user may well take, in the house's words and in the field's.
WORDS = {
    *("activations", "answer", "arguments", "asked", "attention", "bias_shape", "builtin", "call_"),
    *("config", "constants", "door", "draw_masks", "engine", "embedding", "features", "fused"),
    *("gates", "hidden_size", "inputs_mask", "job", "kept", "kernel_weights", "kind", "length"),
    *("loop", "loop_config", "mask", "masks", "output_projection", "plan", "projection", "read"),
    *("recurrence", "results", "run", "scale", "sequences", "shapes", "sizes", "steps", "written"),
}


def make(library, name, **keywords):
    """A layer or cell, of ours or Keras's."""
    if name.startswith("ConvLSTM"):
        if library is keras.layers and is_cell(name):
            return getattr(library, name.removesuffix("Cell"))(3, 2, **keywords).cell
        return getattr(library, name)(3, 2, **keywords)
    own = {
        "RNN": lambda: library.GRUCell(3),
        "StackedRNNCells": lambda: [library.GRUCell(4), library.LSTMCell(3)],
        "Bidirectional": lambda: library.GRU(3),
        "TimeDistributed": lambda: keras.layers.Dense(3),
    }
    return getattr(library, name)(own.get(name, lambda: 3)(), **keywords)


def inputs_of(name):
    return FRAMES.get(name.removesuffix("Cell"), array(0, 2, 5, 3))


def is_cell(name):
    return "Cell" in name


def run(name, layer, **keywords):
    """One call of it."""
    x = inputs_of(name)
    if not is_cell(name):
        return layer(x, **keywords)
    layer.build((None, *x.shape[2:]))
    return layer(x[:, 0], layer.get_initial_state(2), **keywords)[0]


def names_of(library, name):
    """The attributes of a class, and of its instance once built and called."""
    layer = make(library, name)
    run(name, layer)
    return {*dir(type(layer)), *dir(layer)}


EVERY_NAME = {name: names_of(layers, name) for name in NAMES}
KERAS_NAMES = {name: names_of(keras.layers, name) for name in NAMES}
for name in filter(is_cell, KERAS_NAMES):
    KERAS_NAMES[name].add("output_size")  # as all of its cells have it but those of ConvLSTM


def is_plain(name):
    return not name.startswith("_")


@pytest.mark.parametrize("name", NAMES)
def test_plain_names_are_keras_s(name):
    of_rnn = {"reset_states"} if not is_cell(name) else set()
    added = MASK_METHODS if name == "StackedRNNCells" else of_rnn
    ours_alone = filter(is_plain, EVERY_NAME[name] - KERAS_NAMES[name])
    assert set(ours_alone) <= added


# What our own names begin with: a user's class may well have a `_projection`.
PREFIXES = ("_rnn_", "_cell_", "_bi_", "_td_", "__")


@pytest.mark.parametrize("name", NAMES)
def test_underscored_names_of_ours_are_told_from_a_user_s(name):
    assert not [
        n
        for n in EVERY_NAME[name] - KERAS_NAMES[name] - WE_ADD - MASK_METHODS
        if not n.startswith(PREFIXES)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_keras_s_plain_names_are_ours(name):
    left_out = set(filter(is_plain, KERAS_NAMES[name] - EVERY_NAME[name]))
    # The loop of a backend; and masks kept on a cell from call to call, which ours draws anew.
    private = OF_CONV_CELL if name.startswith("ConvLSTM") and is_cell(name) else set()
    assert left_out <= {"inner_loop"} | MASK_METHODS | private


OF_KERAS_S_CONSTRUCTOR = ("state_size", "single_state", "states")


def taken_from(name):
    """Keras's class; of those without it, and of wrappers, one that has all these names."""
    alone = is_cell(name) or name in ("Bidirectional", "TimeDistributed")
    every = type("All", (), dict.fromkeys(OF_KERAS_S_CONSTRUCTOR))
    return every if alone else getattr(keras.layers, name)


def hostile(name):
    """A subclass that sets every plain name which neither Keras's class has nor ours adds."""
    base = getattr(layers, name)
    taken = KERAS_NAMES[name] | WE_ADD
    free = {word for words in EVERY_NAME.values() for word in words} | WORDS
    free |= {word for words in KERAS_NAMES.values() for word in words}
    free = [word for word in free - taken if is_plain(word)]
    # Keras's constructor sets these, and no class of Keras's has them: a subclass may, too.
    free += [word for word in OF_KERAS_S_CONSTRUCTOR if not hasattr(taken_from(name), word)]

    class Hostile(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for word in free:
                setattr(self, word, f"the user's {word}")

    Hostile.__name__ = f"Hostile{name}"
    return keras.saving.register_keras_serializable(package="tests")(Hostile), free


def model_of(cls, name):
    """A model of one layer of the class, or of an RNN of the cell."""
    own = make(layers, name)
    layer = cls.from_config(own.get_config())
    layer = layers.RNN(layer) if is_cell(name) else layer
    inputs = keras.Input(inputs_of(name).shape[1:])
    x = layer(inputs)
    x = keras.layers.Flatten()(x) if name.startswith("ConvLSTM") else x
    return keras.Model(inputs, keras.layers.Dense(1)(x))


@pytest.mark.parametrize("engine", [None, "scan"])
@pytest.mark.parametrize("name", NAMES)
def test_a_subclass_may_set_any_plain_name(name, engine, tmp_path):
    with ostinato.use_engine(engine) if engine else contextlib.nullcontext():
        check_a_hostile_subclass(name, tmp_path)


def check_a_hostile_subclass(name, tmp_path):
    cls, free = hostile(name)
    model, plain = model_of(cls, name), model_of(getattr(layers, name), name)
    plain.set_weights(model.get_weights())
    x = inputs_of(name)
    assert_close(model(x), plain(x), 1e-6)
    for each in (model, plain):  # eagerly, where a step takes seconds to trace
        each.compile("sgd", "mse", run_eagerly=keras.config.backend() == "tensorflow")
        each.fit(x, np.ones((2, 1)), epochs=2, verbose=0)
    assert_close(model.get_weights(), plain.get_weights(), 1e-5)
    model.save(tmp_path / "model.keras")
    ostinato.explain(model)
    layer = model.layers[1]
    if name == "Bidirectional":  # it has no timestep
        pass
    elif name.startswith("ConvLSTM"):  # nor streams
        layers.Bidirectional(layer)(x)
    elif name == "TimeDistributed":  # a stream takes none that's derived from it
        pass
    else:
        stream = ostinato.stream(model, streams=len(x))
        assert_close(stream.run(x)[:, -1], model(x), 1e-5)
        layers.Bidirectional(layer)(x)  # copies it
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded(x), model(x), 1e-6)
    of_ours = loaded.layers[1].cell if is_cell(name) else loaded.layers[1]
    assert len(free) > 50
    assert all(getattr(of_ours, word) == f"the user's {word}" for word in free)
