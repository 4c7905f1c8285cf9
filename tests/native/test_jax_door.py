"""The native engine under JAX: values, gradients, and each of JAX's transformations."""

import functools
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

if keras.config.backend() != "jax":
    pytest.skip("for JAX", allow_module_level=True)

import jax
from jax import numpy as jnp

from engines.gradients import double_precision
from native.runs import CASES, KINDS, Case, assert_close, expected
from ostinato import native
from ostinato.doors import door, jax_native
from support import in_turn

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)


@pytest.fixture(autouse=True)
def _registered():
    assert door.native_why_not(jnp.zeros(1)) is None


def tensors(case, dtype="float32"):
    return tuple(jnp.asarray(a, None if a.dtype == bool else dtype) for a in case.arrays.values())


def op(case):
    """The case's operation on flat operands."""
    return functools.partial(_run, (case.spec,))


def _run(specs, *operands):
    return door.native_run(specs, operands)


def total(case):
    """A scalar of all results, each element with its own weight."""

    def loss(*operands):
        results = op(case)(*operands)
        return sum((y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum() for y in results)

    return loss


def differentiable(case):
    """Places of the operands that have gradients."""
    return tuple(i for i, name in enumerate(case.arrays) if "mask" not in name)


# Values and gradients.


@pytest.mark.parametrize(("case", "dtype"), in_turn(CASES, ["float32", "float64"]), ids=repr)
def test_values_and_gradients(case, dtype):
    wanted, tolerance = expected(case), {"float32": 1e-5, "float64": 1e-10}[dtype]
    with double_precision():
        operands = tensors(case, dtype)
        got, pull = jax.vjp(op(case), *operands)
        gradients = pull(tuple(jnp.asarray(d, dtype) for d in wanted.d_results))
        inference = op(case)(*operands)
        assert {y.dtype.name for y in got} == {dtype}
        assert_close(got, wanted.results, tolerance)
        assert_close(inference, wanted.results, tolerance)
        for name, gradient in zip(case.arrays, gradients, strict=True):
            if name in wanted.gradients:
                assert_close([gradient], [wanted.gradients[name]], tolerance)
            elif name == "mask":
                assert gradient.dtype == jax.dtypes.float0
            else:  # dropout draws them: nothing learns them
                assert not gradient.any()


def test_two_runs_in_one_call():
    cases = [Case("lstm", mask=True), Case("gru", go_backwards=True, flip_outputs=True, seed=8)]
    specs = tuple(case.spec for case in cases)
    operands = [tensors(case) for case in cases]
    cut = len(operands[0])

    def both(*flat):
        return _run(specs, *flat)

    wanted = [jax.vjp(op(case), *run) for case, run in zip(cases, operands, strict=True)]
    got, pull = jax.vjp(both, *operands[0], *operands[1])
    assert_close(got, wanted[0][0] + wanted[1][0], 1e-6)
    gradients = pull(got)
    with_mask, without = (pull_one(results) for results, pull_one in wanted)
    assert_close(gradients[: cut - 1], with_mask[:-1], 1e-6)  # the mask's comes last, and is none
    assert_close(gradients[cut:], without, 1e-6)


def test_results_that_nobody_uses():
    case = Case("lstm", mask=True)
    operands = tensors(case)
    zeros = [jnp.zeros_like(y) for y in op(case)(*operands)]
    for place in range(3):
        got = jax.grad(lambda *o, p=place: op(case)(*o)[p].sum(), differentiable(case))(*operands)
        _, pull = jax.vjp(op(case), *operands)
        ones = [jnp.ones_like(z) if i == place else z for i, z in enumerate(zeros)]
        wanted = [g for g in pull(tuple(ones)) if g.dtype != jax.dtypes.float0]
        assert_close(got, wanted, 1e-6)


def backward_results(function, *operands):
    """The shapes that the native backward gives in the program of a function."""
    text = jax.jit(lambda *o: function(*o)).lower(*operands).as_text()
    (call,) = [line for line in text.splitlines() if "ostinato_backward" in line]
    return re.findall(r"tensor<([\dx]+)xf32>", call.rpartition("->")[2])


def in_scan(loss):
    """Twice the loss, by a scan."""
    return lambda *o: jax.lax.scan(lambda s, _: (s + loss(*o), None), 0.0, None, 2)[0]


THROUGH = {"plain": lambda loss: loss, "jit": jax.jit, "remat": jax.checkpoint, "scan": in_scan}


@pytest.mark.parametrize("through", THROUGH)
def test_the_gradient_of_x_is_computed_where_it_is_wanted_only(through):
    case = Case("lstm", sizes=(3, 5, 11, 7))
    loss = THROUGH[through](total(case))
    weights = jax.grad(loss, differentiable(case)[1:])
    everything = jax.grad(loss, differentiable(case))
    operands = tensors(case)
    for _ in range(2):  # the second time from what JAX has kept of the first
        assert "3x5x11" not in backward_results(weights, *operands)
        assert "3x5x11" in backward_results(everything, *operands)
        got = everything(*operands)
        assert abs(got[0]).max() > 0
        assert_close(weights(*operands), got[1:], 1e-6)


# Transformations.


@pytest.mark.parametrize("kind", KINDS)
def test_jit_scan_and_remat_change_nothing(kind):
    case = Case(kind, mask=True, seed=9)
    operands = tensors(case)
    wanted = jax.value_and_grad(total(case), differentiable(case))(*operands)
    for through in ("jit", "remat"):
        loss = THROUGH[through](total(case))
        got = jax.value_and_grad(loss, differentiable(case))(*operands)
        assert_close(got, wanted, 1e-6)
    doubled = in_scan(total(case))
    got = jax.jit(jax.value_and_grad(doubled, differentiable(case)))(*operands)
    assert_close(got, jax.tree.map(lambda a: 2 * a, wanted), 1e-5)


def stacked(case, count, names):
    """The operands of `count` cases, those of `names` stacked, and vmap's in_axes."""
    many = [tensors(replace(case, seed=case.seed + i)) for i in range(count)]
    mapped = [name in names for name in case.arrays]
    operands = tuple(
        jnp.stack([run[i] for run in many]) if flag else many[0][i] for i, flag in enumerate(mapped)
    )
    return operands, tuple(0 if flag else None for flag in mapped)


def one_by_one(function, operands, axes):
    runs = [
        function(*(o if axis is None else o[i] for o, axis in zip(operands, axes, strict=True)))
        for i in range(2)
    ]
    return jax.tree.map(lambda *results: jnp.stack(results), *runs)


MAPPED = [
    ("x",),
    ("h", "c"),
    ("x", "h", "c", "mask"),
    ("mask",),
    ("x", "input_masks", "recurrent_masks"),
    ("kernel",),
    ("x", "bias"),
]


@pytest.mark.parametrize("names", MAPPED, ids="-".join)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_vmap(names, kind):
    gates = {"lstm": 4, "gru": 3}[kind]
    case = Case(kind, mask=True, input_masks=gates, recurrent_masks=gates, seed=10)
    operands, axes = stacked(case, 2, names)
    wanted = one_by_one(op(case), operands, axes)
    assert_close(jax.vmap(op(case), axes)(*operands), wanted, 1e-6)
    pulled = jax.grad(total(case), differentiable(case))
    got = jax.vmap(pulled, axes)(*operands)
    assert_close(got, one_by_one(pulled, operands, axes), 1e-5)


def test_the_gradient_of_a_vmap_and_vmaps_of_vmaps():
    case = Case("gru", seed=11)
    operands, axes = stacked(case, 2, ("x", "h"))
    mapped = jax.vmap(total(case), axes)
    got = jax.grad(lambda *o: mapped(*o).sum(), differentiable(case))(*operands)
    each = one_by_one(jax.grad(total(case), differentiable(case)), operands, axes)
    wanted = [g if axis == 0 else g.sum(0) for g, axis in zip(each, axes, strict=True)]
    assert_close(got, wanted, 1e-5)
    twice = jax.vmap(jax.vmap(op(case), axes), (None, 0, *[None] * (len(axes) - 2)))
    again = (operands[0], jnp.stack([operands[1]] * 3), *operands[2:])
    inner = jax.vmap(op(case), axes)(*operands)
    assert_close(twice(*again), jax.tree.map(lambda y: jnp.stack([y] * 3), inner), 1e-6)


def test_a_vmap_over_shared_weights_is_one_call_of_a_larger_batch():
    case = Case("lstm")
    operands, axes = stacked(case, 2, ("x", "h", "c"))
    text = jax.jit(jax.vmap(op(case), axes)).lower(*operands).as_text()
    assert "tensor<6x5x4xf32>" in text
    assert "while" not in text


def test_without_a_twin_what_kernels_cannot_do_is_refused():
    case = Case("gru")
    operands = tensors(case)
    with pytest.raises(TypeError, match=r"first derivatives.*use_engine"):
        jax.hessian(total(case), 1)(*operands)
    with pytest.raises(TypeError, match=r"no program for elsewhere.*use_engine"):
        jax.export.export(jax.jit(op(case)))(*operands)


def test_shard_map_runs_each_part_by_itself():
    case = Case("gru")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    split = jax.sharding.PartitionSpec("batch")
    whole = jax.sharding.PartitionSpec()
    sharded = jax.shard_map(
        op(case), mesh=mesh, in_specs=(split, split, whole, whole, whole), out_specs=split
    )
    operands = tensors(case)
    assert_close(jax.jit(sharded)(*operands), op(case)(*operands), 1e-6)


def test_a_sharded_batch_is_not_gathered():
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4",
    }
    tests = Path(__file__).parents[1]
    environment["PYTHONPATH"] = f"{tests}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    script = Path(__file__).with_name("sharded_on_jax.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_eight_threads_at_once():
    case = Case("lstm", mask=True, sizes=(8, 20, 16, 32))
    operands = tensors(case)
    step = jax.jit(jax.value_and_grad(total(case), differentiable(case)))
    wanted = step(*operands)

    def many(_):
        return [step(*operands) for _ in range(20)][-1]

    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(many, range(8)):
            assert_close(got, wanted, 1e-6)


# What it refuses, and the edges.


@pytest.mark.parametrize("sizes", [(0, 5, 4, 7), (3, 0, 4, 7), (0, 0, 4, 7)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_without_elements(kind, sizes):
    case = Case(kind, mask=True, sizes=sizes)
    operands = tensors(case)
    batch, time, _, units = sizes
    results = op(case)(*operands)
    assert results[0].shape == (batch, time, units)
    if time == 0:
        assert_close(results[1:], operands[1 : len(results)], 0)
    gradients = jax.grad(total(case), differentiable(case))(*operands)
    wanted = [operands[i].shape for i in differentiable(case)]
    assert [g.shape for g in gradients] == wanted
    if batch * time == 0:
        kernel = list(case.arrays).index("kernel")
        assert not gradients[kernel].any()


def broken(case, name, change):
    return tuple(
        change(o) if key == name else o for key, o in zip(case.arrays, tensors(case), strict=True)
    )


@pytest.mark.parametrize("name", ["h", "c", "kernel", "bias", "mask", "recurrent_masks"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_wrong_shape_is_an_error(name, compiled):
    case = Case("lstm", mask=True, recurrent_masks=4)
    run = jax.jit(op(case)) if compiled else op(case)
    operands = broken(case, name, lambda a: jnp.concatenate([a, a], -1))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT: .ostinato. forward: "):
        jax.block_until_ready(run(*operands))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
@pytest.mark.parametrize("name", ["x", "kernel", "mask"])
def test_a_wrong_dtype_is_an_error(name, dtype):
    case = Case("lstm", mask=True)
    operands = broken(case, name, lambda a: a.astype(dtype))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT: .ostinato. forward: "):
        jax.block_until_ready(op(case)(*operands))


def test_what_gives_no_sizes_is_refused():
    case = Case("lstm")
    operands = tensors(case)
    with pytest.raises(ValueError, match=r"expected 6 inputs \(x, h, c, .*got 5"):
        op(case)(*operands[:-1])
    with pytest.raises(ValueError, match=r"expected x \(batch, time, features\).*\(3, 5\)"):
        op(case)(operands[0][..., 0], *operands[1:])
    other = tensors(Case("lstm", sizes=(2, 5, 4, 7)))
    with pytest.raises(ValueError, match="one batch size"):
        _run((case.spec, case.spec), *operands, *other)


def test_a_spec_out_of_range_is_an_error():
    case = Case("lstm")
    spec = replace(case.spec, activation=1000)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
        jax.block_until_ready(_run((spec,), *tensors(case)))


def test_where_it_runs():
    x = jnp.zeros(1)
    assert door.native_why_not(x) is None
    seen = []
    jax.jit(lambda x: seen.append(door.native_why_not(x)))(x)
    assert seen == [None]


def test_other_platforms_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert door.native_why_not(jnp.zeros(1)) is None  # this one is on the CPU
    seen = []
    jax.jit(lambda x: seen.append(door.native_why_not(x)))(jnp.zeros(1))
    assert "gpu" in seen[0]


def test_a_refused_handler_is_a_reason(monkeypatch):
    def refuse(*_, **__):
        raise jax.errors.JaxRuntimeError("API version")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    unregistered = jax_native._registered.__wrapped__
    assert "API version" in unregistered()
    monkeypatch.setattr(jax, "__version_info__", (0, 6, 2))
    assert "0.7.2 or newer" in unregistered()
