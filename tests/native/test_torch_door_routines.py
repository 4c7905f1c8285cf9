"""A cell of one's own on the native engine under PyTorch, in each way in which PyTorch runs it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("for PyTorch", allow_module_level=True)

import torch

import ostinato
from native.on_torch import assert_equal, gradients, run, tensors
from native.routine_cases import CASES, Lowering, RoutineCase, plain, routines_of
from native.runs import assert_close
from ostinato import layers, native, routines
from ostinato.doors import door, torch_native
from ostinato.routines import RoutineSpec
from ostinato.signatures import signature

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)

FORWARD = torch.ops.ostinato.forward.default
INFER = torch.ops.ostinato.infer.default
BACKWARD = torch.ops.ostinato.backward.default


def wanted_of(case, operands):
    """Results and gradients of the plain form."""
    results = plain((case.spec,), tuple(operands.values()))
    return results, gradients(results, operands)


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(case, dtype):
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    operands = tensors(case, dtype, grad=True)
    wanted, pulled = wanted_of(case, operands)
    results = run(case, operands)
    assert all(y.dtype == dtype for y in results)
    assert_close(results, wanted, tolerance)
    assert_close(gradients(results, operands).values(), pulled.values(), 10 * tolerance)
    with torch.inference_mode():
        assert_close(run(case, operands), wanted, tolerance)


@pytest.mark.parametrize("wanted", ["input0", "state0", "constant0", "weight0", "weight2"])
def test_gradients_of_some_operands(wanted):
    case = RoutineCase(mask=True)
    operands = tensors(case, grad=True)
    every = gradients(run(case, operands), operands)
    only = {n: t.detach().requires_grad_(n == wanted) for n, t in operands.items()}
    assert_equal(gradients(run(case, only), only).values(), [every[wanted]])


def test_what_has_no_gradient_gets_none(monkeypatch):
    asked = []
    backward = native.backward

    def spy(spec, inputs, outputs):
        asked.append(len(outputs))
        backward(spec, inputs, outputs)

    monkeypatch.setattr(native, "backward", spy)
    case = RoutineCase()
    operands = tensors(case, grad=True)
    operands["input0"] = operands["input0"].detach()
    operands["input1"].requires_grad_()
    loss = sum(y.sum() for y in run(case, operands))
    loss.backward()
    assert operands["input1"].grad is None
    assert operands["weight0"].grad.any()
    assert asked == [5]  # without that of input0, which nobody wants


@pytest.mark.parametrize("used", range(3))
def test_gradients_of_one_result(used):
    case = RoutineCase(mask=True)
    operands = tensors(case, grad=True)
    asked = [operands[name] for name in case.differentiable]
    got = torch.autograd.grad(run(case, operands)[used].sum(), asked)
    loss = plain((case.spec,), tuple(operands.values()))[used].sum()
    assert_close(got, torch.autograd.grad(loss, asked), 1e-11)


# torch.compile, torch.export, opcheck, meta, func.


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_compiled_whole(dynamic, grad):
    torch._dynamo.reset()
    case = RoutineCase(mask=True)
    spec = case.spec

    def model(x, *others):
        ys, squares, h = door.native_run((spec,), (x * 2, *others))
        return ys + 1, squares, h

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for sizes in [(3, 5, 4, 7), (2, 6, 4, 7)]:
        operands = tensors(replace(case, sizes=sizes), grad=grad)
        wanted, got = model(*operands.values()), compiled(*operands.values())
        assert_close(got, wanted)
        if grad:
            pulled = gradients(got, operands), gradients(wanted, operands)
            assert_close(pulled[0].values(), pulled[1].values())


def test_a_compiled_graph_of_another_process(monkeypatch):
    """It comes from a cache, with hashes of routines that this process hasn't needed so far."""
    case = RoutineCase(sizes=(2, 3, 5, 6))
    spec = case.spec
    operands = tensors(case)
    *results, saved = FORWARD(list(operands.values()), spec.encoded("forward", 1))
    flat = spec.encoded("backward", 1)
    given = [operands[f"{name}"] for name in ("input0", "input1", "constant0")]
    given += [operands[f"weight{i}"] for i in range(3)]
    wanted = BACKWARD([*given, saved, *results], flat)
    monkeypatch.delitem(routines._BY_HASHES, flat[1:3])
    spec.routines._made.clear()
    assert_equal(BACKWARD([*given, saved, *results], flat), wanted)


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    case = RoutineCase()

    class Module(torch.nn.Module):
        spec = case.spec

        def forward(self, *operands):
            return door.native_run((self.spec,), operands)

    operands = tuple(tensors(case).values())
    time = torch.export.Dim("time", min=2, max=50)
    dynamic = {"operands": ({1: time}, {1: time}, *[None] * (len(operands) - 2))}
    program = torch.export.export(Module(), operands, dynamic_shapes=dynamic, strict=strict)
    longer = tuple(torch.cat([t, t], 1) if i < 2 else t for i, t in enumerate(operands))
    assert_close(program.module()(*longer), Module()(*longer))


def test_opcheck():
    case = RoutineCase(mask=True)
    spec = case.spec
    operands = list(tensors(case).values())
    torch.library.opcheck(INFER, (operands, spec.encoded("forward", 0)))
    torch.library.opcheck(FORWARD, (operands, spec.encoded("forward", 1)))
    *results, saved = FORWARD(operands, spec.encoded("forward", 1))
    x, s, _, *others = operands
    given = [x, s, *others, saved, *results]
    for wants_dx in (0, 1):
        flat = replace(spec, wants_dx=wants_dx).encoded("backward", 1)
        torch.library.opcheck(BACKWARD, (given, flat))


def test_meta_tensors_give_shapes():
    case = RoutineCase(return_sequences=False)
    operands = {n: t.to("meta").requires_grad_() for n, t in tensors(case).items()}
    results = run(case, operands)
    assert [tuple(y.shape) for y in results] == [(3, 7), (3, 7), (3, 7)]
    asked = [operands[name] for name in case.differentiable]
    got = torch.autograd.grad(results[0].sum(), asked)
    assert [g.shape for g in got] == [t.shape for t in asked]


@pytest.mark.parametrize("names", [("input0",), ("state0", "mask"), ("weight1",), ("constant0",)])
def test_vmap(names):
    case = RoutineCase(mask=True)
    many = [tensors(replace(case, seed=seed)) for seed in (7, 8)]
    axes = {name: 1 if many[0][name].dim() > 1 else 0 for name in names}

    def one(*some):
        return run(case, many[0] | dict(zip(names, some, strict=True)))

    stacked = [torch.stack([o[name] for o in many], axis) for name, axis in axes.items()]
    got = torch.vmap(one, tuple(axes.values()))(*stacked)
    wanted = [one(*(o[name] for name in names)) for o in many]
    assert_close(got, [torch.stack(ys) for ys in zip(*wanted, strict=True)])


def test_func_grad_and_its_vmap():
    case = RoutineCase(mask=True)
    operands = tensors(case)

    def loss(kernel, x):
        ys, squares, h = run(case, operands | {"weight0": kernel, "input0": x})
        return (ys * squares).sum() + h.sum()

    got = torch.func.grad(loss)(operands["weight0"], operands["input0"])
    kernel = operands["weight0"].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(kernel, operands["input0"]), kernel)
    assert_close([got], [wanted])
    xs = torch.stack([operands["input0"]] * 2)
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(operands["weight0"], xs)
    assert_close(each, [got, got])


@pytest.mark.parametrize("sizes", [(0, 5, 4, 7), (3, 0, 4, 7), (0, 0, 4, 7)])
def test_sizes_of_zero(sizes):
    case = RoutineCase(mask=True, sizes=sizes)
    operands = tensors(case, grad=True)
    results = run(case, operands)
    batch, time, _, units = sizes
    shapes = [(batch, time, units), (batch, time, units), (batch, units)]
    assert [tuple(y.shape) for y in results] == shapes
    if time == 0:
        assert_equal(results[2:], [operands["state0"]])
    got = gradients(results, operands)
    assert [g.shape for g in got.values()] == [operands[n].shape for n in got]
    assert not got["weight0"].any()


# Two cells that differ in less than what runs forward.


def test_a_derivative_of_its_own():
    """The same steps forward, and another derivative, as by a stop_gradient."""

    class Detached(Lowering):
        def backward(self, wants_dx):
            routine = super().backward(wants_dx)
            return replace(routine, floats=(0.0, 1.0, 0.0))  # not through the squares

    case = RoutineCase()
    operands = tensors(case, grad=True)
    plainly = gradients(run(case, operands), operands)
    spec = RoutineSpec(routines_of(Detached(4, 7, False), key="detached"), 0, 0, 1)
    for _ in range(2):
        results = door.native_run((spec,), tuple(operands.values()))
        detached = gradients(results, operands)
        ys, _, h = run(case, operands)
        wanted = gradients((ys, torch.zeros_like(ys), h), operands)
        assert_close(detached.values(), wanted.values(), 1e-11)
        assert_equal(gradients(run(case, operands), operands).values(), plainly.values())
    assert abs(detached["weight0"] - plainly["weight0"]).max() > 1e-3


def test_equal_routines_are_the_same():
    one, other = (RoutineCase(sizes=(3, 5, 2, 9)).spec for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one.routines is other.routines
    assert one != RoutineCase(sizes=(3, 5, 2, 8)).spec
    assert signature("forward", (one,)) is signature("forward", (other,))


def test_several_threads_need_a_routine_at_once():
    cases = [RoutineCase(mask=True, sizes=(4, 9, 5, 3 + i % 4), seed=i) for i in range(16)]

    def work(case):
        operands = tensors(case, grad=True)
        results = run(case, operands)
        return [*results, *gradients(results, operands).values()]

    with ThreadPoolExecutor(8) as pool:
        for got, case in zip(pool.map(work, cases), cases, strict=True):
            assert_equal(got, work(case))


# What it refuses.


def changed(name, tensor):
    return lambda operands: operands | {name: tensor(operands[name])}


@pytest.mark.parametrize(
    "wrong",
    [
        changed("input0", lambda x: x.float()),
        changed("input0", lambda x: x.half()),
        changed("input0", lambda x: x[0]),
        changed("input0", lambda x: x[..., :2]),
        changed("input1", lambda x: x[:, 1:]),
        changed("state0", lambda h: h[:1]),
        changed("state0", lambda h: h[..., None]),
        changed("weight0", lambda k: k[:, :-1]),
        changed("weight1", lambda k: k.flatten()),
        changed("weight2", lambda k: k.bfloat16()),
        changed("mask", lambda m: m.double()),
        changed("mask", lambda m: m[:, :-1]),
        lambda o: dict(list(o.items())[:-1]),
        lambda o: o | {"more": o["mask"]},
        lambda o: {},
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_wrong_operands_raise(wrong, grad):
    case = RoutineCase(mask=True)
    operands = wrong(tensors(case))
    if grad and "weight1" in operands:
        operands["weight1"].requires_grad_()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=r"forward|expected|no tensor"):
        run(case, operands)


def test_wrong_specs_raise():
    case = RoutineCase()
    operands = list(tensors(case).values())
    forward, backward = case.spec.encoded("forward", 0), case.spec.encoded("backward", 0)
    with pytest.raises(ValueError, match="expected 11 integers"):
        INFER(operands, forward[:-1])
    with pytest.raises(ValueError, match=r"hash of one of its routines.*none of this process: 1"):
        INFER(operands, [forward[0], 1, *forward[2:]])
    with pytest.raises(ValueError, match="got that of one of backward"):
        INFER(operands, backward)
    with pytest.raises(ValueError, match="one run in a call of a routine"):
        signature("forward", (case.spec, case.spec))
    with pytest.raises(ValueError, match=r"input0 \(batch, time, 4\), got \(3, 5\)"):
        INFER([operands[0][..., 0], *operands[1:]], forward)


def test_what_is_said_of_a_cell_has_to_fit():
    lowering = Lowering(4, 7, mask=False)
    with pytest.raises(ValueError, match="expected differentiable to say it of 7 operands"):
        routines_of(lowering, differentiable=(True,))
    with pytest.raises(ValueError, match="an input or more"):
        routines_of(lowering, inputs=(), differentiable=(True,) * 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": ((7,), (8,))},
        {"outputs": ((7,),)},
        {"states": ((7, 1),)},
        {"weights": ((4, 7), (7, 7), (7, 1))},
        {"has_mask": True},
        {"differentiable": (True,) * 7},
    ],
    ids=str,
)
def test_what_is_said_of_a_cell_is_checked_by_the_core(changes):
    spec = RoutineSpec(routines_of(Lowering(4, 7, mask=False), **changes), 0, 0, 1)
    operands = tensors(RoutineCase(mask="has_mask" in changes), grad=True)
    if "weights" in changes:
        operands["weight2"] = operands["weight2"].detach()[:, None].requires_grad_()
    with pytest.raises(ValueError, match="expected"):
        door.native_run((spec,), tuple(operands.values()))[0].sum().backward()


def test_little_is_done_in_python_at_a_step(monkeypatch):
    """An encoding is looked up, not made again."""
    case = RoutineCase()
    spec, operands = case.spec, tuple(tensors(case).values())
    door.native_run((spec,), operands)
    monkeypatch.setattr(torch_native, "_encoded", None)
    monkeypatch.setattr(RoutineSpec, "encoded", None)
    door.native_run((spec,), operands)


class Plain(keras.layers.Layer):
    """A cell that anyone may write."""

    def __init__(self, units):
        super().__init__()
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], self.units))
        self.recurrent = self.add_weight((self.units, self.units), "orthogonal")

    def call(self, x, states):
        z = keras.ops.matmul(x, self.kernel) + keras.ops.matmul(states[0], self.recurrent)
        return keras.ops.tanh(z), [keras.ops.tanh(z)]


@pytest.mark.slow  # Keras 3.10 cannot: its own __call__ goes through optree, which Dynamo refuses
@pytest.mark.parametrize("grad", [False, True])
def test_a_layer_compiled_whole(grad):
    """The first call is torch.compile's: the cell becomes a program while Dynamo traces."""
    torch._dynamo.reset()
    layer, x = layers.RNN(Plain(8), return_sequences=True), torch.randn(2, 5, 4)
    layer.build((None, 5, 4))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.set_grad_enabled(grad), ostinato.use_engine("compiled"):
        for batch, time in ((2, 5), (3, 6)):  # the second time with sizes that may be anything
            x = torch.randn(batch, time, 4)
            got, wanted = compiled(x), layer(x)
            assert_close([got], [wanted], 1e-6)
        if grad:
            weights = [v.value for v in layer.trainable_variables]
            pulled = [torch.autograd.grad(y.square().sum(), weights) for y in (got, wanted)]
            assert_close(*pulled, 1e-5)
