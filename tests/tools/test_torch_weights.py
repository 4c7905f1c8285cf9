"""from_torch and to_torch: the same weights, the same outputs, both ways."""

import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import layers as keras_layers
from keras import ops

import ostinato
from engines.gradients import double_precision
from ostinato import from_torch, layers, to_torch
from support import LONG, on_one_backend, sample

torch = pytest.importorskip("torch")

KINDS = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN": torch.nn.RNN}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
B, T = 3, 7


def numpy(tensor):
    return tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)


def run(layer, *inputs):
    """Our outputs, as arrays in a list."""
    tensors = [ops.convert_to_tensor(numpy(x)) for x in inputs]
    outputs = layer(tensors[0] if len(tensors) == 1 else tensors)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [ops.convert_to_numpy(y) for y in outputs]


def states_of(kind, module, batch, dtype):
    directions = 2 if module.bidirectional else 1
    shape = (module.num_layers * directions, batch, module.hidden_size)
    return [torch.randn(shape, dtype=dtype) for _ in range(2 if kind == "LSTM" else 1)]


def batch_major(state):
    return numpy(state).swapaxes(0, 1)


def torch_results(module, x, states=None):
    """PyTorch's outputs for x (B, T, D), and its final states, batch-major all."""
    with torch.no_grad():
        given = x if module.batch_first else x.swapaxes(0, 1)
        start = states if states is None or len(states) > 1 else states[0]
        output, final = module(given, tuple(start) if isinstance(start, list) else start)
    output = output if module.batch_first else output.swapaxes(0, 1)
    final = final if isinstance(final, tuple) else (final,)
    return [numpy(output), *map(batch_major, final)]


# Each option with each kind, and all sizes odd: kind, D, U, layers, bidirectional, dtype, options.
CASES = [
    ("LSTM", 3, 5, 1, False, torch.float32, {"batch_first": True}),
    ("LSTM", 1, 1, 2, True, torch.float64, {"bias": False}),
    ("LSTM", 17, 33, 3, False, torch.float32, {}),
    ("LSTM", 5, 7, 3, True, torch.float64, {"batch_first": True, "dropout": 0.3}),
    ("GRU", 3, 5, 1, False, torch.float64, {}),
    ("GRU", 4, 6, 1, True, torch.float32, {"bias": False, "batch_first": True}),
    ("GRU", 17, 33, 3, True, torch.float32, {"dropout": 0.5}),
    ("GRU", 1, 2, 2, False, torch.float64, {"bias": False}),
    ("RNN", 3, 5, 1, True, torch.float64, {"nonlinearity": "relu"}),
    ("RNN", 17, 33, 2, False, torch.float32, {"batch_first": True, "bias": False}),
    ("RNN", 2, 3, 3, True, torch.float32, {"nonlinearity": "relu", "dropout": 0.1}),
    ("RNN", 1, 1, 1, False, torch.float32, {}),
]


def made(case):
    kind, features, units, count, bidirectional, dtype, options = case
    torch.manual_seed(3)
    module = KINDS[kind](
        features, units, num_layers=count, bidirectional=bidirectional, dtype=dtype, **options
    )
    return module.eval(), torch.randn(B, T, features, dtype=dtype)


@pytest.mark.parametrize("case", sample(CASES, *CASES[::3]), ids=str)
def test_same_outputs_both_ways(case):
    module, x = made(case)
    tolerance = TOLERANCE[case[5]]
    expected = torch_results(module, x)[0]
    with double_precision():
        layer = from_torch(module)
        (output,) = run(layer, x)
        assert output.dtype == expected.dtype
        np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance)
        back = to_torch(layer).eval()
    assert type(back) is type(module)
    assert back.batch_first
    for name in ("mode", "input_size", "hidden_size", "num_layers", "bias", "dropout"):
        assert getattr(back, name) == getattr(module, name), name
    np.testing.assert_allclose(torch_results(back, x)[0], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", sample(CASES[1:11:3], CASES[1]), ids=str)
def test_same_states_in_and_out(case):
    module, x = made(case)
    states = states_of(case[0], module, B, case[5])
    expected = torch_results(module, x, states)
    with double_precision():
        model = from_torch(module, return_state=True, initial_state=True)
        results = run(model, x, *map(batch_major, states))
        back = to_torch(model).eval()
    assert len(results) == len(expected)
    for ours, theirs in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[case[5]])
    for ours, theirs in zip(torch_results(back, x, states), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[case[5]])


def test_final_states_can_be_predicted_in_batches():
    module, x = made(CASES[5])
    expected = torch_results(module, x)
    for ours, theirs in zip(
        from_torch(module, return_state=True).predict(numpy(x), batch_size=2, verbose=0),
        expected,
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell(kind):
    module = getattr(torch.nn, f"{kind}Cell")(3, 5)
    x, states = torch.randn(B, 3), [torch.randn(B, 5) for _ in range(2 if kind == "LSTM" else 1)]
    cell = from_torch(module)
    _, ours = cell(
        ops.convert_to_tensor(numpy(x)), [ops.convert_to_tensor(numpy(s)) for s in states]
    )
    given = tuple(states) if kind == "LSTM" else states[0]
    for again in (module, to_torch(cell)):
        theirs = again(x, given)
        for a, b in zip(ours, theirs if kind == "LSTM" else [theirs], strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(a), numpy(b), rtol=0, atol=1e-6)


@on_one_backend
def test_a_cell_keeps_its_nonlinearity_and_that_it_has_no_bias():
    module = torch.nn.RNNCell(3, 5, bias=False, nonlinearity="relu")
    back = to_torch(from_torch(module))
    assert (back.nonlinearity, back.bias) == ("relu", False)


def test_what_is_made():
    one = from_torch(torch.nn.GRU(3, 5, bidirectional=True))
    assert type(one) is layers.Bidirectional
    assert type(one.forward_layer) is layers.GRU
    stack = from_torch(torch.nn.RNN(3, 5, num_layers=2, dropout=0.25, nonlinearity="relu"))
    assert [type(layer) for layer in stack.layers] == [
        layers.SimpleRNN,
        keras_layers.Dropout,
        layers.SimpleRNN,
    ]
    assert stack.layers[1].rate == 0.25
    last = from_torch(torch.nn.LSTM(3, 5, num_layers=2), return_sequences=False)
    assert last.output_shape == (None, 5)


def test_one_layer_can_be_trained_and_saved(tmp_path):
    module, x = made(CASES[2])
    model = from_torch(module)
    model.compile("sgd", "mse")
    model.fit(numpy(x), np.zeros((B, T, 33), "float32"), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = torch_results(to_torch(model).eval(), x)[0]
    np.testing.assert_allclose(run(again, x)[0], expected, rtol=0, atol=1e-6)


# --- state dicts --------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 5, 2, bidirectional=True)})
        self.head = torch.nn.Linear(10, 1)


def test_a_module_that_holds_one_and_its_state_dict():
    net, x = Net(), torch.randn(B, T, 3)
    module = net.encoder["lstm"]
    expected = torch_results(module, x)[0]
    arrays = {name: numpy(tensor) for name, tensor in net.state_dict().items()}
    for source, prefix in [
        (net.encoder, None),
        (net, "encoder.lstm"),
        (net.state_dict(), "encoder.lstm"),
        (arrays, "encoder.lstm."),
        (module.state_dict(), ""),
    ]:
        np.testing.assert_allclose(
            run(from_torch(source, prefix=prefix), x)[0], expected, rtol=0, atol=1e-6
        )


@pytest.mark.skipif(keras.config.backend() == "torch", reason="Keras runs on PyTorch here")
@pytest.mark.skipif(keras.config.backend() == "tensorflow" and not LONG, reason="in `make long`")
def test_a_state_dict_of_arrays_needs_no_torch(tmp_path):
    state = {name: numpy(tensor) for name, tensor in torch.nn.GRU(3, 5).state_dict().items()}
    np.savez(tmp_path / "gru.npz", **state)
    code = (
        "import sys, numpy as np; sys.modules['torch'] = None\n"
        "import ostinato\n"
        f"print(ostinato.from_torch(dict(np.load({str(tmp_path / 'gru.npz')!r}))).units)\n"
        "ostinato.to_torch(ostinato.layers.LSTM(2))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == "5\n", done.stderr
    assert "ImportError: to_torch: expected PyTorch to be installed" in done.stderr


def test_an_rnns_state_dict_needs_its_nonlinearity():
    module = torch.nn.RNN(3, 5, nonlinearity="relu")
    with pytest.raises(ValueError, match="expected `nonlinearity`, 'tanh' or 'relu'"):
        from_torch(module.state_dict())
    layer = from_torch(module.state_dict(), nonlinearity="relu")
    assert layer.activation is keras.activations.relu
    with pytest.raises(ValueError, match="or 'relu', which the RNN has, got 'tanh'"):
        from_torch(module, nonlinearity="tanh")
    with pytest.raises(ValueError, match="to be 'tanh' or 'relu', got 'gelu'"):
        from_torch(module, nonlinearity="gelu")


def state_dict(**changes):
    """Of an LSTM with two layers, with entries replaced, or left out where they're None."""
    state = {**torch.nn.LSTM(3, 5, num_layers=2).state_dict(), **changes}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (state_dict(bias_hh_l1=None), r"entries are missing: bias_hh_l1\."),
        (state_dict(weight_hh_l0=None, bias_ih_l0=None), "missing: weight_hh_l0, bias_ih_l0"),
        (state_dict(bias_ih_l0=None, bias_ih_l1=None), r"missing: bias_ih_l0, bias_ih_l1\."),
        (
            {n: w for n, w in state_dict(weight_hh_l1=None).items() if "bias" not in n},
            r"missing: weight_hh_l1\.",
        ),
        (state_dict(weight_ih_l0=None), "expected the entries of a recurrent module, such as"),
        (state_dict(scale=torch.ones(3)), r"got also \['scale'\]"),
        (state_dict(weight_ih_l1=torch.ones(20, 3)), r"weight_ih_l1': .* \(20, 5\) .* \(20, 3\)"),
        (state_dict(bias_ih_l0=torch.ones(19)), r"'bias_ih_l0': .* \(20,\) .* got \(19,\)"),
        (state_dict(weight_hh_l0=torch.ones(21, 5)), r"\(gates \* units, units\).*\(21, 5\)"),
        (state_dict(weight_hh_l0=torch.ones(20)), r"\(gates \* units, units\).*\(20,\)"),
        (state_dict(weight_ih_l0_reverse=torch.ones(20, 3)), "missing: .*weight_hh_l0_reverse"),
        (state_dict(bias_ih_l0=torch.ones(20, dtype=torch.float64)), "one dtype, .*float64"),
        (state_dict(bias_ih_l0=np.ones(20, "int32")), "'bias_ih_l0': expected .* floats.* int32"),
        (state_dict(bias_ih_l0=None, bias_hh_l0=None), "missing: bias_ih_l0, bias_hh_l0"),
        ({**torch.nn.GRUCell(3, 5).state_dict(), **torch.nn.GRU(3, 5).state_dict()}, "got both"),
        (state_dict(weight_ih_l3=torch.ones(20, 5)), "missing: weight_ih_l2, .*weight_hh_l3"),
        ({}, r"such as 'weight_ih_l0'.* got \[\]"),
        (torch.nn.LSTM(3, 5, proj_size=2), "`proj_size`, whose output is a projection"),
        (torch.nn.Linear(3, 5), r"expected one recurrent module .* Linear, got 0"),
        (torch.nn.ModuleList([torch.nn.GRU(1, 1), torch.nn.GRU(1, 1)]), "Choose one by `prefix`"),
        (torch.nn.ModuleList([torch.nn.GRU(1, 1) for _ in "ab"]).state_dict(), "'0', '1'"),
        (7, "expected a torch.nn module or a state dict, got int"),
    ],
)
def test_what_from_torch_refuses(source, message):
    with pytest.raises(ValueError, match=f"from_torch: .*{message}"):
        from_torch(source)


def test_a_prefix_that_leads_nowhere():
    net = Net()
    with pytest.raises(ValueError, match=r"one of \['encoder.lstm'\], got 'decoder'"):
        from_torch(net, prefix="decoder")
    with pytest.raises(ValueError, match=r"'decoder.weight_ih_l0'.* prefix 'encoder.lstm'"):
        from_torch(net.state_dict(), prefix="decoder")


def test_a_cell_has_no_sequences():
    with pytest.raises(ValueError, match="no `return_state` and no `initial_state` for a cell"):
        from_torch(torch.nn.LSTMCell(3, 5), return_state=True)


# --- to_torch -----------------------------------------------------------------------------------


def built(layer):
    layer.build((None, None, 3))
    return layer


def branches():
    x = keras.Input((None, 5))
    return keras.Model(x, [layers.GRU(5)(x), layers.GRU(5)(x)])


def sequential(*parts):
    return keras.Sequential([keras.Input((None, 3)), *parts])


def lstm():
    return layers.LSTM(5, return_sequences=True)


def all_of(*parts):
    """Layers, with a number standing for the Dropout of that rate."""
    return [keras_layers.Dropout(part) if isinstance(part, float) else part for part in parts]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.LSTM(5), "expected a built layer"),
        (lambda: built(layers.LSTM(5, "relu")), "activation 'tanh' .*got relu and sigmoid"),
        (lambda: built(layers.GRU(5, recurrent_activation="hard_sigmoid")), "and hard_sigmoid"),
        (lambda: built(layers.SimpleRNN(5, "linear")), "'tanh' or 'relu'.* got linear"),
        (lambda: built(layers.GRU(5, reset_after=False)), "reset_after=True"),
        (lambda: built(layers.LSTM(5, go_backwards=True)), "go_backwards=True, but"),
        (lambda: built(layers.Bidirectional(layers.GRU(5), "sum")), "'concat', .* got 'sum'"),
        (lambda: built(layers.RNN(layers.LSTMCell(5))), "expected a layer of ostinato.layers"),
        (lambda: built(keras_layers.LSTM(5)), "got LSTM layer '.*' of keras"),
        (lambda: sequential(layers.LSTM(5), keras_layers.Dense(2)), "got Dense layer"),
        (
            lambda: sequential(layers.LSTM(5, return_sequences=True), layers.GRU(5)),
            "layers of one kind",
        ),
        (lambda: sequential(layers.LSTM(5), keras_layers.Dropout(0.1)), "Dropout between"),
        (
            lambda: sequential(*all_of(lstm(), 0.1, lstm(), 0.2, lstm())),
            r"got .* with the rates \[0.1, 0.2\]",
        ),
        (lambda: sequential(*all_of(lstm(), lstm(), 0.1, lstm())), r"with the rates \[0.1\]"),
        (
            lambda: built(
                layers.Bidirectional(
                    layers.LSTM(5),
                    backward_layer=layers.LSTM(5, use_bias=False, go_backwards=True),
                )
            ),
            "two directions with the same settings, got .*bias=True.* and .*bias=False",
        ),
        (branches, "run one over the other, but GRU layer"),
        (lambda: 7, "expected a layer of ostinato.layers"),
    ],
)
def test_what_to_torch_refuses(make, message):
    with pytest.raises(ValueError, match=f"to_torch: .*{message}"):
        to_torch(make())


def test_dropout_within_a_layer_is_left_out_with_a_warning():
    layer = built(layers.GRU(5, dropout=0.1, recurrent_dropout=0.2))
    with pytest.warns(UserWarning, match=r"dropout=0.1 and recurrent_dropout=0.2 are left out"):
        to_torch(layer)
    with pytest.warns(UserWarning, match=r"dropout=0.0 and recurrent_dropout=0.2 are left out"):
        to_torch(built(layers.LSTM(5, recurrent_dropout=0.2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        to_torch(built(layers.GRU(5)))


def test_both_are_public_names():
    assert {"from_torch", "to_torch"} <= set(ostinato.__all__)
