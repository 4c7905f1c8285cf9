"""from_torch and to_torch: what they refuse, and that the errors say why."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as keras_layers
from keras import ops

from ostinato import from_torch, layers, to_torch
from support import elsewhere_in_long

pytestmark = elsewhere_in_long


torch = pytest.importorskip("torch")

# --- to_torch: graphs that no PyTorch module has ------------------------------------------------


def lstm(**options):
    return layers.LSTM(5, return_sequences=True, **options)


def sequences():
    return keras.Input((None, 5))


def one_layer_twice():
    x, layer = sequences(), lstm()
    return keras.Model(x, layer(layer(x)))


def one_layer_twice_with_dropout():
    x, layer, dropout = sequences(), lstm(), keras_layers.Dropout(0.1)
    return keras.Model(x, layer(dropout(layer(x))))


def handed_over():
    x = sequences()
    h, *states = lstm(return_state=True)(x)
    return keras.Model(x, lstm()(h, initial_state=states))


def partly_from_outside():
    x, h, c = sequences(), keras.Input((5,)), keras.Input((5,))
    return keras.Model([x, h, c], lstm()(lstm()(x), initial_state=[h, c]))


def one_state_for_two():
    x, h = sequences(), keras.Input((5,))
    gru = layers.GRU(5, return_sequences=True)(x, initial_state=h)
    return keras.Model([x, h], layers.GRU(5)(gru, initial_state=h))


def states_out_of_order():
    x, h = sequences(), keras.Input((2, 5))
    gru = layers.GRU(5, return_sequences=True)(x, initial_state=h[:, 1])
    return keras.Model([x, h], layers.GRU(5)(gru, initial_state=h[:, 0]))


def state_from_the_sequences():
    x = sequences()
    return keras.Model(x, layers.GRU(5)(x, initial_state=x[:, 0]))


def rows_of_the_batch():
    x, h = sequences(), keras.Input((2, 5))
    gru = layers.GRU(5, return_sequences=True)(x, initial_state=h[1:, 0])
    return keras.Model([x, h], layers.GRU(5)(gru, initial_state=h[1:, 1]))


def part_of_a_row():
    x, h = sequences(), keras.Input((2, 7))
    return keras.Model([x, h], layers.GRU(5)(x, initial_state=h[:, 0, 2:]))


def row_of_an_output():
    x, h = sequences(), keras.Input((2, 5))
    gru = layers.GRU(5, return_sequences=True)(x, initial_state=h[:, 0])
    return keras.Model([x, h], layers.GRU(5)(gru, initial_state=gru[:, 1]))


def no_recurrent_layer():
    x = sequences()
    return keras.Model(x, keras_layers.Dropout(0.1)(x))


def both_outputs():
    x = sequences()
    first = lstm()(x)
    return keras.Model(x, [first, lstm()(first)])


def both_outputs_last_first():
    x = sequences()
    first = lstm()(x)
    return keras.Model(x, [lstm()(first), first])


def state_alone():
    x = sequences()
    return keras.Model(x, layers.GRU(5, return_state=True)(x)[1])


def indexed():
    x = sequences()
    return keras.Model(x, lstm()(x)[:, -1])


def indexed_before():
    x = keras.Input((None, 4, 5))
    return keras.Model(x, lstm()(x[:, 0]))


def states_of_one_stacked():
    x = sequences()
    first, h, c = lstm(return_state=True)(x)
    second, *_ = lstm(return_state=True)(first)
    return keras.Model(x, [second, ops.stack([h, c], axis=1)])


def states_on(axis):
    x = sequences()
    first, h, _ = lstm(return_state=True)(x)
    second, g, _ = lstm(return_state=True)(first)
    return keras.Model(x, [second, ops.stack([h, g], axis=axis)])


def with_a_mask():
    x, mask = sequences(), keras.Input((None,), dtype="bool")
    return keras.Model([x, mask], lstm()(x, mask=mask))


class OfTheUser(keras.Model):
    def __init__(self):
        super().__init__()
        self.lstm = lstm()

    def call(self, x):
        return -self.lstm(x)


def subclassed():
    model = OfTheUser()
    model(np.zeros((1, 2, 5), "float32"))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (one_layer_twice, r"called once, but LSTM layer '.*' of model '.*' is called again"),
        (one_layer_twice_with_dropout, "is called again"),
        (handed_over, "hands no state from layer to layer"),
        (partly_from_outside, "each with its own that are inputs of the model"),
        (one_state_for_two, "each with its own that are inputs of the model"),
        (states_out_of_order, "each with its own that are inputs of the model"),
        (rows_of_the_batch, "each with its own that are inputs of the model"),
        (part_of_a_row, "each with its own that are inputs of the model"),
        (row_of_an_output, "each with its own that are inputs of the model"),
        (state_from_the_sequences, "each with its own that are inputs of the model"),
        (no_recurrent_layer, r"recurrent layers, one after the other, .*got \['Dropout'\]"),
        (both_outputs, "what its last layer gives, .* its output 0 is something else"),
        (both_outputs_last_first, "its output 1 is something else"),
        (state_alone, "its output 0 is something else"),
        (indexed, "its output 0 is something else"),
        (indexed_before, r"LSTM layer '.*' of model '.*' runs over something else"),
        (states_of_one_stacked, "its output 1 is something else"),
        (lambda: states_on(0), "its output 1 is something else"),
        (lambda: states_on(2), "its output 1 is something else"),
        (lambda: states_on(-1), "its output 1 is something else"),
        (lambda: states_on(-3), "its output 1 is something else"),
        (with_a_mask, "is called with a mask, constants or training=True"),
        (subclassed, "a `call` of its own"),
        (lambda: keras.Sequential([lstm()]), "model 'sequential.*': expected a built model"),
    ],
)
def test_graphs_that_to_torch_refuses(make, message):
    with pytest.raises(ValueError, match=f"to_torch: .*{message}"):
        to_torch(make())


def last_with_states():
    x = sequences()
    return keras.Model(x, layers.LSTM(5, return_state=True)(x))


def states_in_and_out():
    x, h, c = sequences(), keras.Input((5,)), keras.Input((5,))
    return keras.Model([x, h, c], lstm(return_state=True)(x, initial_state=[h, c]))


def states_before_the_sequences():
    x, h = sequences(), keras.Input((5,))
    return keras.Model([h, x], layers.GRU(5)(x, initial_state=h))


def dropout_between():
    x = sequences()
    return keras.Model(x, lstm()(keras_layers.Dropout(0.1)(lstm()(x))))


def used_elsewhere():
    x, layer = sequences(), lstm()
    layer(sequences())
    return keras.Model(x, layer(x))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (last_with_states, 1),
        (states_in_and_out, 1),
        (states_before_the_sequences, 1),
        (dropout_between, 2),
        (used_elsewhere, 1),
        (lambda: states_on(1), 2),
        (lambda: states_on(-2), 2),
    ],
)
def test_graphs_that_to_torch_takes(make, count):
    model = make()
    module = to_torch(model).eval()
    assert module.num_layers == count
    x = np.random.default_rng(3).normal(size=(2, 4, 5)).astype("float32")
    given = [x if len(i.shape) == 3 else np.zeros((2, 5), "float32") for i in model.inputs]
    ours = model(given if len(given) > 1 else x)
    ours = ops.convert_to_numpy(ours[0] if isinstance(ours, (list, tuple)) else ours)
    with torch.no_grad():
        theirs = module(torch.tensor(x))[0].numpy()
    np.testing.assert_allclose(ours, theirs if ours.ndim == 3 else theirs[:, -1], atol=1e-6)


def test_a_model_with_states_from_a_file(tmp_path):
    module = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True)
    from_torch(module, return_state=True, initial_state=True).save(tmp_path / "model.keras")
    back = to_torch(keras.saving.load_model(tmp_path / "model.keras"))
    assert back.num_layers == 2
    for name, tensor in module.state_dict().items():
        if name.startswith("weight"):
            assert torch.equal(back.state_dict()[name], tensor), name


# --- from_torch ---------------------------------------------------------------------------------


def state_dict(**changes):
    return {**torch.nn.LSTM(3, 5).state_dict(), **changes}


def with_weight_norm(module, name="weight_hh_l0"):
    return torch.nn.utils.parametrizations.weight_norm(module, name)


def with_old_weight_norm():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return torch.nn.utils.weight_norm(torch.nn.LSTM(3, 5), "weight_hh_l0")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda: state_dict(weight_ih_l9999999=torch.ones(20, 5)),
            r"missing: weight_ih_l1, .*, weight_hh_l9999999, .*l9999999\.$",
        ),
        (
            lambda: state_dict(**{f"weight_ih_l{i}": np.ones((20, 5)) for i in range(2, 99)}),
            r"weight_hh_l3 and 287 more\.$",
        ),
        (lambda: state_dict(**{f"weight_ih_l{'9' * 5000}": torch.ones(20, 5)}), "got also"),
        (lambda: {f"{i}.weight_ih_l0": np.ones(1) for i in range(99)}, "got 99; .*'13'.* and more"),
        (lambda: with_weight_norm(torch.nn.LSTM(3, 5)), "'weight_hh_l0' itself, .*weight_norm"),
        (lambda: with_weight_norm(torch.nn.GRU(3, 5), "weight_ih_l0"), "'weight_ih_l0' itself"),
        (lambda: with_weight_norm(torch.nn.GRU(3, 5)).state_dict(), "'weight_hh_l0' itself"),
        (with_old_weight_norm, "'weight_hh_l0' itself, got 'weight_hh_l0_g'"),
        (lambda: {0: np.ones(3), **state_dict()}, r"names, got one with the key 0 \(int\)"),
        (lambda: state_dict(weight_ih_l0=np.float32(1)), r"'weight_ih_l0': .*features.* got \(\)"),
        (lambda: state_dict(weight_ih_l0=torch.ones(20)), r"\(20, features\), got \(20,\)"),
        (
            lambda: state_dict(weight_hh_l0=torch.ones(20, 0)),
            r"\(gates \* units, units\).*\(20, 0\)",
        ),
        (lambda: torch.nn.LSTM(3, 5, device="meta"), "'weight_ih_l0': .*with values.* meta"),
        (
            lambda: state_dict(weight_ih_l0=torch.ones(20, 3).to_sparse()),
            "'weight_ih_l0': expected a dense tensor .* torch.sparse_coo",
        ),
        (
            lambda: state_dict(weight_ih_l0=torch.ones(20, 3, dtype=torch.int32)),
            "'weight_ih_l0': expected .* floats, got Tensor of int32",
        ),
    ],
)
def test_sources_that_from_torch_refuses(source, message):
    with pytest.raises(ValueError, match=f"from_torch: .*{message}") as caught:
        from_torch(source())
    assert len(str(caught.value)) < 6000


@pytest.mark.parametrize("source", [torch.nn.LSTM, np.ndarray, layers.LSTM])
def test_a_class_is_no_module(source):
    message = f"expected a torch.nn module or a state dict, got the class {source.__name__}"
    with pytest.raises(ValueError, match=message):
        from_torch(source)


@pytest.mark.parametrize("rate", [None, 0, 0.3, 1.0])
def test_a_state_dict_has_the_rate_that_is_given(rate):
    state = torch.nn.LSTM(3, 5, num_layers=3, dropout=0.5).state_dict()
    found = from_torch(state, dropout=rate).layers
    rates = [each.rate for each in found if isinstance(each, keras_layers.Dropout)]
    assert rates == ([rate] * 2 if rate else [])


@pytest.mark.parametrize("rate", [1.5, -0.1, "a", True, [0.5], float("nan")])
@pytest.mark.parametrize("count", [1, 2])
def test_a_rate_is_a_number_from_0_to_1(rate, count):
    with pytest.raises(ValueError, match="from_torch: expected `dropout` to be a number from 0 to"):
        from_torch(torch.nn.LSTM(3, 5, num_layers=count), dropout=rate)


@pytest.mark.parametrize("make", [torch.nn.LSTM, torch.nn.GRU, torch.nn.LSTMCell])
@pytest.mark.parametrize("of", [lambda module: module, lambda module: module.state_dict()])
def test_a_nonlinearity_that_is_anothers(make, of):
    kind = make.__name__.removesuffix("Cell")
    message = f"expected no `nonlinearity` or 'tanh', which the {kind} has, got 'relu'"
    with pytest.raises(ValueError, match=message):
        from_torch(of(make(3, 5)), nonlinearity="relu")
    made = from_torch(of(make(3, 5)), nonlinearity="tanh")
    assert made.activation is keras.activations.tanh


def test_a_prefix_where_there_is_nothing():
    lstm, two = torch.nn.LSTM(3, 5), torch.nn.ModuleDict({k: torch.nn.GRU(3, 5) for k in "ab"})
    for source, message in (
        (lstm, r"one of \[''\] \('' is the LSTM itself\), got 'x'"),
        (two, r"in the ModuleDict a .* is, one of \['a', 'b'\], got 'x'"),
        (lstm.state_dict(), "expected an entry 'x.weight_ih_l0', got such entries with none"),
        (two.state_dict(), "got such entries with the prefix 'a' or the prefix 'b'"),
    ):
        with pytest.raises(ValueError, match=f"from_torch: .*{message}"):
            from_torch(source, prefix="x")
    with pytest.raises(ValueError, match=r"one recurrent module .* got 2: \['a', 'b'\]\. Choose o"):
        from_torch(two)
    state = {f"{name}.weight_ih_l0": np.ones(1) for name in "abcdef"}
    with pytest.raises(ValueError, match=r" or the prefix 'e' or the prefix 'f'\.$"):
        from_torch(state, prefix="x")
    state["g.weight_ih_l0"] = np.ones(1)
    with pytest.raises(ValueError, match=r" or the prefix 'e' or the prefix 'f' or others\.$"):
        from_torch(state, prefix="x")


@pytest.mark.parametrize("name", ["return_sequences", "return_state", "initial_state"])
def test_flags_are_true_or_false(name):
    """The states themselves, say, would pass for True."""
    for value in ("yes", 2, [np.zeros((1, 5))]):
        with pytest.raises(ValueError, match=f"from_torch: expected `{name}` to be True or False"):
            from_torch(torch.nn.GRU(3, 5), **{name: value})


def test_a_forward_of_its_own_is_pointed_out():
    class Doubled(torch.nn.GRU):
        def forward(self, *args):
            return [2 * each for each in super().forward(*args)]

    with pytest.warns(UserWarning, match="from_torch: Doubled has a `forward` of its own"):
        from_torch(torch.nn.ModuleList([Doubled(3, 5)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_torch(type("Same", (torch.nn.GRU,), {})(3, 5))
        from_torch(Doubled(3, 5).state_dict())


def test_a_prefix_is_a_string():
    with pytest.raises(ValueError, match="from_torch: expected `prefix` to be a string, got 3"):
        from_torch(torch.nn.LSTM(3, 5), prefix=3)


class WithHead(torch.nn.LSTM):
    """A recurrent module with other modules in it, one of them recurrent."""

    def __init__(self):
        super().__init__(3, 5)
        self.head = torch.nn.Linear(5, 1)
        self.second = torch.nn.GRU(5, 5)


@pytest.mark.parametrize("of", [lambda module: module, lambda module: module.state_dict()])
def test_modules_in_a_recurrent_module_are_passed_over(of):
    module = WithHead()
    layer = from_torch(of(module), prefix="")
    assert type(layer) is layers.LSTM
    np.testing.assert_array_equal(layer.cell.kernel, module.weight_ih_l0.detach().numpy().T)
    del module.second
    assert type(from_torch(of(module))) is layers.LSTM
    holder = torch.nn.ModuleDict({"rnn": module})
    assert type(from_torch(of(holder))) is layers.LSTM


def test_layers_of_two_modules_in_one_model():
    single = [from_torch(torch.nn.LSTM(3, 3)) for _ in range(2)]
    double = [from_torch(torch.nn.GRU(3, 3, num_layers=2)) for _ in range(2)]
    both = [from_torch(torch.nn.GRU(6, 3, bidirectional=True)) for _ in range(2)]
    inside = [layer for stack in double for layer in stack.layers]
    model = keras.Sequential([keras.Input((None, 3)), *single, *inside])
    assert model.output_shape == (None, None, 3)
    assert keras.Sequential([keras.Input((None, 6)), *both]).output_shape == (None, None, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [torch.nn.LSTM, torch.nn.GRU, torch.nn.LSTMCell])
def test_half_precision(make, dtype):
    options = {} if make is torch.nn.LSTMCell else {"bidirectional": True}
    module = make(3, 5, **options).to(dtype)
    layer = from_torch(module)
    assert layer.compute_dtype == str(dtype).removeprefix("torch.")
    for name, tensor in to_torch(layer).state_dict().items():
        if name.startswith("weight"):
            assert torch.equal(tensor, module.state_dict()[name]), name
    cell = getattr(layer, "forward_layer", layer)
    cell = getattr(cell, "cell", cell)
    assert isinstance(cell.recurrent_initializer, keras.initializers.Orthogonal)


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "net"])
def test_a_checkpoint_says_where_its_state_dict_is(key):
    state = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 4)}).state_dict()
    checkpoint = {"epoch": 3, "optimizer_state": {"state": {0: 1}}, key: state}
    message = rf"from_torch: .*a checkpoint: .*of the model, from_torch\(checkpoint\['{key}'\]\)\.$"
    with pytest.raises(ValueError, match=message):
        from_torch(checkpoint)
    checkpoint[key] = {"fc.weight": np.ones((2, 2))}
    with pytest.raises(ValueError, match=r"a checkpoint: .* Give the one of the model\.$"):
        from_torch(checkpoint)


def test_layers_beside_the_recurrent_one_are_not_dropped_without_a_word():
    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.LSTM(3, 4), torch.nn.ReLU())
            self.fc = torch.nn.Linear(4, 2)

    with pytest.raises(
        ValueError,
        match=r"Tagger has .*: \['body.1 \(ReLU\)', 'fc \(Linear\)'\]\. Say prefix='body.0'",
    ):
        from_torch(Tagger())
    with pytest.raises(ValueError, match=r"other layers .*\['fc.weight', 'fc.bias'\].*'body.0'"):
        from_torch(Tagger().state_dict())
    for source in (Tagger(), Tagger().state_dict()):
        assert from_torch(source, prefix="body.0").units == 4


def test_entries_of_other_layers_may_come_first():
    module = torch.nn.ModuleDict({"words": torch.nn.Embedding(7, 3), "rnn": torch.nn.GRU(3, 4)})
    assert from_torch(module.state_dict(), prefix="rnn").units == 4


def test_a_class_of_ones_own_is_told_by_its_module_not_its_name():
    class LSTM(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gates = torch.nn.Linear(3, 4)

    with pytest.raises(ValueError, match=r"from_torch: expected one recurrent module .*got 0"):
        from_torch(torch.nn.Sequential(LSTM()))


def test_nor_weights_of_the_module_that_holds_it():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = torch.nn.GRU(3, 4)
            self.scale = torch.nn.Parameter(torch.ones(4))
            self.register_buffer("mean", torch.ones(4))

    others = r"'scale \(a parameter\)', 'mean \(a buffer\)'"
    with pytest.raises(ValueError, match=rf"Scaled has other .*{others}.*'rnn'"):
        from_torch(Scaled())
