"""The native engine under PyTorch: values, gradients, and each way in which PyTorch runs things."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest

if keras.config.backend() != "torch":
    pytest.skip("for PyTorch", allow_module_level=True)

import torch

from native.on_torch import assert_equal, gradients, run, tensors, total
from native.runs import CASES, KINDS, Case, assert_close, expected
from ostinato import layers, native, signatures
from ostinato.doors import door

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)

FORWARD = torch.ops.ostinato.forward.default
INFER = torch.ops.ostinato.infer.default
BACKWARD = torch.ops.ostinato.backward.default


# Values and gradients.


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(case, dtype):
    wanted, tolerance = expected(case), {torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
    operands = tensors(case, dtype, grad=True)
    results = run(case, operands)
    assert all(y.dtype == dtype for y in results)
    assert_close(results, wanted.results, tolerance)
    needed = {name: operands[name] for name in wanted.gradients}
    seeds = [torch.from_numpy(np.ascontiguousarray(d)).to(dtype) for d in wanted.d_results]
    got = torch.autograd.grad(results, list(needed.values()), seeds)
    assert_close(got, wanted.gradients.values(), 10 * tolerance)
    with torch.no_grad():
        assert_close(run(case, operands), wanted.results, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_several_runs_in_one_call(kind):
    cases = [Case(kind), Case("lstm", mask=True, sizes=(2, 6, 3, 5), return_sequences=False)]
    operands = [tensors(case, grad=True) for case in cases]
    together = door.native_run(
        tuple(case.spec for case in cases), tuple(t for o in operands for t in o.values())
    )
    apart = [run(case, o) for case, o in zip(cases, operands, strict=True)]
    assert_equal(together, [y for results in apart for y in results])
    for results, of_run in zip(apart, operands, strict=True):
        mine = {n: t for n, t in of_run.items() if t.requires_grad}
        got = torch.autograd.grad(total(together), list(mine.values()), retain_graph=True)
        # the weights of `total` restart with each result, so the parts add up
        assert_equal(got, gradients(results, of_run).values())


def test_large_saved_states_come_from_the_pool_and_go_back():
    case = Case(sizes=(16, 40, 8, 64))
    operands = tensors(case, torch.float32, grad=True)
    first = gradients(run(case, operands), operands)
    before = native.pooled_bytes()
    for _ in range(3):
        assert_equal(gradients(run(case, operands), operands).values(), first.values())
    assert native.pooled_bytes() == before >= 16 * 40 * 64 * 4 * 4


# Which gradients are asked for, and how often.


def test_a_graph_is_used_several_times():
    case = Case("gru", mask=True)
    operands = tensors(case, grad=True)
    results = run(case, operands)
    first = gradients(results, operands, retain_graph=True)
    assert_equal(gradients(results, operands).values(), first.values())


@pytest.mark.parametrize("wanted", ["x", "h", "kernel", "recurrent_kernel", "bias"])
def test_gradients_of_some_operands(wanted):
    case = Case("lstm")
    operands = tensors(case, grad=True)
    every = gradients(run(case, operands), operands)
    only = {n: t.detach().requires_grad_(n == wanted) for n, t in operands.items()}
    assert_equal(gradients(run(case, only), only).values(), [every[wanted]])


def test_dx_is_computed_only_where_it_is_asked_for(monkeypatch):
    asked = []
    backward = native.backward

    def spy(spec, inputs, outputs):
        asked.append(spec[native.FIELDS.index("wants_dx")])
        backward(spec, inputs, outputs)

    monkeypatch.setattr(native, "backward", spy)
    case = Case("lstm")
    operands = tensors(case, grad=True)
    gradients(run(case, operands), operands)
    operands["x"] = operands["x"].detach()
    gradients(run(case, operands), operands)
    assert asked == [1, 0]


@pytest.mark.parametrize("used", [0, 1, 2])
def test_gradients_of_one_result(used):
    case = Case("lstm")
    operands = tensors(case, grad=True)
    results = run(case, operands)
    got = torch.autograd.grad(results[used].sum(), list(operands.values()), retain_graph=True)
    seeds = [torch.zeros_like(y) for y in results]
    seeds[used] = torch.ones_like(results[used])
    wanted = torch.autograd.grad(results, list(operands.values()), seeds)
    assert_equal(got, wanted)


def test_no_gradients_wanted():
    operands = tensors(Case(), grad=True)
    with torch.no_grad():
        results = run(Case(), operands)
    assert not any(y.requires_grad for y in results)
    with torch.inference_mode():
        inferred = run(Case(), operands)
    assert all(y.is_inference() for y in inferred)
    assert_equal(results, inferred)
    assert_equal(results, run(Case(), operands))


def test_activation_checkpointing():
    operands = tensors(Case(), grad=True)
    plain = gradients(run(Case(), operands), operands)
    again = torch.utils.checkpoint.checkpoint(
        lambda *o: door.native_run((Case().spec,), o), *operands.values(), use_reentrant=False
    )
    assert_equal(gradients(again, operands).values(), plain.values())


# torch.compile, torch.export, opcheck, meta, func.


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_compiled_whole(dynamic, grad):
    torch._dynamo.reset()
    case = Case("lstm", mask=True)
    spec = case.spec

    def model(x, *others):
        ys, h, c = door.native_run((spec,), (x * 2, *others))
        return ys + 1, h, c

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for sizes in [(3, 5, 4, 7), (2, 6, 4, 7)]:
        operands = tensors(replace(case, sizes=sizes), grad=grad)
        wanted, got = model(*operands.values()), compiled(*operands.values())
        assert_close(got, wanted)
        if grad:
            pulled = gradients(got, operands), gradients(wanted, operands)
            assert_close(pulled[0].values(), pulled[1].values())


@pytest.mark.slow  # Keras 3.10 cannot: its own __call__ goes through optree, which Dynamo refuses
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LSTM(8, return_sequences=True),
        lambda: layers.GRU(8, activation="gelu", reset_after=False),
        lambda: layers.Bidirectional(layers.SimpleRNN(8)),
    ],
)
def test_a_layer_compiled_whole(make):
    torch._dynamo.reset()
    layer, x = make(), torch.randn(2, 5, 4)
    wanted = layer(x)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close([compiled(x)], [wanted], 1e-6)
    assert layer.trainable_variables[0].value.grad is None
    compiled(x).sum().backward()
    assert layer.trainable_variables[0].value.grad is not None


@pytest.mark.slow
def test_compiled_by_inductor():
    torch._dynamo.reset()
    operands = tensors(Case(), grad=True)
    spec = Case().spec

    def model(*operands):
        return tuple(torch.tanh(y) for y in door.native_run((spec,), operands))

    compiled = torch.compile(model, fullgraph=True)
    got, wanted = compiled(*operands.values()), model(*operands.values())
    assert_close(got, wanted)
    pulled = gradients(got, operands), gradients(wanted, operands)
    assert_close(pulled[0].values(), pulled[1].values())


class Module(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.spec = case.spec
        operands = tensors(case)
        self.names = [n for n in operands if n not in ("x", "mask")]
        for name in self.names:
            self.register_parameter(name, torch.nn.Parameter(operands[name]))

    def forward(self, x):
        return door.native_run((self.spec,), (x, *(getattr(self, name) for name in self.names)))


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    module = Module(Case("gru"))
    x = tensors(Case("gru"))["x"]
    time = torch.export.Dim("time", min=2, max=50)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {1: time}}, strict=strict)
    longer = torch.cat([x, x], dim=1)
    assert_close(program.module()(longer), module(longer))


@pytest.mark.parametrize("case", [Case("lstm", mask=True), Case("gru", sizes=(2, 3, 4, 16))])
def test_opcheck(case):
    flat = list(native.encode((case.spec,)))
    training = list(native.encode((replace(case.spec, training=True),)))
    operands = list(tensors(case).values())
    torch.library.opcheck(INFER, (operands, flat))
    torch.library.opcheck(FORWARD, (operands, flat))
    # `saved` has padding that nobody writes, which the last of opcheck's tests would compare
    but_values = ("test_schema", "test_autograd_registration", "test_faketensor")
    operands = list(tensors(case, grad=True).values())
    torch.library.opcheck(FORWARD, (operands, training), test_utils=but_values)
    named = {k: t.detach() for k, t in tensors(case).items()}
    *results, named["saved"] = (t.detach() for t in FORWARD(operands, training))
    names = [
        n
        for n in signatures.signature("backward", (case.spec,)).operands[0]
        if not n.startswith("d_")
    ]
    given = [named[n] for n in names] + [torch.ones_like(y) for y in results]
    torch.library.opcheck(BACKWARD, (given, flat))


def test_meta_tensors_give_shapes():
    operands = {n: t.to("meta") for n, t in tensors(Case()).items()}
    results = run(Case(), operands)
    assert [tuple(y.shape) for y in results] == [(3, 5, 7), (3, 7), (3, 7)]
    assert all(y.is_meta for y in results)
    for tensor in operands.values():
        tensor.requires_grad_()
    got = torch.autograd.grad(run(Case(), operands)[0].sum(), list(operands.values()))
    assert [g.shape for g in got] == [t.shape for t in operands.values()]


def test_vmap_over_inputs_and_over_weights():
    case = Case("lstm", mask=True, input_masks=1, recurrent_masks=4)
    operands = tensors(case)
    x = torch.stack([operands["x"], operands["x"] * 2, -operands["x"]])
    masks = torch.stack([operands["input_masks"]] * 3, dim=2)
    others = {n: t for n, t in operands.items() if n not in ("x", "input_masks")}
    got = torch.vmap(lambda x, m: run(case, operands | {"x": x, "input_masks": m}), in_dims=(0, 2))(
        x, masks
    )
    wanted = [run(case, operands | others | {"x": one}) for one in x]
    assert_close(got, [torch.stack(ys) for ys in zip(*wanted, strict=True)])
    kernels = torch.stack([operands["kernel"], operands["kernel"] * 2])
    got = torch.vmap(lambda kernel: run(case, operands | {"kernel": kernel}))(kernels)
    wanted = [run(case, operands | {"kernel": one}) for one in kernels]
    assert_close(got, [torch.stack(ys) for ys in zip(*wanted, strict=True)])


def test_func_grad_and_its_vmap():
    case = Case("gru")
    operands = tensors(case)

    def loss(kernel, x):
        return total(run(case, operands | {"kernel": kernel, "x": x}))

    asked = {n: t.detach().clone().requires_grad_(n == "kernel") for n, t in operands.items()}
    wanted = gradients(run(case, asked), asked).values()
    got = torch.func.grad(loss)(operands["kernel"], operands["x"])
    assert_close([got], wanted)
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(
        operands["kernel"], torch.stack([operands["x"]] * 2)
    )
    assert_close(each, [got, got])


def test_autocast_changes_nothing():
    operands = tensors(Case(), torch.float32)
    plain = run(Case(), operands)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(run(Case(), operands), plain)


# What may come in.


def test_strided_and_lazily_negated_tensors():
    operands = tensors(Case("lstm"))
    plain = run(Case("lstm"), operands)
    strided = {n: _strided(t) for n, t in operands.items()}
    assert not strided["kernel"].is_contiguous()
    assert_equal(run(Case("lstm"), strided), plain)
    strided["x"] = torch._neg_view(-operands["x"])
    assert_equal(run(Case("lstm"), strided), plain)


def _strided(tensor):
    return torch.stack([tensor, tensor], dim=-1)[..., 0]


def test_expanded_gradients():
    operands = tensors(Case(), grad=True)
    results = run(Case(), operands)
    seeds = [torch.ones(()).double().expand(y.shape) for y in results]
    got = torch.autograd.grad(results, list(operands.values()), seeds, retain_graph=True)
    wanted = torch.autograd.grad(
        results, list(operands.values()), [torch.ones_like(y) for y in results]
    )
    assert_equal(got, wanted)


@pytest.mark.parametrize("sizes", [(0, 5, 4, 7), (3, 0, 4, 7), (0, 0, 4, 7)])
def test_sizes_of_zero(sizes):
    case = Case("gru", sizes=sizes)
    operands = tensors(case, grad=True)
    results = run(case, operands)
    batch, time, _, units = sizes
    assert [tuple(y.shape) for y in results] == [(batch, time, units), (batch, units)]
    got = gradients(results, operands)
    assert [g.shape for g in got.values()] == [operands[n].shape for n in got]
    assert all(torch.isfinite(g).all() for g in got.values())


# Threads.


def test_concurrent_calls():
    cases = [Case(kind, mask=True, sizes=(4, 9, 5, 20), seed=s) for s in (0, 1) for kind in KINDS]

    def work(case):
        operands = tensors(case, grad=True)
        results = run(case, operands)
        return [*results, *gradients(results, operands).values()]

    alone = [work(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            for got, wanted in zip(pool.map(work, cases), alone, strict=True):
                assert_equal(got, wanted)
