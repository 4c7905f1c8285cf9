"""Nested inputs, states and outputs."""

from collections import namedtuple

import keras
import numpy as np
import pytest
from keras import ops, tree
from refusals import refuses

from ostinato import Shape
from ostinato.layers import LSTM, RNN, Bidirectional, LSTMCell
from support import DictCell, NestedCell, PenState, array, assert_close, dict_cell_by_numpy, numpy

LOCATION, PRESSURE = array(0, 4, 5, 2), array(1, 4, 5, 3, 1)
PEN = {"location": LOCATION, "pressure": PRESSURE}
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)


def guide_model(**options):
    """The guide's functional model, with inputs of unknown length."""
    inputs = keras.Input((None, 3)), keras.Input((None, 4, 3))
    outputs = RNN(NestedCell(2, 3, 4), **options)(inputs)
    return keras.Model(list(inputs), outputs)


def test_guides_nested_model_trains_with_two_inputs_and_two_targets():
    model = guide_model()
    assert [tuple(output.shape) for output in model.outputs] == [(None, 2), (None, 3, 4)]
    model.compile(optimizer="adam", loss="mse", metrics=["mae", "mae"])
    inputs = [array(0, 16, 6, 3), array(1, 16, 6, 4, 3)]
    targets = [array(2, 16, 2), array(3, 16, 3, 4)]
    history = model.fit(inputs, targets, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize("unroll", [False, True])
def test_dicts_and_namedtuples_keep_their_containers(unroll, mask):
    layer = RNN(DictCell(), return_sequences=True, return_state=True, unroll=unroll)
    output, states = layer(PEN, mask=mask)
    expected_output, expected_states = dict_cell_by_numpy(LOCATION, PRESSURE, mask=mask)
    assert sorted(output) == ["force", "where"]
    assert isinstance(states["pen"], PenState)
    assert_close(output, expected_output)
    assert_close(states, expected_states)


def test_last_output_is_the_last_of_the_sequence():
    sequence = RNN(DictCell(), return_sequences=True)(PEN, mask=MASK)
    last = RNN(DictCell())(PEN, mask=MASK)
    assert_close(last, {key: value[:, -1] for key, value in numpy(sequence).items()})


def test_zero_output_for_mask_zeroes_every_leaf():
    layer = RNN(DictCell(), return_sequences=True, zero_output_for_mask=True)
    held, _ = dict_cell_by_numpy(LOCATION, PRESSURE, mask=MASK)
    expected = {
        "where": np.where(MASK[..., None], held["where"], 0),
        "force": np.where(MASK[..., None, None], held["force"], 0),
    }
    assert_close(layer(PEN, mask=MASK), expected)


def test_go_backwards_reverses_every_leaf_of_inputs_and_mask():
    layer = RNN(DictCell(), return_sequences=True, go_backwards=True)
    expected, _ = dict_cell_by_numpy(LOCATION[:, ::-1], PRESSURE[:, ::-1], mask=MASK[:, ::-1])
    assert_close(layer(PEN, mask=MASK), expected)


def test_initial_state_comes_in_any_containers():
    states = array(2, 4, 2), array(3, 4, 3, 1), array(4, 4, 1)
    nested = {"count": states[2], "pen": PenState(states[0], states[1])}
    loose = {"pen": [states[0], states[1]], "count": states[2]}
    expected, _ = dict_cell_by_numpy(LOCATION, PRESSURE, states=states)
    layer = RNN(DictCell(), return_sequences=True)
    assert_close(layer(PEN, initial_state=nested), expected)
    assert_close(layer(PEN, initial_state=loose), expected)
    assert_close(layer(PEN, initial_state=[nested]), expected)


def test_both_directions_take_nested_states_one_after_the_other():
    both = Bidirectional(RNN(DictCell(), return_sequences=True), merge_mode=None)
    given = [
        {"count": array(s, 4, 1), "pen": PenState(array(s + 1, 4, 2), array(s + 2, 4, 3, 1))}
        for s in (2, 5)
    ]
    there, back = both(PEN, initial_state=given)
    back = {name: numpy(y)[:, ::-1] for name, y in back.items()}
    assert_close(there, both.forward_layer(PEN, initial_state=given[0]))
    assert_close(back, both.backward_layer(PEN, initial_state=given[1]))


def test_names_are_never_matched_by_position():
    states = {"h": array(0, 4, 4), "c": array(1, 4, 4)}
    layer, x = LSTM(4, stateful=True, name="named"), array(2, 4, 5, 3)
    both = Bidirectional(LSTM(4))
    words = ["expected initial_state", "(4, 4)", "A dict fits"]
    for call in (lambda **k: layer(x, **k), lambda **k: layer(keras.Input((5, 3), 4), **k)):
        refuses(words, call, initial_state=states)
        refuses(words, call, initial_state=[states])
    refuses(["expected states", "A dict fits"], layer.reset_states, states)
    refuses("initial_state", both, x, initial_state=[states, states])
    refuses("initial_state", both, x, initial_state={**states, "f": states["h"], "g": states["c"]})
    stack = RNN([LSTMCell(4), LSTMCell(4)])
    refuses("A dict fits", stack, x, initial_state=[states, states])
    right = layer(x, initial_state=[states["h"], states["c"]])
    as_named = namedtuple("States", ["h", "c"])(**states)  # it has an order
    assert_close(layer(x, initial_state=as_named), right)

    class Named(keras.layers.Layer):
        state_size = property(lambda self: {"h": 4, "c": 4})
        returned = staticmethod(lambda h, c: {"c": c, "h": h})

        def call(self, inputs, states):
            h, c = states["h"] + 1.0, states["c"] + 2.0
            return h + c, self.returned(h, c)

    class InOrder(Named):
        returned = staticmethod(lambda h, c: [h, c])

    class Misnamed(Named):
        returned = staticmethod(lambda h, c: {"h": h, "cell": c})

    class DictForList(keras.layers.Layer):
        state_size = property(lambda self: [4, 4])

        def call(self, inputs, states):
            return states[0], {"h": states[0], "c": states[1]}

    named = RNN(Named())
    assert_close(named(x, initial_state=states), states["h"] + states["c"] + 15.0)
    for wrong in ([states["h"], states["c"]], {"h": states["h"], "cell": states["c"]}):
        refuses("A dict fits" if isinstance(wrong, dict) else "'h'", named, x, initial_state=wrong)
    for cell in (InOrder(), Misnamed(), DictForList()):
        refuses(["returned new states", "don't match its state_size"], RNN(cell), x)


def test_bidirectional_merges_every_leaf():
    layer = Bidirectional(RNN(DictCell(), return_sequences=True, return_state=True))
    output, forward_state, backward_state = layer(PEN)
    forward, states = dict_cell_by_numpy(LOCATION, PRESSURE)
    backward, backward_states = dict_cell_by_numpy(LOCATION[:, ::-1], PRESSURE[:, ::-1])
    expected = {
        key: np.concatenate([forward[key], backward[key][:, ::-1]], axis=-1) for key in forward
    }
    assert_close(output, expected)
    assert_close(forward_state, states)
    assert_close(backward_state, backward_states)


def test_nested_outputs_feed_the_next_layer():
    inputs = {"location": keras.Input((None, 2)), "pressure": keras.Input((None, 3, 1))}
    first = RNN(DictCell(), return_sequences=True)(inputs)
    assert tuple(first["force"].shape) == (None, None, 3, 1)
    renamed = {"location": first["where"], "pressure": first["force"]}
    second = RNN(DictCell())(renamed)
    model = keras.Model(inputs, second)
    one, _ = dict_cell_by_numpy(LOCATION, PRESSURE)
    two, _ = dict_cell_by_numpy(one["where"], one["force"])
    assert_close(model(PEN), {key: value[:, -1] for key, value in two.items()})


def test_stacked_cells_pass_nested_outputs_on():
    layer = RNN([NestedCell(2, 4, 3), NestedCell(3, 2, 2)], return_state=True)
    x = (array(0, 4, 5, 2), array(1, 4, 5, 2, 3))
    output, first, second = layer(x)
    lower = RNN(layer.cell.cells[0], return_sequences=True)(x)
    assert_close(output, RNN(layer.cell.cells[1])(lower))
    assert [s.shape[1:] for s in tree.flatten(first)] == [(2,), (4, 3)]
    assert [s.shape[1:] for s in tree.flatten(second)] == [(3,), (2, 2)]


def test_stateful_nested_states_carry_from_batch_to_batch():
    layer = RNN(DictCell(), stateful=True, return_sequences=True)
    halves = [
        {key: value[:, part] for key, value in PEN.items()} for part in (slice(3), slice(3, 5))
    ]
    outputs = [numpy(layer(half)) for half in halves]
    expected, states = dict_cell_by_numpy(LOCATION, PRESSURE)
    for key, value in expected.items():
        assert_close(np.concatenate([output[key] for output in outputs], axis=1), value)
    assert_close(tree.map_structure(lambda v: v.value, layer.states), states)
    layer.reset_states()
    assert_close(layer(halves[0]), outputs[0])


@pytest.mark.parametrize("kind", ["eager", "functional"])
def test_saved_and_loaded_nested_models_agree(kind, tmp_path):
    if kind == "functional":
        model = guide_model(return_sequences=True)
        x = [array(0, 2, 3, 3), array(1, 2, 3, 4, 3)]
    else:
        inputs = {"location": keras.Input((None, 2)), "pressure": keras.Input((None, 3, 1))}
        model = keras.Model(inputs, RNN(DictCell(0.25), return_sequences=True)(inputs))
        x = PEN
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras")(x), model(x), 1e-6)


class Tally:
    """A plain object as a cell: counts and sums, with states in a container it changes."""

    state_size = (1, Shape(2))
    output_size = 2

    def __call__(self, inputs, states):
        count, total = states
        return total, [count + 1.0, total + inputs]


class Bare:
    """A cell with one state that it returns bare."""

    state_size = 3

    def call(self, inputs, states):
        return inputs + states[0], inputs + states[0]


class Stateless:
    """A cell without states."""

    state_size = ()
    output_size = 3

    def call(self, inputs, states):
        return 2.0 * inputs, states


def test_a_plain_object_with_dunder_call_is_a_cell():
    x = array(0, 4, 5, 2)
    output, count, total = RNN(Tally(), return_sequences=True, return_state=True)(x)
    sums = np.cumsum(x, axis=1)
    assert_close(output, np.concatenate([np.zeros((4, 1, 2)), sums[:, :-1]], axis=1))
    assert_close(count, np.full((4, 1), 5.0))
    assert_close(total, sums[:, -1])


def test_a_single_new_state_may_come_bare():
    x = array(0, 4, 5, 3)
    output, state = RNN(Bare(), return_state=True)(x)
    assert_close(output, x.sum(axis=1))
    assert_close(state, x.sum(axis=1))


def test_a_cell_without_states_is_fine():
    x = array(0, 4, 5, 3)
    assert_close(RNN(Stateless(), return_sequences=True)(x), 2 * x)
    assert_close(
        RNN(Stateless())(x, mask=MASK), 2 * np.where(MASK.any(1)[:, None], last_valid(x), 0)
    )


def last_valid(x):
    """Each row's input at its last valid timestep."""
    last = MASK.shape[1] - 1 - MASK[:, ::-1].argmax(axis=1)
    return x[np.arange(len(x)), last]


def test_an_undeclared_output_size_is_found_by_running_the_cell():
    class Wide(keras.layers.Layer):
        state_size = 3

        def call(self, inputs, states):
            return ops.concatenate([inputs, states[0]], axis=-1), [states[0] + inputs]

    x = array(0, 4, 5, 3)
    layer = RNN(Wide())
    assert layer(x).shape == (4, 6)
    assert RNN(Wide(), return_sequences=True)(keras.Input((None, 3))).shape == (None, None, 6)


def test_a_framework_shape_spells_one_state():
    class Rows:
        def __init__(self, size):
            self.state_size = size
            self.output_size = size

        def call(self, inputs, states):
            return inputs + states[0], [inputs + states[0]]

    class AsList:
        def as_list(self):
            return [3, 2]

    x = array(0, 2, 4, 3, 2)
    for size in (Shape(3, 2), AsList()):
        assert_close(RNN(Rows(size))(x), x.sum(axis=1))
    assert_close(RNN(Rows((Shape(3, 2),)))(x), [x.sum(axis=1)])


def test_constants_reach_every_timestep_of_every_cell_that_takes_them():
    class Scaled(keras.layers.Layer):
        state_size = 3
        output_size = 3

        def call(self, inputs, states, constants=None):
            h = states[0] + constants[0] * inputs
            return h, [h]

    x, scale = array(0, 4, 5, 3), array(1, 4, 3)
    expected = scale * x.sum(axis=1)
    assert_close(RNN(Scaled())(x, constants=[scale]), expected)
    stack = RNN([Scaled(), LSTMCell(2)], return_state=True)
    _, state, _ = stack(x, constants=[scale])
    assert_close(state, expected)
    merged = Bidirectional(RNN(Scaled()), merge_mode="sum")(x, constants=[scale])
    assert_close(merged, 2 * expected)
    inputs, constants = keras.Input((None, 3)), keras.Input((3,))
    model = keras.Model([inputs, constants], RNN(Scaled())(inputs, constants=[constants]))
    assert_close(model([x, scale]), expected)


def test_one_bare_constant_comes_as_a_list_of_one():
    class Shifted:
        state_size = 3

        def call(self, inputs, states, constants):
            (shift,) = constants
            return states[0], [states[0] + inputs + shift]

    x, shift = array(0, 4, 5, 3), array(1, 4, 3)
    _, state = RNN(Shifted(), return_state=True)(x, constants=shift)
    assert_close(state, x.sum(axis=1) + 5 * shift)


class Counting(keras.layers.Layer):
    """A cell with a count of ints, by which it looks up a row."""

    def __init__(self):
        super().__init__()
        self.state_size = {"count": 1, "total": 2}
        self.output_size = 2

    def build(self, input_shape):
        self.table = self.add_weight(shape=(20, 2), name="table")

    def call(self, inputs, states):
        row = ops.take(self.table, states["count"][:, 0], axis=0)
        total = states["total"] + row * inputs
        return total, {"count": states["count"] + 1, "total": total}

    def get_initial_state(self, batch_size=None):
        return {"count": ops.zeros((batch_size, 1), "int32"), "total": ops.zeros((batch_size, 2))}


def test_states_of_ints_stay_ints():
    x = array(0, 3, 4, 2)
    layer = RNN(Counting(), return_state=True)
    _, states = layer(x[:, :2])
    output, _ = layer(x[:, 2:], initial_state=states)
    whole, _ = layer(x)
    assert_close(output, whole)
    stateful = RNN(layer.cell, stateful=True)
    stateful(x[:, :2])
    assert_close(stateful(x[:, 2:]), whole)
    assert stateful.states["count"].dtype == "int32"


def test_masked_nested_sequences_train_on_several_targets():
    inputs = {"location": keras.Input((None, 2)), "pressure": keras.Input((None, 3, 1))}
    masked = {**inputs, "location": keras.layers.Masking()(inputs["location"])}
    model = keras.Model(inputs, RNN(DictCell(), return_sequences=True)(masked))
    model.compile("sgd", "mse")
    targets = {"where": array(2, 4, 5, 2), "force": array(3, 4, 5, 3, 1)}
    assert np.isfinite(model.fit(PEN, targets, verbose=0).history["loss"]).all()


class NeedsConstants(keras.layers.Layer):
    """A cell that can't be called without constants, and says nothing of its output."""

    state_size = 3

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 3), name="kernel")

    def call(self, inputs, states, constants):
        h = ops.matmul(inputs, self.kernel) + states[0] + constants[0]
        return h, [h]


def test_a_cell_that_needs_constants_stands_in_a_functional_model():
    inputs, shift = keras.Input((None, 2)), keras.Input((3,))
    model = keras.Model([inputs, shift], RNN(NeedsConstants())(inputs, constants=[shift]))
    assert model([array(0, 4, 5, 2), array(1, 4, 3)]).shape == (4, 3)
