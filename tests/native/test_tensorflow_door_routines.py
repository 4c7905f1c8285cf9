"""A cell of one's own on the native engine under TensorFlow, eagerly and in graphs."""

from dataclasses import replace

import keras
import numpy as np
import pytest

if keras.config.backend() != "tensorflow":
    pytest.skip("for TensorFlow", allow_module_level=True)

import tensorflow as tf

import ostinato
from native.on_tensorflow import assert_equal, function_of, pulled, run, tensors, total
from native.routine_cases import CASES, RoutineCase, plain
from native.runs import assert_close
from ostinato import layers, native
from ostinato.doors import door, tensorflow_native
from ostinato.signatures import signature
from programs.cells import Dense
from support import in_turn

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)

WRONG = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)


@pytest.fixture(autouse=True)
def _loaded():
    assert door.native_why_not(tf.zeros(1)) is None


def wanted_of(case, operands):
    """Results and gradients of the plain form."""
    asked = {name: operands[name] for name in case.differentiable}
    with tf.GradientTape() as tape:
        tape.watch(asked)
        results = plain((case.spec,), tuple(operands.values()))
        loss = total(results)
    return results, tape.gradient(loss, asked)


@pytest.mark.parametrize(
    ("case", "dtype", "training"),
    in_turn(CASES, ["float32", "float64"], [True, False]),
    ids=repr,
)
def test_values_and_gradients(case, dtype, training):
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    operands = tensors(case, dtype)
    results, gradients = pulled(case, operands, training)
    wanted, theirs = wanted_of(case, operands)
    assert all(y.dtype == dtype for y in results)
    assert_close(results, wanted, tolerance)
    assert_close(gradients.values(), theirs.values(), 10 * tolerance)


def test_in_a_graph_as_outside():
    case = RoutineCase(mask=True)
    operands = tensors(case)
    assert_equal(function_of(case)(*operands.values()), run(case, operands))
    results, gradients = tf.function(lambda: pulled(case, operands))()
    wanted = pulled(case, operands)
    assert_equal(results, wanted[0])
    assert_equal(gradients.values(), wanted[1].values())


@pytest.mark.parametrize("watched", [("input0", "weight0"), ("weight0", "state0")])
def test_what_is_computed_of_gradients(watched):
    case = RoutineCase()
    operands = tensors(case)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch([operands[name] for name in (*watched, "input1")])
            loss = total(run(case, operands, training=True))
        return tape.gradient(loss, [operands[name] for name in (*watched, "input1")])

    graph = step.get_concrete_function().graph
    (found,) = (op for op in graph.get_operations() if op.type == "OstinatoBackward")
    assert len(found.outputs) == 5 + ("input0" in watched)
    gradients = step()
    assert gradients[2] is None  # the second input has none
    _, theirs = wanted_of(case, operands)
    assert_close(gradients[:2], [theirs[name] for name in watched], 1e-11)


def test_unknown_sizes():
    case = RoutineCase(mask=True)
    operands = tensors(case)
    shapes = {
        name: (None, None, *tensor.shape[2:])
        if name.startswith("input")
        else (None, None)
        if name == "mask"
        else tensor.shape
        if name.startswith("weight")
        else (None, *tensor.shape[1:])
        for name, tensor in operands.items()
    }
    known = [tf.TensorSpec(shapes[name], tensor.dtype) for name, tensor in operands.items()]
    call = function_of(case, input_signature=known)
    outputs = call.get_concrete_function().outputs
    assert [tuple(y.shape) for y in outputs] == [(None, None, 7), (None, None, 7), (None, 7)]
    nothing = [tf.TensorSpec(None, tensor.dtype) for tensor in operands.values()]
    for of in (call, function_of(case, input_signature=nothing)):
        for sizes in [(3, 5, 4, 7), (2, 9, 4, 7), (0, 3, 4, 7)]:
            operands = tensors(replace(case, sizes=sizes))
            assert_equal(of(*operands.values()), run(case, operands))


def test_in_loops_of_tensorflow():
    case = RoutineCase()
    operands = tensors(case)
    xs = tf.stack([operands["input0"], operands["input0"] * 2])

    def one(x):
        return run(case, operands | {"input0": x}, training=True)[0]

    @tf.function
    def mapped(through):
        with tf.GradientTape() as tape:
            tape.watch(xs)
            ys = through(one, xs)
        return ys, tape.gradient(ys, xs)

    with tf.GradientTape() as tape:
        tape.watch(xs)
        ys = tf.stack([one(x) for x in tf.unstack(xs)])
    wanted = ys, tape.gradient(ys, xs)
    assert_equal(mapped(tf.map_fn), wanted)
    assert_equal(mapped(tf.vectorized_map), wanted)


class Layer(keras.layers.Layer):
    """The case's cell over a sequence, its weights trained."""

    def __init__(self, case, run):
        super().__init__()
        self.case, self.run, self.supports_jit = case, run, False
        arrays = [a for name, a in case.arrays.items() if name.startswith("weight")]
        self.learnt = [self.add_weight(a.shape, lambda *_, a=a, **__: a) for a in arrays]

    def call(self, x, training=False):
        batch, time, units = tf.shape(x)[0], tf.shape(x)[1], self.case.sizes[3]
        second, first = tf.zeros((batch, time, units)), tf.zeros((batch, units))
        spec = replace(self.case.spec, training=int(training))
        return self.run((spec,), (x, second, first, first, *map(tf.identity, self.learnt)))[0]


def test_fit():
    case = RoutineCase(sizes=(16, 5, 4, 7))

    def losses(run):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([Layer(case, run), keras.layers.Dense(2)])
        model.compile("adam", "mse")
        rng = np.random.default_rng(0)
        x, y = (rng.normal(size=shape).astype("float32") for shape in ((16, 5, 4), (16, 5, 2)))
        return model.fit(x, y, epochs=3, batch_size=8, verbose=0).history["loss"]

    np.testing.assert_allclose(losses(door.native_run), losses(plain), rtol=1e-5)


def test_a_cell_whose_weights_are_made_while_fit_traces():
    """They have no values yet where the cell is made into a program."""

    def losses(engine):
        keras.utils.set_random_seed(0)
        with ostinato.use_engine(engine):
            model = keras.Sequential([layers.RNN(Dense()), keras.layers.Dense(2)])
            model.compile("adam", "mse")
            rng = np.random.default_rng(0)
            x, y = rng.normal(size=(16, 5, 4)), rng.normal(size=(16, 2))
            return model.fit(x, y, epochs=3, batch_size=8, verbose=0).history["loss"]

    np.testing.assert_allclose(losses("compiled"), losses("scan"), rtol=1e-5)


@pytest.mark.parametrize("sizes", [(0, 5, 4, 7), (3, 0, 4, 7)])
def test_sizes_of_zero(sizes):
    case = RoutineCase(mask=True, sizes=sizes)
    operands = tensors(case)
    results, gradients = pulled(case, operands)
    batch, time, _, units = sizes
    shapes = [(batch, time, units), (batch, time, units), (batch, units)]
    assert [tuple(y.shape) for y in results] == shapes
    assert [g.shape for g in gradients.values()] == [operands[n].shape for n in gradients]


# What it refuses.


def test_second_derivatives_are_refused():
    case = RoutineCase()
    operands = tensors(case)
    x = operands["input0"]
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = total(run(case, operands, training=True))
        dx = inner.gradient(loss, x)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        outer.gradient(dx, x)


def test_xla_and_saved_models_say_what_they_lack(tmp_path):
    case = RoutineCase()
    operands = tensors(case)
    with pytest.raises(tf.errors.InvalidArgumentError, match="OstinatoForward"):
        function_of(case, jit_compile=True)(*operands.values())
    module = tf.Module()
    module.call = function_of(case)
    module.call(*operands.values())
    with pytest.raises(Exception, match="native operation, which exists in this process only"):
        tf.saved_model.save(module, tmp_path)


def changed(name, tensor):
    return lambda operands: operands | {name: tensor(operands[name])}


@pytest.mark.parametrize(
    "wrong",
    [
        changed("input0", lambda x: tf.cast(x, "float32")),
        changed("input0", lambda x: x[0]),
        changed("input0", lambda x: x[..., :2]),
        changed("input1", lambda x: x[:, 1:]),
        changed("state0", lambda h: h[:1]),
        changed("weight0", lambda k: k[:, :-1]),
        changed("weight1", lambda k: tf.reshape(k, [-1])),
        changed("mask", lambda m: tf.cast(m, "float64")),
        changed("mask", lambda m: m[:, :-1]),
        lambda o: dict(list(o.items())[:-1]),
        lambda o: o | {"more": o["mask"]},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_wrong_operands_raise(wrong, training):
    case = RoutineCase(mask=True)
    run(case, tensors(case), training)  # which registers it
    operands = wrong(tensors(case))
    call = signature("forward", (replace(case.spec, training=training),))
    operation = tensorflow_native._operations()[0].ostinato_forward

    def forward(*inputs):
        return operation(inputs=inputs, Tout=[tf.float64] * call.n_results, spec=call.flat)

    for function in (forward, tf.function(forward)):
        with pytest.raises(WRONG, match="OstinatoForward"):
            function(*operands.values())


def test_wrong_specs_raise():
    operands = list(tensors(RoutineCase()).values())
    flat = RoutineCase().spec.encoded("forward", 0)
    operations = tensorflow_native._operations()[0]
    for spec in (flat[:-1], (*flat, 0), (flat[0], 1, *flat[2:])):
        for name in ("ostinato_forward", "ostinato_backward"):
            with pytest.raises(WRONG, match="Ostinato"):
                getattr(operations, name)(inputs=operands, Tout=[tf.float64] * 3, spec=spec)
