"""PyTorch's door to cuDNN: one operation under torch.compile, no waits, and what it refuses."""

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers
from ostinato.cudnn import CudnnSpec
from ostinato.doors import door

if keras.config.backend() != "torch":
    pytest.skip("PyTorch's door", allow_module_level=True)

import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from ostinato.doors import torch_cudnn
from support import one_in

MODES = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}


@pytest.fixture(autouse=True)
def _forced():
    with ostinato.use_engine("cudnn"):
        yield


def call_of(mode, directions=2, time=4):
    """A spec and tensors for it, in float64."""
    torch.manual_seed(0)
    spec = CudnnSpec(mode, directions, 3, 2)
    size = sum(int(np.prod(shape)) for shape in spec.parameters)
    states = tuple(torch.randn(directions, 5, 2).double() for _ in range(MODES[mode]))
    tensors = (torch.randn(5, time, 3).double(), states, torch.randn(size).double())
    for tensor in (tensors[0], *states, tensors[2]):
        tensor.requires_grad_()
    return spec, tensors


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("directions", [1, 2])
def test_the_operation_is_the_plain_call(mode, directions):
    spec, (x, states, parameters) = call_of(mode, directions)
    arguments = (x, list(states), parameters, tuple(MODES).index(mode), *spec[1:])
    sources = (x, *states, parameters)
    plain = door.cudnn(spec, x, states, parameters)
    as_one = torch.ops.ostinato.cudnn.default(*arguments)
    for one, other in zip(as_one, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert all(result.is_contiguous() for result in as_one)
    upstream = [torch.randn_like(result) for result in plain]
    # of some results alone, too: autograd has no gradient of the others then
    for picked in (slice(None), slice(1), slice(1, None)):
        got, expected = (
            torch.autograd.grad(
                list(of)[picked], sources, upstream[picked], retain_graph=True, allow_unused=True
            )
            for of in (as_one, plain)
        )
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.ostinato.cudnn.default, arguments, test_utils=tests)


@pytest.mark.parametrize("kind", one_in(3, ["LSTM", "GRU", "SimpleRNN"]))
def test_compiled_layers_are_one_operation_in_one_graph(kind):
    """The loop over 50 timesteps isn't in the graph."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    layer = layers.Bidirectional(getattr(layers, kind)(4, return_sequences=True), merge_mode="sum")
    x = torch.randn(2, 50, 3, requires_grad=True)
    mask = torch.rand(2, 50) < 0.6
    layer.build(x.shape)
    weights = [variable.value for variable in layer.trainable_variables]
    run = lambda x: layer(x, mask=mask)  # noqa: E731
    compiled = torch.compile(run, backend=backend, fullgraph=True)
    results = compiled(x), run(x)
    torch.testing.assert_close(*results)
    calls = [str(node.target) for node in graphs[0].graph.nodes if "cudnn" in str(node.target)]
    assert len(graphs) == 1
    assert len(calls) == (2 if kind == "SimpleRNN" else 1)
    one, other = (torch.autograd.grad(y.pow(2).sum(), [x, *weights]) for y in results)
    torch.testing.assert_close(one, other)
    through_aot = torch.compile(run, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(torch.autograd.grad(through_aot.pow(2).sum(), [x, *weights]), other)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("wrap", [False, True])
def test_nothing_depends_on_numbers(kind, wrap):
    """Tensors without numbers pass through: nothing waits for a GPU to tell how long a row is."""
    with FakeTensorMode():
        initial = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
        layer = getattr(layers, kind)(3, return_sequences=True, return_state=True, **initial)
        layer = layers.Bidirectional(layer) if wrap else layer
        layer.build((2, 5, 4))
        x = torch.empty(2, 5, 4, requires_grad=True)
        output, *_ = layer(x, mask=torch.ones(2, 5, dtype=torch.bool))
        output.sum().backward()
        assert output.shape == (2, 5, 6 if wrap else 3)
        with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
            output.sum().item()


class Operations(TorchDispatchMode):
    """The names of the operations that are run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("cls", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("wrap", [False, True])
def test_no_number_is_brought_to_the_gpu_nor_fetched_from_it(cls, wrap):
    """Either waits for it, and keeps the call out of a CUDA graph."""
    layer = getattr(layers, cls)(3, return_sequences=True, return_state=True, go_backwards=True)
    layer = layers.Bidirectional(layer) if wrap else layer
    x, mask = torch.randn(2, 5, 4, requires_grad=True), torch.rand(2, 5) < 0.6
    layer(x, mask=mask)
    with Operations() as seen:
        output, *_ = layer(x, mask=mask)
        output.sum().backward()
    assert not [name for name in seen.names if "lift" in name or "local_scalar" in name]


@pytest.mark.parametrize("directions", [1, 2])
def test_parameters_lie_as_in_cudnn_s_own_buffer(monkeypatch, directions):
    """All kernels, direction by direction, and then all biases: else PyTorch copies them."""
    seen = []
    run = torch._VF.lstm
    monkeypatch.setattr(torch._VF, "lstm", lambda *a: seen.append(a[2]) or run(*a), raising=False)
    spec, (x, states, parameters) = call_of("lstm", directions)
    door.cudnn(spec, x, states, parameters)
    given = seen[0]
    each = len(given) // directions
    by_direction = [given[i * each : (i + 1) * each] for i in range(directions)]
    in_order = [p for own in by_direction for p in own[:2]]
    in_order += [p for own in by_direction for p in own[2:]]
    place = 0
    for parameter in in_order:
        assert parameter.is_contiguous()
        assert parameter.storage_offset() == place
        assert parameter.data_ptr() == parameters.data_ptr() + 8 * place
        place += parameter.numel()
    assert place == parameters.numel()


def test_what_it_refuses(monkeypatch):
    x = torch.zeros(2, 3, 4)
    assert door.cudnn_why_not(x) is None
    with forward_ad.dual_level():
        assert "forward-mode" in door.cudnn_why_not(x)
    assert "NVIDIA" in door.cudnn_why_not(_On("mps"))
    assert "dense" in door.cudnn_why_not(torch.zeros(2, 2).to_sparse())
    reasons = []
    torch.func.vmap(lambda row: reasons.append(door.cudnn_why_not(row)) or row)(x)
    assert "torch.func" in reasons[0]
    torch.jit.trace(lambda x: reasons.append(door.cudnn_why_not(x)) or x + 0, x)
    assert "has to run where Ostinato isn't installed" in reasons[1]
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    assert "has no cuDNN" in door.cudnn_why_not(_On("cuda"))
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    assert door.cudnn_why_not(_On("cuda")) is None
    with torch.backends.cudnn.flags(enabled=False):
        assert "enabled is False" in door.cudnn_why_not(_On("cuda"))
    assert [door.device_of(_On(name)) for name in ("cuda", "cpu", "meta", "mps")] == [
        *("cuda", "cpu", "cpu", "mps")
    ]


class _On:
    layout = torch.strided
    shape = (2, 3, 4)

    def __init__(self, device):
        self.device = torch.device(device)


def test_precision_is_pytorch_s_setting(monkeypatch):
    assert torch_cudnn.cudnn_precision("float32") == "tf32"  # its default
    setting = torch.backends.cudnn.rnn
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "ieee"
        assert torch_cudnn.cudnn_precision("float32") == "float32"
    finally:
        setting.fp32_precision = before
    assert torch_cudnn.cudnn_precision("float16") == "float16"
