"""The native engine under TensorFlow: values, gradients, and each way in which it runs things."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest

if keras.config.backend() != "tensorflow":
    pytest.skip("for TensorFlow", allow_module_level=True)

import tensorflow as tf

import ostinato
from native.on_tensorflow import (
    assert_equal,
    function_of,
    pulled,
    run,
    tensors,
    total,
)
from native.runs import CASES, KINDS, Case, assert_close, expected
from ostinato import layers, native
from ostinato.doors import door
from support import in_turn

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)


@pytest.fixture(autouse=True)
def _loaded():
    assert door.native_why_not(tf.zeros(1)) is None


# Values and gradients.


@pytest.mark.parametrize(
    ("case", "dtype", "training"),
    in_turn(CASES, ["float32", "float64"], [True, False]),
    ids=repr,
)
def test_values_and_gradients(case, dtype, training):
    wanted, tolerance = expected(case), {"float32": 1e-5, "float64": 1e-10}[dtype]
    operands = tensors(case, dtype)
    needed = {name: operands[name] for name in wanted.gradients}
    with tf.GradientTape() as tape:
        tape.watch(needed)
        results = run(case, operands, training)
    assert all(y.dtype == dtype for y in results)
    assert_close(results, wanted.results, tolerance)
    seeds = [tf.constant(d, dtype) for d in wanted.d_results]
    got = tape.gradient(results, list(needed.values()), output_gradients=seeds)
    assert_close(got, wanted.gradients.values(), 10 * tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_graph_as_outside(kind):
    case = Case(kind, mask=True, input_masks=1)
    operands = tensors(case)
    assert_equal(function_of(case)(*operands.values()), run(case, operands))

    @tf.function
    def step():
        return pulled(case, operands)

    results, gradients = step()
    wanted = pulled(case, operands)
    assert_equal(results, wanted[0])
    assert_equal(gradients.values(), wanted[1].values())


@pytest.mark.parametrize("training", [[True, False], [False, False]])
def test_several_runs_in_one_call(training):
    cases = [Case("gru"), Case("lstm", mask=True, sizes=(2, 6, 3, 5), return_sequences=False)]
    operands = [tensors(case) for case in cases]
    specs = tuple(replace(c.spec, training=t) for c, t in zip(cases, training, strict=True))
    pairs = zip(cases, operands, strict=True)
    wanted = [{name: o[name] for name in case.differentiable} for case, o in pairs]
    with tf.GradientTape() as tape:
        tape.watch(wanted)
        results = door.native_run(specs, tuple(t for o in operands for t in o.values()))
        loss = total(results)
    gradients = tape.gradient(loss, wanted)
    apart = [pulled(case, o) for case, o in zip(cases, operands, strict=True)]
    assert_equal(results, [y for of_run, _ in apart for y in of_run])
    for got, (_, theirs) in zip(gradients, apart, strict=True):
        assert_equal(got.values(), theirs.values())


def test_large_results_are_kept_while_needed():
    case = Case(sizes=(16, 40, 8, 64))
    operands = tensors(case, "float32")
    results, gradients = pulled(case, operands)
    copies = [y.numpy() for y in results]
    for _ in range(3):
        again, same = pulled(case, operands)
        assert_equal(same.values(), gradients.values())
        assert_equal(again, copies)
    assert_equal(results, copies)


# Tapes.


@pytest.mark.parametrize("training", [True, False])
def test_a_tape_is_used_several_times(training):
    case = Case("gru", mask=True)
    operands = tensors(case)
    wanted = {name: operands[name] for name in case.differentiable}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(wanted)
        loss = total(run(case, operands, training))
    first, second = (tape.gradient(loss, wanted) for _ in range(2))
    assert_equal(first.values(), second.values())


@pytest.mark.parametrize("used", [0, 1, 2])
@pytest.mark.parametrize("graph", [False, True])
def test_gradients_of_one_result(used, graph):
    case = Case("lstm")
    operands = tensors(case)

    def step(seeds):
        with tf.GradientTape() as tape:
            tape.watch(operands)
            results = run(case, operands, training=True)
            targets = results if seeds else [results[used]]
        return tape.gradient(targets, operands, output_gradients=seeds)

    zeros = [tf.zeros_like(y) for y in run(case, operands)]
    seeds = [tf.ones_like(y) if i == used else y for i, y in enumerate(zeros)]
    got = (tf.function(step) if graph else step)(None)
    assert_equal(got.values(), step(seeds).values())


def test_dx_is_computed_only_where_it_is_asked_for():
    case = Case("lstm")
    operands = tensors(case)

    def backward_outputs(*watched):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                tape.watch([operands[name] for name in watched])
                loss = total(run(case, operands, training=True))
            return tape.gradient(loss, [operands[name] for name in watched])

        graph = step.get_concrete_function().graph
        (found,) = (op for op in graph.get_operations() if op.type == "OstinatoBackward")
        return len(found.outputs)

    assert backward_outputs("x", "kernel") == 6
    assert backward_outputs("kernel", "h") == 5


def test_sparse_gradients():
    operands = tensors(Case())

    def step(pick):
        with tf.GradientTape() as tape:
            tape.watch(operands)
            loss = tf.reduce_sum(pick(run(Case(), operands, training=True)[0]))
        return tape.gradient(loss, operands)

    got, wanted = step(lambda ys: tf.gather(ys, [2, 0])), step(lambda ys: ys[:1] + ys[2:])
    assert_close(got.values(), wanted.values())


# Graphs.


def test_unknown_sizes():
    case = Case("lstm", mask=True)
    operands = tensors(case)
    shapes = {"x": (None, None, 4), "h": (None, 7), "c": (None, 7), "mask": (None, None)}
    signature = [
        tf.TensorSpec(shapes.get(name, tensor.shape), tensor.dtype)
        for name, tensor in operands.items()
    ]
    call = function_of(case, input_signature=signature)
    ys, h, c = call.get_concrete_function().outputs
    assert [tuple(y.shape) for y in (ys, h, c)] == [(None, None, 7), (None, 7), (None, 7)]
    for sizes in [(3, 5, 4, 7), (2, 9, 4, 7), (0, 3, 4, 7)]:
        operands = tensors(replace(case, sizes=sizes))
        assert_equal(call(*operands.values()), run(case, operands))
    nothing_known = [tf.TensorSpec(None, tensor.dtype) for tensor in operands.values()]
    assert_equal(
        function_of(case, input_signature=nothing_known)(*operands.values()), run(case, operands)
    )


def test_in_loops_of_tensorflow():
    case = Case("gru")
    operands = tensors(case)
    xs = tf.stack([operands["x"], operands["x"] * 2])

    def one(x):
        return run(case, operands | {"x": x}, training=True)[0]

    wanted = tf.stack([one(x) for x in xs])

    @tf.function
    def mapped(through):
        with tf.GradientTape() as tape:
            tape.watch(xs)
            ys = through(one, xs)
        return ys, tape.gradient(ys, xs)

    with tf.GradientTape() as tape:
        tape.watch(xs)
        ys = tf.stack([one(x) for x in tf.unstack(xs)])
    dx = tape.gradient(ys, xs)
    assert_equal(mapped(tf.map_fn), (wanted, dx))
    assert_equal(mapped(tf.vectorized_map), (wanted, dx))


def test_a_loop_carries_states():
    case = Case("gru", return_sequences=False)
    operands = tensors(case)

    @tf.function
    def looped(h):
        with tf.GradientTape() as tape:
            tape.watch(h)
            last = h
            for _ in tf.range(3):
                (last,) = run(case, operands | {"h": last}, training=True)
        return last, tape.gradient(last, h)

    with tf.GradientTape() as tape:
        tape.watch(operands["h"])
        last = operands["h"]
        for _ in range(3):
            (last,) = run(case, operands | {"h": last}, training=True)
    assert_equal(looped(operands["h"]), (last, tape.gradient(last, operands["h"])))


def losses(engine):
    keras.utils.set_random_seed(1)
    with ostinato.use_engine(engine):
        model = keras.Sequential([layers.LSTM(8, return_sequences=True), layers.GRU(8)])
        model.compile("adam", "mse")
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(32, 6, 4)), rng.normal(size=(32, 8))
        return model.fit(x, y, epochs=3, batch_size=8, verbose=0).history["loss"]


def test_fit():
    np.testing.assert_allclose(losses("fused"), losses("scan"), rtol=1e-5)


# What may come in.


@pytest.mark.parametrize("sizes", [(0, 5, 4, 7), (3, 0, 4, 7), (0, 0, 4, 7)])
def test_sizes_of_zero(sizes):
    case = Case("gru", sizes=sizes)
    operands = tensors(case)
    results, gradients = pulled(case, operands)
    batch, time, _, units = sizes
    assert [tuple(y.shape) for y in results] == [(batch, time, units), (batch, units)]
    for name, gradient in gradients.items():
        assert gradient.shape == operands[name].shape
        assert np.isfinite(gradient).all()


# Threads.


def test_concurrent_calls():
    cases = [Case(kind, mask=True, sizes=(4, 9, 5, 20), seed=s) for s in (0, 1) for kind in KINDS]

    def work(case):
        results, gradients = pulled(case, tensors(case))
        return [*results, *gradients.values()]

    alone = [work(case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            for got, wanted in zip(pool.map(work, cases), alone, strict=True):
                assert_equal(got, wanted)
