"""A cell of one's own on the native engine under JAX, through each of JAX's transformations."""

import functools
from dataclasses import replace

import keras
import numpy as np
import pytest

if keras.config.backend() != "jax":
    pytest.skip("for JAX", allow_module_level=True)

import jax
from jax import numpy as jnp

from engines.gradients import double_precision
from native.routine_cases import CASES, RoutineCase, plain
from native.runs import assert_close
from ostinato import native
from ostinato.doors import door
from support import in_turn

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)


@pytest.fixture(autouse=True)
def _registered():
    assert door.native_why_not(jnp.zeros(1)) is None


def tensors(case, dtype="float32"):
    return tuple(jnp.asarray(a, None if a.dtype == bool else dtype) for a in case.arrays.values())


def op(case, twin=None):
    """The case's operation on flat operands."""
    spec = case.spec
    return lambda *operands: door.native_run((spec,), operands, twin)


def loop(case):
    """The same in plain JAX; compiled whole, which takes less than each operation by itself."""
    spec = case.spec
    return jax.jit(lambda *operands: plain((spec,), operands))


def total(function):
    """A scalar of all results, each element with its own weight."""

    def loss(*operands):
        results = function(*operands)
        return sum((y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum() for y in results)

    return loss


def places(case):
    """Those of the operands that have gradients."""
    return tuple(i for i, name in enumerate(case.arrays) if name in case.differentiable)


@pytest.mark.parametrize(("case", "dtype"), in_turn(CASES, ["float32", "float64"]), ids=repr)
def test_values_and_gradients(case, dtype):
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    with double_precision():
        operands = tensors(case, dtype)
        wanted = loop(case)(*operands)
        got, pull = jax.vjp(op(case), *operands)
        assert {y.dtype.name for y in got} == {dtype}
        assert_close(got, wanted, tolerance)
        assert_close(op(case)(*operands), wanted, tolerance)
        theirs = jax.grad(total(loop(case)), places(case))(*operands)
        mine = jax.grad(total(op(case)), places(case))(*operands)
        assert_close(mine, theirs, 10 * tolerance)
        gradients = dict(zip(case.arrays, pull(got), strict=True))
        assert not gradients["input1"].any()
        assert not case.mask or gradients["mask"].dtype == jax.dtypes.float0


def test_one_result_used():
    case = RoutineCase(mask=True)
    operands = tensors(case)
    for used in range(3):
        mine, theirs = (
            jax.grad(lambda *o, f=f, i=used: f(*o)[i].sum(), places(case))(*operands)
            for f in (op(case), loop(case))
        )
        assert_close(mine, theirs, 1e-5)


def test_the_gradient_of_inputs_is_computed_where_it_is_wanted_only():
    case = RoutineCase(sizes=(3, 5, 11, 7))
    operands = tensors(case)
    for through in (lambda loss: loss, jax.checkpoint):
        loss = through(total(op(case)))
        everything = jax.jit(jax.grad(loss, places(case)))
        weights = jax.jit(jax.grad(loss, places(case)[1:]))
        for function, count in ((everything, 6), (weights, 5)):
            text = function.lower(*operands).as_text()
            (call,) = [line for line in text.splitlines() if "ostinato_backward" in line]
            assert call.rpartition("->")[2].count("tensor<") == count
        assert_close(weights(*operands), everything(*operands)[1:], 1e-6)


def in_scan(loss):
    """Twice the loss, by a scan."""
    return lambda *o: jax.lax.scan(lambda s, _: (s + loss(*o), None), 0.0, None, 2)[0]


def test_jit_scan_and_remat_change_nothing():
    case = RoutineCase(mask=True, seed=9)
    operands = tensors(case)
    loss = total(op(case))
    wanted = jax.value_and_grad(loss, places(case))(*operands)
    for through in (jax.jit, jax.checkpoint):
        assert_close(jax.value_and_grad(through(loss), places(case))(*operands), wanted, 1e-6)
    got = jax.jit(jax.value_and_grad(in_scan(loss), places(case)))(*operands)
    assert_close(got, jax.tree.map(lambda a: 2 * a, wanted), 1e-5)


MAPPED = [
    ("input0",),
    ("input1", "state0"),
    ("mask", "constant0"),
    ("weight1",),
    ("input0", "weight2"),
]


@pytest.mark.parametrize("names", MAPPED, ids="-".join)
def test_vmap(names):
    case = RoutineCase(mask=True, seed=10)
    many = [tensors(replace(case, seed=seed)) for seed in (10, 11)]
    mapped = [name in names for name in case.arrays]
    axes = tuple(0 if flag else None for flag in mapped)
    operands = tuple(
        jnp.stack([run[i] for run in many]) if flag else many[0][i] for i, flag in enumerate(mapped)
    )
    for function in (op(case), jax.grad(total(op(case)), places(case))):
        each = [
            function(*(o[i] if flag else o for o, flag in zip(operands, mapped, strict=True)))
            for i in range(2)
        ]
        wanted = jax.tree.map(lambda *results: jnp.stack(results), *each)
        assert_close(jax.vmap(function, axes)(*operands), wanted, 1e-5)
    folded = not any(name.startswith("weight") for name in names)
    text = jax.jit(jax.vmap(op(case), axes)).lower(*operands).as_text()
    assert ("tensor<6x5x4xf32>" in text) == folded
    assert ("while" in text) != folded


@pytest.mark.parametrize("case", [RoutineCase(mask=True, go_backwards=True), CASES[4]], ids=repr)
def test_forward_mode_and_second_derivatives_by_the_twin(case):
    operands = tensors(case)
    both = op(case, plain), loop(case)
    along = tuple(
        jnp.ones_like(o) if i in places(case) else np.zeros(o.shape, jax.dtypes.float0)
        for i, o in enumerate(operands)
        if i != 1
    )
    pushed = [
        jax.jvp(lambda *o, f=f: f(o[0], operands[1], *o[1:]), (operands[0], *operands[2:]), along)
        for f in both
    ]
    assert_close(*pushed, 1e-5)
    at = list(case.arrays).index("weight2")
    assert_close(*([jax.hessian(total(f), at)(*operands)] for f in both), 1e-5)


def test_without_a_twin_what_kernels_cannot_do_is_refused():
    case = RoutineCase()
    operands = tensors(case)
    with pytest.raises(TypeError, match=r"first derivatives.*use_engine"):
        jax.hessian(total(op(case)), 0)(*operands)


def test_an_export_is_the_twin():
    case = RoutineCase(mask=True)
    operands = tensors(case)
    exported = jax.export.export(jax.jit(op(case, plain)))(*operands)
    assert "ostinato_forward" not in exported.mlir_module()
    assert_close(exported.call(*operands), op(case)(*operands), 1e-5)


def test_shard_map_runs_each_part_by_itself():
    case = RoutineCase()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    split, whole = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
    specs = (split,) * 4 + (whole,) * 3
    sharded = jax.shard_map(op(case), mesh=mesh, in_specs=specs, out_specs=split)
    operands = tensors(case)
    assert_close(jax.jit(sharded)(*operands), op(case)(*operands), 1e-6)


@pytest.mark.parametrize("sizes", [(0, 5, 4, 7), (3, 0, 4, 7)], ids=str)
def test_arrays_without_elements(sizes):
    case = RoutineCase(mask=True, sizes=sizes)
    operands = tensors(case)
    results = op(case)(*operands)
    assert [y.shape for y in results] == [y.shape for y in (operands[1], *operands[1:3])]
    assert_close(results[2:], operands[2:3], 0)
    gradients = jax.grad(total(op(case)), places(case))(*operands)
    assert [g.shape for g in gradients] == [operands[i].shape for i in places(case)]
    assert not any(g.any() for g in gradients[3:])


# What it refuses.


def broken(case, name, change):
    return tuple(
        change(o) if key == name else o for key, o in zip(case.arrays, tensors(case), strict=True)
    )


@pytest.mark.parametrize("name", list(RoutineCase(mask=True).arrays)[1:])
@pytest.mark.parametrize("change", ["shape", "dtype"])
def test_a_wrong_shape_or_dtype_is_an_error(name, change):
    case = RoutineCase(mask=True)
    changes = {"shape": lambda a: jnp.concatenate([a, a], -1), "dtype": lambda a: a.astype("int32")}
    operands = broken(case, name, changes[change])
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT: .ostinato. forward: "):
        jax.block_until_ready(op(case)(*operands))


def test_what_gives_no_sizes_is_refused():
    case = RoutineCase()
    operands = tensors(case)
    with pytest.raises(ValueError, match=r"expected 7 inputs \(input0, input1, state0, .*got 6"):
        op(case)(*operands[:-1])
    with pytest.raises(ValueError, match=r"input0 \(batch, time, 4\), got \(3, 5\)"):
        op(case)(operands[0][..., 0], *operands[1:])
    with pytest.raises(ValueError, match="one run in a call of a routine"):
        door.native_run((case.spec, case.spec), operands * 2)


def test_a_routine_that_the_core_does_not_know_is_an_error(monkeypatch):
    case = RoutineCase(sizes=(2, 3, 4, 9))
    spec = case.spec
    made = spec.routines.registered("forward", False)
    monkeypatch.setitem(spec.routines._made, ("forward", False), made._replace(hashes=(1, 2)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT: .ostinato. forward: "):
        jax.block_until_ready(functools.partial(door.native_run, (spec,))(tensors(case)))
