"""The native core through its Python module, without a framework."""

import os
import pickle
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import core
import numpy as np
import pytest

import ostinato
from native.runs import CASES, GATES, KINDS, Case, expected
from ostinato import native
from ostinato.signatures import pullback, signature

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))

TOLERANCES = {"float32": 2e-6, "float64": 1e-13}
TARGETS = native.runnable_targets() if native.why_not() is None else ()
EXTENSION = sys.modules.get("ostinato._native")


def training(case) -> native.RunSpec:
    return replace(case.spec, training=1, wants_dx=1)


def assert_close(got, wanted, dtype):
    scale = max(1e-2, np.abs(wanted).max(initial=0))
    tolerance = TOLERANCES.get(dtype, 2e-2)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_against_the_reference(case, dtype):
    spec, operands, truth = training(case), case.arrays, expected(case)
    *results, saved = core.forward(spec, operands, dtype)
    for got, wanted in zip(results, truth.results, strict=True):
        assert_close(got, wanted, dtype)
    gradients = core.backward(spec, operands, saved, truth.d_results, dtype)
    (names,) = signature("backward", (spec,)).results
    wanted = [truth.gradients[name.removeprefix("d_")] for name in names]
    for got, gradient in zip(gradients, wanted, strict=True):
        assert_close(got, gradient, dtype)


def test_gradients_are_routed_to_their_operands():
    cases = [Case("lstm", mask=True), Case("gru", seed=3, sizes=(3, 4, 2, 5), recurrent_masks=3)]
    specs, known, d_outputs = tuple(training(case) for case in cases), [], []
    for case in cases:
        known += case.arrays.values()
        d_outputs += expected(case).d_results
    known += [core.forward(training(case), case.arrays, "float64")[-1] for case in cases]  # saved
    wanted = [name != "x" or case is cases[0] for case in cases for name in case.arrays]
    route = pullback(specs, tuple(wanted))
    known = [*(known[place] for place in route.kept), *d_outputs]
    operands = [np.ascontiguousarray(known[place]) for place in route.operands]
    shapes = [shape for run in route.backward.shapes(operands) for shape in run]
    pulled = [np.full(shape, np.nan) for shape in shapes]
    native.backward(route.backward.flat, core.views(operands), core.views(pulled))
    places = iter(route.gradients)
    for case, wants_dx in zip(cases, (True, False), strict=True):
        truth = expected(case).gradients
        for name, place in zip(case.arrays, places, strict=False):
            assert (place is not None) == (name in truth and (name != "x" or wants_dx)), name
            if place is not None:
                assert_close(pulled[place], truth[name], "float64")


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_agree_with_the_core(kind):
    case = Case(kind, mask=True, input_masks=1, recurrent_masks=GATES[kind])
    spec = training(case)
    assert (tuple(case.arrays),) == signature("forward", (spec,)).operands
    core.forward(spec, case.arrays)  # which refuses all other shapes


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_call_gives_the_same_bits(kind):
    case = Case(kind, mask=True, sizes=(17, 9, 20, 70))
    spec, operands, d_results = training(case), case.arrays, expected(case).d_results
    *first, saved = core.forward(spec, operands)
    gradients = core.backward(spec, operands, saved, d_results)
    for _ in range(20):
        *again, saved = core.forward(spec, operands)
        assert [a.tobytes() for a in again] == [a.tobytes() for a in first]
        repeated = core.backward(spec, operands, saved, d_results)
        assert [a.tobytes() for a in repeated] == [a.tobytes() for a in gradients]


@pytest.mark.parametrize("sizes", [(0, 5, 4, 7), (3, 0, 4, 7), (0, 0, 4, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_or_no_timesteps(kind, sizes):
    case = Case(kind, mask=True, sizes=sizes)
    spec, operands = training(case), case.arrays
    *results, saved = core.forward(spec, operands)
    states = [operands[name].astype("float32") for name in ("h", "c") if name in operands]
    for got, initial in zip(results[1:], states, strict=True):
        np.testing.assert_array_equal(got, initial)
    d_results = [np.ones_like(result) for result in results]
    gradients = core.backward(spec, operands, saved, d_results)
    for name, gradient in zip(signature("backward", (spec,)).results[0], gradients, strict=True):
        assert (gradient == (name in ("d_h", "d_c"))).all(), name


def test_concurrent_calls():
    cases = [Case(kind, seed=seed, sizes=(9, 8, 5, 40)) for kind in KINDS for seed in range(2)]
    truths = [expected(case) for case in cases]

    def call(case, truth):
        for _ in range(50):
            results = core.forward(case.spec, case.arrays)
            for got, wanted in zip(results, truth.results, strict=True):
                assert_close(got, wanted, "float32")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, cases, truths))


def test_memory_does_not_grow():
    case = Case("lstm", sizes=(2, 3, 4, 5))
    spec = native.encode([training(case)])
    inputs = [a.astype("float32") for a in case.arrays.values()]
    (shapes,) = signature("forward", (training(case),)).shapes(inputs)
    outputs = [np.empty(shape, "float32") for shape in shapes]
    arguments = spec, core.views(inputs), core.views(outputs)

    def megabytes():
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (2**20 if sys.platform == "darwin" else 2**10)

    for _ in range(1000):
        native.forward(*arguments)
    before, pooled = megabytes(), native.pooled_bytes()
    for _ in range(400_000):  # so that 16 bytes show, the least that malloc gives
        native.forward(*arguments)
        native.PooledBuffer(10_000)
    assert native.pooled_bytes() <= pooled + 20_000
    assert megabytes() - before < 5


CASE = Case("lstm")


# In a process of its own.


def in_process(runs, **environment) -> dict:
    """What `core.main` answers for runs, with these environment variables."""
    path = os.pathsep.join(str(Path(p).parent) for p in (ostinato.__file__, EXTENSION.__file__))
    done = subprocess.run(
        [sys.executable, core.__file__, path],
        input=pickle.dumps(runs),
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def runs_of_all_kinds() -> list:
    cases = [Case(kind, mask=True, sizes=(9, 6, 5, 35)) for kind in KINDS]
    return [(training(case), case.arrays) for case in cases]


@pytest.mark.parametrize("target", TARGETS)
def test_a_forced_target_runs(target):
    answer = in_process(runs_of_all_kinds(), OSTINATO_TARGET=target)
    assert answer["target"] == target
    assert answer["why_not"] is None
    for (spec, operands), results in zip(runs_of_all_kinds(), answer["results"], strict=True):
        for got, wanted in zip(results[:-1], core.forward(spec, operands)[:-1], strict=True):
            assert_close(got, wanted, "float32")


def test_an_unknown_target_is_refused():
    answer = in_process(runs_of_all_kinds(), OSTINATO_TARGET="z80")
    assert answer["target"] == ""
    assert "OSTINATO_TARGET" in answer["why_not"]
    assert " or ".join(TARGETS) in answer["why_not"]
    assert answer["error"].startswith("forward: OSTINATO_TARGET: expected ")
    assert "results" not in answer


def test_a_target_without_bfloat16_refuses_it():
    spec = replace(CASE.spec, precision=native.BFLOAT16_PRODUCTS)
    answer = in_process([(spec, CASE.arrays)], OSTINATO_TARGET="baseline")
    assert "the target in use has no products of bfloat16, got 1" in answer["error"]


@pytest.mark.skipif(not native.computes_bfloat16(), reason="the processor has no bfloat16")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_of_bfloat16_against_the_reference(case):
    spec, truth = replace(training(case), precision=native.BFLOAT16_PRODUCTS), expected(case)
    *results, saved = core.forward(spec, case.arrays)
    for got, wanted in zip(results, truth.results, strict=True):
        assert_close(got, wanted, "bfloat16")
    gradients = core.backward(spec, case.arrays, saved, truth.d_results)
    (names,) = signature("backward", (spec,)).results
    for name, got in zip(names, gradients, strict=True):
        assert_close(got, truth.gradients[name.removeprefix("d_")], "bfloat16")


def test_runs_of_two_precisions_are_refused():
    specs = CASE.spec, replace(CASE.spec, precision=native.BFLOAT16_PRODUCTS)
    arrays = [a.astype("float32") for a in CASE.arrays.values()] * 2
    shapes = [shape for run in signature("forward", specs).shapes(arrays) for shape in run]
    results = [np.empty(shape, "float32") for shape in shapes]
    with pytest.raises(
        ValueError, match="run 1: precision: expected that of the first run, 0, got 1"
    ):
        native.forward(native.encode(specs), core.views(arrays), core.views(results))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_and_fork(threads):
    answer = in_process(runs_of_all_kinds(), OSTINATO_NUM_THREADS=str(threads))
    assert answer["threads"] == threads
    for results, forked in zip(answer["results"], answer["forked"], strict=True):
        assert [a.tobytes() for a in results] == [a.tobytes() for a in forked]


# What isn't a call.

SPEC = native.encode([CASE.spec]) if TARGETS else ()
N = len(native.FIELDS)


def attempt(spec=SPEC, inputs=None, outputs=None):
    """A good call of forward, but for what is given."""
    arrays = [a.astype("float32") for a in CASE.arrays.values()]
    (shapes,) = signature("forward", (CASE.spec,)).shapes(arrays)
    results = [np.empty(shape, "float32") for shape in shapes]
    native.forward(
        spec,
        core.views(arrays) if inputs is None else inputs(core.views(arrays)),
        core.views(results) if outputs is None else outputs(core.views(results)),
    )


def spec_with(**fields):
    """The case's spec, with other values of some fields."""
    return tuple(
        fields.get(name, value) for name, value in zip(native.FIELDS, SPEC, strict=bool(SPEC))
    )


def with_first(*first):
    """The views, but for the first one's address, dtype and shape."""

    def change(views):
        address, dtype, shape = views[0]
        given = (*first, *(address, dtype, shape)[len(first) :])
        return (given, *views[1:])

    return change


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"spec": ()}, ValueError, f"forward: spec: expected {N} integers a run, got 0"),
        ({"spec": SPEC[:-1]}, ValueError, f"spec: expected {N} integers a run, got {N - 1}"),
        ({"spec": spec_with(kind=9)}, ValueError, "forward: run 0: kind: expected 0 to 3, got 9"),
        ({"spec": spec_with(precision=4)}, ValueError, "run 0: precision: expected 0 to 3, got 4"),
        ({"spec": spec_with(precision=2)}, ValueError, "run 0: x: expected bfloat16, got float32"),
        ({"inputs": with_first(64, 3)}, ValueError, "expected float32 or float64, got bfloat16"),
        ({"spec": 5}, TypeError, "spec: expected a tuple or list, got int"),
        ({"spec": ("x",) * 15}, TypeError, "int"),
        ({"spec": (2**70,) * 15}, OverflowError, "int"),
        ({"spec": spec_with(ys_after=2)}, ValueError, "ys: expected float32 .3, 5, 9."),
        (
            {"spec": spec_with(ys_before=2)},
            ValueError,
            r"final state h: expected float32 \(3, 7\), got",
        ),
        ({"inputs": lambda v: v[1:]}, ValueError, "x: expected rank 3"),
        ({"inputs": lambda v: v[:-1]}, ValueError, "bias: expected one more input, got 5"),
        ({"inputs": lambda v: (*v, v[0])}, ValueError, "expected 6 inputs, got 7"),
        ({"inputs": lambda v: [view[:2] for view in v]}, TypeError, "address, dtype, shape"),
        ({"inputs": lambda v: None}, TypeError, "inputs: expected a tuple or list, got NoneType"),
        ({"inputs": with_first(0)}, ValueError, "run 0: x: expected data, got a null pointer"),
        ({"inputs": with_first(1)}, ValueError, "run 0: x: expected data aligned"),
        ({"inputs": with_first(-1)}, ValueError, "run 0: x: expected data aligned"),
        ({"inputs": with_first(0, 1)}, ValueError, "x: expected data, got a null pointer"),
        (
            {"inputs": with_first(64, 9)},
            ValueError,
            "expected float32 or float64, got of an unknown",
        ),
        ({"inputs": with_first(64, 2**32)}, ValueError, "expected float32 or float64, got of an"),
        ({"inputs": with_first(64, 0, (3, 5))}, ValueError, "x: expected rank 3 .*, got rank 2"),
        ({"inputs": with_first(64, 0, (1,) * 9)}, ValueError, "at most 8 dimensions, got 9"),
        ({"inputs": with_first(64, 0, (3, 5, 2**62))}, ValueError, "fits in memory"),
        ({"inputs": with_first(64, 0, (-3, 5, 4))}, ValueError, "fits in memory"),
        ({"inputs": with_first(64, 0, 7)}, TypeError, "expected a tuple or list, got int"),
        ({"outputs": lambda v: v[:1]}, ValueError, "final state h: expected one more output"),
        ({"outputs": with_first(0)}, ValueError, "run 0: ys: expected data, got a null pointer"),
        (
            {"outputs": with_first(64, 0, (3, 5, 8))},
            ValueError,
            r"expected float32 \(3, 5, 7\)",
        ),
    ],
)
def test_what_is_wrong_is_refused(arguments, error, message):
    attempt()
    with pytest.raises(error, match=message):
        attempt(**arguments)


def test_pooled_buffers_are_kept_for_the_next():
    nbytes = 3_000_000
    buffer = native.PooledBuffer(nbytes)
    array = np.frombuffer(buffer, "float32")
    assert array.nbytes == nbytes == len(buffer)
    array[:] = 1
    address = array.ctypes.data
    assert address % 64 == 0
    del buffer
    assert array.sum() == nbytes / 4  # it lives as long as who looks at it
    pooled = native.pooled_bytes()
    del array
    assert native.pooled_bytes() == pooled
    assert np.frombuffer(native.PooledBuffer(nbytes), "float32").ctypes.data == address


def test_pooled_buffers_of_no_size_that_there_is():
    assert len(native.PooledBuffer(0)) == 0
    with pytest.raises(MemoryError):
        native.PooledBuffer(2**62)
    with pytest.raises(TypeError):
        native.PooledBuffer(-1)
    bare = type(native.PooledBuffer(1))
    with pytest.raises(BufferError, match="without memory"):
        memoryview(bare.__new__(bare))
