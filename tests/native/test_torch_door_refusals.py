"""What the native engine refuses under PyTorch, and what must not bring the process down."""

from dataclasses import replace

import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("for PyTorch", allow_module_level=True)

import torch
from torch.autograd import forward_ad

from native.on_torch import assert_equal, run, tensors, total
from native.runs import KINDS, Case
from ostinato import native
from ostinato.doors import door

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)

FORWARD = torch.ops.ostinato.forward.default
INFER = torch.ops.ostinato.infer.default
BACKWARD = torch.ops.ostinato.backward.default


def test_second_derivatives_are_refused():
    operands = tensors(Case(), grad=True)
    results = run(Case(), operands)
    (dx,) = torch.autograd.grad(results[0].sum(), operands["x"], create_graph=True)
    assert_equal([dx], torch.autograd.grad(results[0].sum(), operands["x"], retain_graph=True))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        dx.sum().backward()


def test_batched_gradients_are_refused():
    operands = tensors(Case(), grad=True)
    ys = run(Case(), operands)[0]
    with pytest.raises(RuntimeError, match="got a batch of them"):
        torch.autograd.grad(ys, operands["x"], torch.ones(2, *ys.shape), is_grads_batched=True)


def test_masks_that_ask_for_gradients_are_refused():
    case = Case(input_masks=1)
    operands = tensors(case, grad=True)
    operands["input_masks"].requires_grad_()
    with pytest.raises(ValueError, match="input_masks that need no gradient"):
        run(case, operands)


def test_weights_changed_before_backward_are_noticed():
    operands = tensors(Case(), grad=True)
    results = run(Case(), operands)
    with torch.no_grad():
        operands["kernel"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total(results).backward()


def test_forward_mode_is_passed_over():
    x = torch.zeros(1)
    assert door.native_why_not(x) is None
    with forward_ad.dual_level():
        assert "forward-mode" in door.native_why_not(x)
    assert "runs on the CPU" in door.native_why_not(_On("cuda"))
    assert "dense" in door.native_why_not(torch.zeros(2, 2).to_sparse())


class _On:
    layout = torch.strided

    def __init__(self, device):
        self.device = torch.device(device)


def changed(name, tensor):
    return lambda operands: operands | {name: tensor(operands[name])}


@pytest.mark.parametrize(
    "wrong",
    [
        changed("x", lambda x: x.float()),
        changed("x", lambda x: x.half()),
        changed("x", lambda x: x.to(torch.complex64)),
        changed("x", lambda x: x > 0),
        changed("x", lambda x: x[0]),
        changed("x", lambda x: x[..., :2]),
        changed("x", lambda x: x[..., :0]),
        changed("x", lambda x: x.to_sparse()),
        changed("h", lambda h: h[:1]),
        changed("h", lambda h: h[..., None]),
        changed("kernel", lambda k: k[:, :-1]),
        changed("kernel", lambda k: k.bfloat16()),
        changed("recurrent_kernel", lambda k: k[:-1]),
        changed("recurrent_kernel", lambda k: k.flatten()),
        changed("recurrent_kernel", lambda k: k.new_zeros(2**40, 0)),
        changed("bias", lambda b: b[None]),
        changed("mask", lambda m: m.double()),
        changed("mask", lambda m: m.to(torch.uint8)),
        changed("mask", lambda m: m[:, :-1]),
        lambda o: dict(list(o.items())[:-1]),
        lambda o: o | {"more": o["mask"]},
        lambda o: {},
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_wrong_operands_raise(wrong, grad):
    case = Case("lstm", mask=True)
    operands = wrong({n: t.detach() for n, t in tensors(case).items()})
    if grad and "bias" in operands:
        operands["bias"].requires_grad_()
    with pytest.raises((ValueError, TypeError, RuntimeError, MemoryError)):
        run(case, operands)


@pytest.mark.parametrize("name", ["x", "h", "kernel", "recurrent_kernel", "bias", "mask"])
def test_a_meta_tensor_among_others_raises(name):
    case = Case("lstm", mask=True)
    operands = tensors(case)
    operands[name] = operands[name].to("meta")
    with pytest.raises(TypeError, match="on one device, got cpu, meta"):
        run(case, operands)


@pytest.mark.parametrize(
    "spec", [[], [1], [1] * 14, [9] * 15, [-1] * 15, [1, 99, *[0] * 13], [1, 0, 99, *[0] * 12]]
)
@pytest.mark.parametrize("operation", [FORWARD, INFER, BACKWARD])
def test_wrong_specs_raise(operation, spec):
    operands = list(tensors(Case("lstm")).values())
    with pytest.raises((ValueError, KeyError, RuntimeError)):
        operation(operands, spec)


def test_backward_refuses_what_is_not_from_its_forward():
    case = Case("lstm")
    named = tensors(case)
    flat = native.encode((case.spec,))
    *results, saved = FORWARD(
        list(named.values()), native.encode((replace(case.spec, training=True),))
    )
    constants = [named["x"], named["kernel"], named["recurrent_kernel"]]
    BACKWARD([*constants, saved, *results], flat)
    for wrong in (saved[:-1], saved.float(), saved[..., :-1], saved[0]):
        with pytest.raises((ValueError, TypeError)):
            BACKWARD([*constants, wrong, *results], flat)
    with pytest.raises(ValueError, match="expected 7 inputs"):
        BACKWARD([*constants, saved], flat)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 1e300, float("nan"), float("inf")])
def test_backward_survives_any_saved_values(kind, value):
    case = Case(kind, mask=True, sizes=(9, 4, 3, 5))
    named = tensors(case)
    flat = native.encode((replace(case.spec, wants_dx=True),))
    training = native.encode((replace(case.spec, training=True),))
    *results, saved = FORWARD(list(named.values()), training)
    saved.fill_(value)
    kept = [named[name] for name in ("x", "kernel", "recurrent_kernel", "mask")]
    BACKWARD([*kept, saved, *results], flat)
