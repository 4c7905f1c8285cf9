"""What the native engine refuses under TensorFlow."""

from dataclasses import replace

import keras
import pytest

if keras.config.backend() != "tensorflow":
    pytest.skip("for TensorFlow", allow_module_level=True)

import tensorflow as tf

from native.on_tensorflow import function_of, run, tensors, total
from native.runs import Case
from ostinato import native
from ostinato.doors import door, tensorflow_native
from ostinato.signatures import signature

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)

WRONG = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)


@pytest.fixture(autouse=True)
def _loaded():
    assert door.native_why_not(tf.zeros(1)) is None


def test_second_derivatives_are_refused():
    operands = tensors(Case())
    x = operands["x"]
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            loss = total(run(Case(), operands, training=True))
        dx = inner.gradient(loss, x)
    assert dx.shape == x.shape
    with pytest.raises(RuntimeError, match="first derivatives only"):
        outer.gradient(dx, x)


def test_xla_says_what_it_lacks():
    call = function_of(Case(), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="OstinatoForward"):
        call(*tensors(Case()).values())


def test_why_not():
    class OnGpu:
        device = "/job:localhost/replica:0/task:0/device:GPU:0"

    assert "runs on the CPU" in door.native_why_not(OnGpu())


def changed(name, tensor):
    return lambda operands: operands | {name: tensor(operands[name])}


@pytest.mark.parametrize(
    "wrong",
    [
        changed("x", lambda x: tf.cast(x, "float32")),
        changed("x", lambda x: tf.cast(x, "bool")),
        changed("x", lambda x: x[0]),
        changed("x", lambda x: x[..., :2]),
        changed("x", lambda x: x[..., :0]),
        changed("h", lambda h: h[:1]),
        changed("h", lambda h: h[..., None]),
        changed("kernel", lambda k: k[:, :-1]),
        changed("recurrent_kernel", lambda k: k[:-1]),
        changed("recurrent_kernel", lambda k: tf.reshape(k, [-1])),
        changed("recurrent_kernel", lambda k: tf.zeros([2**40, 0], k.dtype)),
        changed("bias", lambda b: b[None]),
        changed("mask", lambda m: tf.cast(m, "float64")),
        changed("mask", lambda m: m[:, :-1]),
        lambda o: dict(list(o.items())[:-1]),
        lambda o: o | {"more": o["mask"]},
        lambda o: dict(list(o.items())[:1]),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_wrong_operands_raise(wrong, training):
    case = Case("lstm", mask=True)
    operands = wrong(tensors(case))
    spec = (replace(case.spec, training=training),)
    operation = tensorflow_native._operations()[0].ostinato_forward
    count = signature("forward", spec).n_results

    def call(*inputs):
        return operation(inputs=inputs, Tout=[tf.float64] * count, spec=native.encode(spec))

    with pytest.raises(WRONG, match="OstinatoForward"):
        call(*operands.values())
    with pytest.raises(WRONG, match="OstinatoForward"):
        tf.function(call)(*operands.values())


@pytest.mark.parametrize("dtype", ["float16", "complex64", "int32"])
def test_other_dtypes_are_refused(dtype):
    operands = tensors(Case())
    operands["x"] = tf.cast(operands["x"], dtype)
    with pytest.raises((TypeError, tf.errors.InvalidArgumentError)):
        run(Case(), operands)


@pytest.mark.parametrize(
    "spec", [[], [1], [1] * 14, [9] * 15, [-1] * 15, [1, 99, *[0] * 13], [1, 0, 99, *[0] * 12]]
)
@pytest.mark.parametrize("name", ["ostinato_forward", "ostinato_backward"])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_wrong_specs_raise(name, spec, count):
    operation = getattr(tensorflow_native._operations()[0], name)
    operands = list(tensors(Case("lstm")).values())
    with pytest.raises(WRONG, match="Ostinato"):
        operation(inputs=operands, Tout=[tf.float64] * count, spec=spec)


@pytest.mark.parametrize("dtypes", [["float64"], ["float32"] * 3, ["float64"] * 4, ["float16"] * 3])
def test_wrong_output_dtypes_raise(dtypes):
    operation = tensorflow_native._operations()[0].ostinato_forward
    operands = list(tensors(Case("lstm")).values())
    with pytest.raises((*WRONG, TypeError)):
        operation(
            inputs=operands,
            Tout=[tf.as_dtype(dtype) for dtype in dtypes],
            spec=native.encode((Case("lstm").spec,)),
        )


@pytest.mark.parametrize(
    ("shape", "change"),
    [((0, 2**63 - 1, 1), {}), ((0, 2**31, 1), {}), ((2, 3, 1), {"ys_after": -100})],
)
def test_sizes_that_no_array_has_raise(shape, change):
    spec = replace(Case("lstm", has_bias=False).spec, training=1, **change)
    x, state = tf.zeros(shape), tf.zeros((shape[0], 4))
    inputs = [x, state, state, tf.zeros((1, 16)), tf.zeros((4, 16))]
    operation = tensorflow_native._operations()[0].ostinato_forward
    with pytest.raises(WRONG):
        operation(inputs=inputs, Tout=[tf.float32] * 4, spec=native.encode([spec]))
