"""What is refused, and in which words: the layer, what it expected, what it got."""

import keras
import numpy as np
import pytest
from refusals import refuses

from ostinato import Shape, use_engine
from ostinato.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    GRUCell,
    LSTMCell,
    StackedRNNCells,
    TimeDistributed,
)
from ostinato.layers.planning import EngineError
from support import DictCell, NestedCell, array, assert_close, numpy

X = array(0, 4, 5, 3)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3, 2), (4,)])
def test_inputs_of_the_wrong_rank(shape):
    refuses(["lstm", "ndim=3", f"ndim={len(shape)}"], LSTM(4), np.zeros(shape, "float32"))


def test_inputs_without_a_time_axis():
    layer = RNN(LSTMCell(4), name="my_rnn")
    refuses(
        ["RNN layer 'my_rnn'", "(batch, timesteps, ...)", "(4,)"], layer, np.zeros(4, "float32")
    )


@pytest.mark.parametrize(
    "wrap", [lambda layer: layer, Bidirectional, lambda layer: RNN(layer.cell)]
)
def test_stacked_layers_of_which_the_lower_gives_its_last_output_alone(wrap):
    for inputs in (keras.Input((5, 3)), X):
        refuses(
            ["(batch, timesteps, features)", "return_sequences=True"], wrap(GRU(2)), LSTM(4)(inputs)
        )
    refuses("return_sequences=True", GRU(2).build, (None, 4))
    lower = LSTM(4, return_sequences=True, return_state=True)
    words = ["return_state=True", "A Sequential can't take the two apart"]
    refuses(words, lambda: keras.Sequential([keras.Input((5, 3)), lower, GRU(3)]))


@pytest.mark.parametrize(
    "make", [GRU, lambda u, **k: RNN(GRUCell(u), **k), lambda u, **k: Bidirectional(GRU(u), **k)]
)
def test_sequences_of_unlike_lengths(make):
    layer, words = make(3, name="reader"), ["'reader'", "Pad the sequences"]
    objects = np.empty(2, object)
    objects[:] = [X[0], X[0, :2]]
    refuses([*words, "an array of objects"], layer, objects)
    refuses([*words, "a list of numbers"], layer, [[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]])
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        ragged = tf.RaggedTensor.from_row_lengths(tf.zeros((7, 3)), [5, 2])
        refuses([*words, "a RaggedTensor"], layer, ragged)
        refuses([*words, "a RaggedTensor"], keras.Sequential([layer]).predict, ragged)
        mask = tf.ragged.constant([[True], [True, True]])
        refuses(
            ["(batch, timesteps) = (2, 5), got RaggedTensor"], layer, tf.zeros((2, 5, 3)), mask=mask
        )
    if keras.config.backend() == "torch":
        import torch

        parts = [torch.zeros(5, 3), torch.zeros(2, 3)]
        for layout in (torch.strided, torch.jagged):
            nested = torch.nested.nested_tensor(parts, layout=layout)
            refuses([*words, "a nested tensor"], layer, nested)
        refuses([*words, "PackedSequence"], layer, torch.nn.utils.rnn.pack_sequence(parts))


def test_sparse_inputs():
    words = ["'reader'", "dense, got a sparse tensor"]
    layer, x = LSTM(4, name="reader"), np.zeros((2, 5, 3), "float32")
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        refuses([*words, "tf.sparse.to_dense"], layer, tf.sparse.from_dense(x))
    elif keras.config.backend() == "torch":
        import torch

        refuses([*words, "x.to_dense"], layer, torch.tensor(x).to_sparse())
        for layout in (torch.sparse_csr, torch.sparse_csc):
            refuses([*words, "x.to_dense"], layer, torch.tensor(x).to_sparse(layout=layout))
    else:
        from jax.experimental import sparse

        refuses([*words, "x.todense"], layer, sparse.BCOO.fromdense(x))


def test_states_beside_the_inputs_as_in_keras_2():
    h = array(1, 4, 6)
    words = ["'reader'", "one tensor", "3 in a list", "[(4, 5, 3), (4, 6), (4, 6)]"]
    layer = LSTM(6, name="reader")
    refuses(["LSTM layer", *words, "`initial_state=`"], layer, [X, h, h])
    layer(X)
    refuses(["LSTM layer", *words, "`initial_state=`"], layer, [X, h, h])
    both = Bidirectional(LSTM(6), name="reader")
    refuses(["Bidirectional layer", *words, "`initial_state=`"], both, [X, h, h])
    words = ["2 in a tuple", "(None, 6)", "A Sequential can't take the two apart"]
    refuses(words, GRU(6), (keras.Input((5, 3)), keras.Input((6,))))
    refuses(["timesteps disagree", "`initial_state=`"], RNN(LSTMCell(6)), [X, h, h])


def test_features_changed_after_build():
    layer = LSTM(4, name="first")
    layer(X)
    refuses(["LSTM layer 'first'", "(3,)", "(2,)"], layer, X[..., :2])
    refuses(["LSTM layer 'first'", "(3,)", "(7,)"], layer, keras.Input((None, 7)))


def test_batch_size_changed_under_stateful():
    layer = GRU(4, stateful=True, name="kept")
    layer(X)
    words = ["GRU layer 'kept'", "Expected batch size: 4", "Received batch size: 2"]
    refuses(words, layer, X[:2])


def test_stateful_without_a_batch_size():
    refuses(
        ["LSTM layer 's'", "stateful", "batch_shape"],
        LSTM(4, stateful=True, name="s"),
        keras.Input((5, 3)),
    )


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (4,), (4, 6, 5), (5, 4), ()])
def test_a_mask_of_the_wrong_shape(shape):
    layer = LSTM(4, name="masked")
    words = ["LSTM layer 'masked'", "mask of shape (batch, timesteps)", str(shape)]
    refuses(words, layer, X, mask=np.ones(shape, bool))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([array(0, 4, 6)], ["2 tensors", "[(4, 6)]"]),
        ([array(0, 4, 6)] * 3, ["2 tensors", "[(4, 6), (4, 6), (4, 6)]"]),
        ([array(0, 4, 6), array(0, 4, 5)], ["initial_state[1]", "(4, 6)", "(4, 5)"]),
        ([array(0, 3, 6), array(0, 3, 6)], ["initial_state[0]", "(4, 6)", "(3, 6)"]),
        (array(0, 4, 6), ["2 tensors", "(4, 6)"]),
        (5, ["2 tensors", "got 5."]),
        (np.float32(5), ["2 tensors", "got a scalar."]),
        ("zeros", ["2 tensors", "got 'zeros'."]),
        ([1.0, 2.0, 3.0], ["2 tensors", "got [1.0, 2.0, 3.0]."]),
        ([1.0, 2.0], ["initial_state[0]", "a tensor", "got 1.0."]),
        (np.zeros((4, 99)).tolist(), ["2 tensors", "... 99 in all]"]),
    ],
)
def test_initial_states_of_the_wrong_number_or_shape(given, words):
    refuses(["LSTM layer 'started'", *words], LSTM(6, name="started"), X, initial_state=given)


def test_initial_states_of_the_wrong_structure():
    x = {"location": array(0, 4, 5, 2), "pressure": array(1, 4, 5, 3, 1)}
    states = {"pen": array(0, 4, 2), "counts": array(0, 4, 1)}
    words = ["RNN layer", "initial_state", "'pen'", "'counts'"]
    refuses(words, RNN(DictCell()), x, initial_state=states)
    refuses(
        ["Bidirectional layer", "forward layer"],
        Bidirectional(GRU(2)),
        X,
        initial_state=[array(0, 4, 2)],
    )
    refuses(
        ["Bidirectional layer", "forward layer", "got 5."],
        Bidirectional(GRU(2)),
        X,
        initial_state=5,
    )


def test_nested_inputs_that_disagree():
    layer = RNN(NestedCell(2, 3, 4), name="nest")
    words = ["RNN layer 'nest'", "numbers of timesteps", "input[0]", "(4, 5, 3)", "(4, 6, 4, 3)"]
    refuses(words, layer, (array(0, 4, 5, 3), array(1, 4, 6, 4, 3)))
    words = ["RNN layer 'nest'", "batch sizes", "(2, 5, 4, 3)"]
    refuses(words, layer, (array(0, 4, 5, 3), array(1, 2, 5, 4, 3)))
    layer((array(0, 4, 5, 3), array(1, 4, 5, 4, 3)))
    refuses(
        ["'nest'", "input[1]", "(4, 3)", "(4, 2)"], layer, (array(0, 4, 5, 3), array(1, 4, 5, 4, 2))
    )
    refuses(["'nest'", "2 input tensors", "got 1"], layer, X)


def test_unroll_with_unknown_time():
    layer = LSTM(4, unroll=True, name="flat")
    refuses(["LSTM layer 'flat'", "unroll", "time"], layer, keras.Input((None, 3)))


def test_what_is_no_cell():
    refuses(["RNN", "`call`"], RNN, 3)

    class NoSize(keras.layers.Layer):
        def call(self, inputs, states):
            return inputs, states

    refuses(["RNN", "state_size"], RNN, NoSize())
    refuses(["StackedRNNCells", "state_size"], StackedRNNCells, [LSTMCell(2), NoSize()])
    refuses(["at least one cell"], RNN, [])
    refuses(["RNN", "the class LSTMCell", "`LSTMCell(units)`"], RNN, LSTMCell)
    refuses(["StackedRNNCells", "the class GRUCell"], StackedRNNCells, [GRUCell])


@pytest.mark.parametrize(
    "layer", [LSTM(4), RNN(LSTMCell(4)), Bidirectional(LSTM(4)), keras.layers.GRU(4)]
)
def test_a_layer_for_a_cell(layer):
    words = ["expected a cell", "one timestep", f"{type(layer).__name__} layer '{layer.name}'"]
    refuses(["RNN", *words], RNN, layer)
    refuses(["StackedRNNCells", *words], StackedRNNCells, [layer])


@pytest.mark.parametrize("size", [0, -1, 2.5, "4", [3, "x"], {"a": None}])
def test_a_state_size_that_is_none(size):
    class Cell:
        state_size = size

        def call(self, inputs, states):
            return inputs, states

    refuses(["state_size of", "Cell", "positive ints or shapes"], RNN, Cell())


class Wrong(keras.layers.Layer):
    """A cell whose states or outputs don't match what it declares."""

    def __init__(self, result, state_size, output_size=3, **kwargs):
        super().__init__(**kwargs)
        self.result, self.state_size, self.output_size = result, state_size, output_size

    def call(self, inputs, states):
        return self.result(inputs, states)


WRONG = [
    (Wrong(lambda x, s: (x, [x[:, :2]]), 3), ["new state[0]", "(4, 2)", "state_size says (4, 3)"]),
    (
        Wrong(lambda x, s: (x, {"a": x, "b": x[:, :1]}), {"a": 3, "b": Shape(3)}),
        ["new state['b']", "(4, 1)", "(4, 3)"],
    ),
    (Wrong(lambda x, s: (x, [x, x]), 3), ["new states [(4, 3), (4, 3)]", "state_size"]),
    (Wrong(lambda x, s: (x, []), (3, 3)), ["new states []", "state_size"]),
    (Wrong(lambda x, s: (x[:, :1], s), 3), ["output of shape (4, 1)", "output_size says (4, 3)"]),
    (Wrong(lambda x, s: ((x, x), s), 3), ["output", "((4, 3), (4, 3))", "output_size"]),
    (Wrong(lambda x, s: x, 3), ["must return (output, new_states)"]),
    (Wrong(lambda x, s: 5, 3), ["must return (output, new_states)", "got 5."]),
    (Wrong(lambda x, s: None, 3), ["must return (output, new_states)", "got None."]),
    (Wrong(lambda x, s: (x, 6), 3), ["new state[0] as a tensor", "got 6."]),
    (Wrong(lambda x, s: (x, [x, 6]), (3, 3)), ["new state[1] as a tensor", "got 6."]),
    (Wrong(lambda x, s: (5, 6), 3), ["output as a tensor", "got 5."]),
    (Wrong(lambda x, s: (5, 6), 3, None), ["output as a tensor", "got 5."]),
]


@pytest.mark.parametrize(("cell", "words"), WRONG)
def test_a_cell_whose_results_dont_match_its_sizes(cell, words):
    refuses(["RNN layer 'looping'", "Wrong layer", *words], RNN(cell, name="looping"), X)


def test_a_stack_called_bare_whose_cell_returns_a_number():
    stack = StackedRNNCells([GRUCell(3), Wrong(lambda x, s: 5, 3)])
    x, h = array(0, 4, 3), array(1, 4, 3)
    refuses(["StackedRNNCells layer", "Wrong layer", "got 5."], stack, x, [[h], [h]])


@pytest.mark.skipif(
    keras.config.backend() == "torch", reason="Keras's own symbolic run stops; it names the cell"
)
@pytest.mark.parametrize("result", [5, (5, 6)])
def test_a_symbolic_run_of_a_cell_that_returns_numbers(result):
    cell = Wrong(lambda x, s: result, 3, None)
    refuses(["Wrong layer", "`call`"], RNN(cell), keras.Input((5, 3)))


def test_initial_states_of_a_cell_that_dont_match_its_sizes():
    class Cell(Wrong):
        def get_initial_state(self, batch_size=None):
            return keras.ops.zeros((batch_size, 2))

    cell = Cell(lambda x, s: (x, s), 3)
    refuses(["get_initial_state", "(4, 3)", "(4, 2)"], RNN(cell), X)


def test_constants_for_a_cell_that_takes_none():
    refuses(["LSTM layer", "constants"], LSTM(4), X, constants=[X])


class Shifted(keras.layers.Layer):
    """A cell that takes a constant."""

    state_size = output_size = 3

    def call(self, inputs, states, constants):
        h = inputs + states[0] + constants[0]
        return h, [h]


@pytest.mark.parametrize("given", [0.5, "a", [[1.0, 2.0, 3.0]], {"a": 1}])
def test_constants_that_are_no_tensors(given):
    words = ["RNN layer 'shifts'", "expected constants[0]", "to be a tensor or an array"]
    refuses(words, RNN(Shifted(), name="shifts"), X, constants=given)


def test_constants_in_a_nest_run_on_the_portable_engine():
    class Named(Shifted):
        def call(self, inputs, states, constants):
            return super().call(inputs, states, [constants[0]["a"]])

    constant = array(1, 4, 3)
    expected = RNN(Shifted())(X, constants=constant)
    assert_close(RNN(Named())(X, constants={"a": constant}), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LSTM(2, name="a"),
        lambda: RNN(GRUCell(2), name="a"),
        lambda: Bidirectional(GRU(2), name="a"),
        lambda: TimeDistributed(keras.layers.Dense(2), name="a"),
    ],
)
def test_arguments_of_a_call_that_are_mistyped(make):
    layer = make()
    refuses(["layer 'a'", "`trainin`", "`training`"], layer, X, trainin=True)
    refuses(["layer 'a'", "no argument `colour`."], layer, X, colour=True)
    if not isinstance(layer, TimeDistributed):
        refuses(["layer 'a'", "did you mean `initial_state`?"], layer, X, intial_states=[X[:, 0]])
        refuses(["layer 'a'", "did you mean `initial_state`?"], layer, X, states=[X[:, 0]])
    for given in (None, 1.0, "text"):
        refuses(["layer 'a'", "expected a tensor or an array, got"], layer, given)


@pytest.mark.parametrize("layer", [LSTM(2), RNN(GRUCell(2)), Bidirectional(GRU(2))])
def test_features_whose_number_is_unknown(layer):
    words = ["Cell layer '", "known number of features, got (None, None)"]
    refuses(words, layer, keras.Input((6, None)))


def test_arguments_of_a_call_that_a_subclass_takes():
    class Scaled(GRU):
        def call(self, sequences, initial_state=None, scale=1.0, **kwargs):
            return super().call(sequences, initial_state, **kwargs) * scale

    layer = Scaled(2)
    assert_close(layer(X, scale=2.0, mask=np.ones((4, 5), bool)), 2.0 * numpy(layer(X)))


@pytest.mark.parametrize("make", [lambda: LSTM(2), lambda: RNN(GRUCell(2), name="lstm")])
def test_inputs_of_complex_numbers(make):
    refuses(["layer 'lstm", "expected inputs of real numbers"], make(), X.astype("complex64"))


def test_shapes_of_other_things():
    for shape in (None, 5, "abc"):
        for method in (LSTM(2).build, LSTM(2).compute_output_shape):
            refuses("expected a shape, such as (None, 10, 8)", method, shape)
    for size in (AsList([None, 3]), AsList("ab"), AsList(5)):
        cell = GRUCell(2)
        cell.state_size = size
        refuses(["state_size of GRUCell layer", "expected a shape of positive ints"], RNN, cell)
    layer = TimeDistributed(keras.layers.Dense(2), name="a")
    refuses(["layer 'a'", "(batch, timesteps, ...)"], layer.compute_output_shape, (3,))


class AsList:
    """A shape as TensorFlow's, with anything in it."""

    def __init__(self, dimensions):
        self.dimensions = dimensions

    def as_list(self):
        return self.dimensions


@pytest.mark.parametrize("states", [None, [], [[X[:, 0]]] * 3, {"a": X[:, 0]}])
def test_a_stack_called_bare_with_other_states(states):
    stack = StackedRNNCells([GRUCell(3), LSTMCell(3)], name="two")
    refuses(["layer 'two'", "one entry for each of its 2 cells"], stack.call, X[:, 0], states)


def test_states_set_on_a_layer_that_keeps_none():
    refuses(["LSTM layer", "stateful=True"], LSTM(4).reset_state, [X])
    layer = LSTM(4, stateful=True)
    refuses(["LSTM layer", "2 tensors", "got 5."], layer.reset_states, 5)
    layer(X)
    refuses(["LSTM layer", "2 tensors", "got 5."], layer.reset_states, 5)
    refuses(
        ["LSTM layer", "states[1]", "(4, 4)", "(4, 5)"],
        layer.reset_states,
        [array(0, 4, 4), array(0, 4, 5)],
    )


def test_shapes_that_are_none():
    refuses(["Shape", "positive ints"], Shape, 0)
    refuses(["Shape", "positive ints"], Shape, 2.5)


def test_bidirectional_layers_that_dont_fit():
    refuses("Bidirectional", Bidirectional, 3)
    refuses(["Bidirectional", "recurrent layer"], Bidirectional, keras.layers.Dense(3))
    refuses(["Bidirectional", "Invalid merge mode", "max"], Bidirectional, GRU(3), merge_mode="max")
    refuses("go_backwards", Bidirectional, GRU(3), backward_layer=GRU(3))
    backwards = GRU(3, go_backwards=True, return_sequences=True)
    refuses("return_sequences", Bidirectional, GRU(3), backward_layer=backwards)


@pytest.mark.parametrize("mode", ["sum", "mul", "ave"])
def test_bidirectional_layers_of_different_sizes_that_would_be_added(mode):
    sizes = {"merge_mode": mode, "backward_layer": LSTM(4, go_backwards=True)}
    words = ["Bidirectional layer", repr(mode), "(batch, 3)", "(batch, 4)", "'concat'"]
    refuses(words, Bidirectional, LSTM(3), **sizes)


def test_bidirectional_layers_of_different_sizes():
    for mode, shapes in {"concat": (4, 7), None: [(4, 3), (4, 4)]}.items():
        layer = Bidirectional(LSTM(3), mode, backward_layer=LSTM(4, go_backwards=True))
        output = layer(X)
        shape = tuple(output.shape) if mode else [tuple(each.shape) for each in output]
        assert shape == shapes


def test_bidirectional_layers_whose_sums_broadcast():
    layer = Bidirectional(LSTM(3), "sum", backward_layer=LSTM(1, go_backwards=True))
    assert tuple(layer(X).shape) == (len(X), 3)
    assert layer(keras.Input((5, 3))).shape == (None, 3)


def test_bidirectional_of_layers_that_are_not_ours():
    x = np.zeros((2, 3, 6, 6, 1), "float32")
    states = [np.ones((2, 4, 4, 2), "float32")] * 4
    wrapped = keras.layers.ConvLSTM2D(2, 3)
    assert tuple(Bidirectional(wrapped)(x, initial_state=states).shape) == (2, 4, 4, 4)


def test_bidirectional_cells_of_different_sizes_that_declare_none():
    class Narrow(keras.layers.Layer):
        state_size = 3

        def call(self, inputs, states):
            return inputs, states

    class Wide(Narrow):
        def call(self, inputs, states):
            return keras.ops.concatenate([inputs, inputs], axis=-1), states

    layer = Bidirectional(RNN(Narrow()), "sum", backward_layer=RNN(Wide(), go_backwards=True))
    refuses(["Bidirectional layer", "(None, 3)", "(None, 6)"], layer, keras.Input((5, 3)))


def test_initial_states_for_no_batch():
    for owner in (LSTM(4), GRUCell(4), RNN(StackedRNNCells([GRUCell(4)]))):
        words = [f"{type(owner).__name__} layer", "batch size", "None"]
        refuses(words, owner.get_initial_state, None)


def test_configs_without_what_they_are_about():
    refuses(
        ["Bidirectional", "entry 'layer'", "['name']"], Bidirectional.from_config, {"name": "x"}
    )
    refuses(["RNN", "'cell'", "['units']"], RNN.from_config, {"units": 3})
    refuses(["StackedRNNCells", "'cells'", "[]"], StackedRNNCells.from_config, {})


def test_symbolic_calls_refuse_what_eager_calls_refuse():
    inputs = keras.Input(batch_shape=(4, 5, 3))
    refuses(["LSTM layer", "mask of shape"], LSTM(4), inputs, mask=keras.Input(batch_shape=(4, 4)))
    refuses(["LSTM layer", "initial_state"], LSTM(4), inputs, initial_state=[keras.Input((4,))])
    wrong = [keras.Input((4,)), keras.Input((5,))]
    refuses(["LSTM layer", "initial_state[1]"], LSTM(4), inputs, initial_state=wrong)


def test_a_plain_cell_without_a_config_cant_be_saved():
    class Cell:
        state_size = 2

        def call(self, inputs, states):
            return inputs, states

    refuses(["RNN layer", "get_config", "Cell"], RNN(Cell()).get_config)


def test_a_bare_cell_refuses_what_doesnt_fit():
    cell, x, h = LSTMCell(3, name="bare"), array(0, 4, 2), array(1, 4, 3)
    refuses(["LSTMCell layer 'bare'", "2 tensors", "[(4, 3)]"], cell, x, [h])
    refuses(
        ["LSTMCell layer 'bare'", "states[1]", "(4, 3)", "(4, 5)"], cell, x, [h, array(0, 4, 5)]
    )
    refuses(["'bare'", "(batch, features)", "(4, 5, 3)"], cell, X, [h, h])
    refuses(["StackedRNNCells", "list of at least one cell"], StackedRNNCells, LSTMCell(3))


def test_a_cell_without_states_or_output_size_needs_one():
    class Cell:
        state_size = ()

        def call(self, inputs, states):
            return inputs, states

    assert RNN(Cell())(X).shape == (4, 3)
    refuses(["Cell object", "output_size"], RNN(Cell()), keras.Input((5, 3)))


def test_a_mask_that_is_no_tensor():
    refuses(["LSTM layer", "mask that is a tensor"], LSTM(4), X, mask=[[True] * 5] * 4)


def test_a_cell_that_needs_constants_and_builds_nothing():
    class Cell(keras.layers.Layer):
        state_size = 3

        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs, states, constants):
            return self.dense(inputs) + constants[0], states

    refuses(["Cell layer", "`build`", "constants"], RNN(Cell()), X, constants=[array(0, 4, 3)])


def test_a_cell_whose_call_takes_no_states():
    class Stateless(keras.layers.Layer):
        state_size = 3

        def call(self, inputs, training=False):
            return inputs

    class Keyword(keras.layers.Layer):
        state_size = 3

        def call(self, inputs, *, states):
            return inputs, states

    for cell in (Stateless(), Keyword()):
        with pytest.raises(ValueError, match="expected a cell whose `call` takes"):
            RNN(cell)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="AutoGraph is TensorFlow's")
def test_errors_keep_their_type_in_functions_that_autograph_rewrites():
    import tensorflow as tf

    with use_engine("cudnn"), pytest.raises(EngineError, match=r"LSTM layer .*'cudnn' is"):
        tf.function(LSTM(4))(X)
    with pytest.raises(ValueError, match=r"^LSTM: "):
        tf.function(lambda x: LSTM(4, activation="no such")(x))(X)
