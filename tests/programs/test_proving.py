"""What the proof of a new program finds out: steps that are wrong in one thing, beside the cell."""

import keras
import pytest
from keras import ops

from ostinato.programs import proving
from ostinato.programs.tracing import Like

WIDTH, UNITS = 5, 4


class Real(keras.layers.Layer):
    """Softmax, so that the gradients of a sum of its results are zero; a bias that begins so."""

    state_size = output_size = UNITS

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(WIDTH, UNITS), initializer="ones", name="kernel")
        self.bias = self.add_weight(shape=(UNITS,), initializer="zeros", name="bias")

    def call(self, inputs, states, training=False):
        x = inputs * 2 if training else inputs
        h = ops.softmax(ops.matmul(x, self.kernel) + self.bias + states[0])
        return h, [h]


def bent(x, by=1.01):
    """The same value with another slope."""
    return ops.stop_gradient(x) + by * (x - ops.stop_gradient(x))


def not_finite(x):
    """Zeros, whose slope is no number."""
    return 0.0 * ops.power(0.0 * x, 0.5)


def results(cell, x, h, kernel=None, bias=None):
    """What the cell gives."""
    kernel = cell.kernel + 0.0 if kernel is None else kernel
    new = ops.softmax(ops.matmul(x, kernel) + (cell.bias if bias is None else bias) + h)
    return new, new


def first_changed(change):
    """The right step, its output changed."""

    def step(cell, x, h):
        output, new = results(cell, x, h)
        return change(output), new

    return step


WRONG = {
    "the output, a little": (first_changed(lambda y: 1.01 * y), "result 0 differs"),
    "the state, a little": (
        lambda cell, x, h: (results(cell, x, h)[0], 1.01 * results(cell, x, h)[1]),
        "result 1 differs",
    ),
    "the gradient of the input, a little": (
        lambda cell, x, h: results(cell, bent(x), h),
        "the gradient of input 0 differs",
    ),
    "the gradient of the state, a little": (
        lambda cell, x, h: results(cell, x, bent(h)),
        "the gradient of state 0 differs",
    ),
    "the gradient of a weight, a little": (
        lambda cell, x, h: results(cell, x, h, kernel=bent(cell.kernel + 0.0)),
        "the gradient of weight kernel differs",
    ),
    "a weight of zeros that isn't read": (
        lambda cell, x, h: results(cell, x, h, bias=ops.zeros(UNITS)),
        "result 0 differs",
    ),
    "no gradient, of a result whose sum has none": (
        first_changed(ops.stop_gradient),
        "the gradient of input 0 differs",
    ),
    "the shape": (first_changed(lambda y: y[..., None]), "result 0 differs by inf"),
    "a number that is none": (
        first_changed(lambda y: y + ops.sqrt(ops.array([0.0, 0.0, 0.0, -1.0]))),
        "result 0 differs by inf",
    ),
    "a gradient that is no number": (
        lambda cell, x, h: results(cell, x + not_finite(x), h),
        "the gradient of input 0 differs by inf",
    ),
}


def disproved(step, cell=None, dtype="float32", training=False):
    """What a step gets wrong."""
    cell = Real() if cell is None else cell
    cell.build((None, WIDTH))
    nests = (Like((WIDTH,), "float32"), [Like((UNITS,), "float32")], None)
    flat = lambda xs, states, constants: step(cell, *xs, *states)  # noqa: E731
    return proving.disproved(cell, nests, training, flat, dtype)


def test_what_is_right_is_proven():
    assert disproved(results) is None
    assert "result 0 differs" in disproved(results, training=True)
    assert disproved(lambda cell, x, h: results(cell, 2 * x, h), training=True) is None


def test_where_the_cell_is_not_defined_at_negative_numbers_others_are_taken():
    """Of both signs they'd make every gradient of a weight no number, on both sides."""

    class Root(Real):
        def call(self, inputs, states):
            return super().call(ops.sqrt(inputs), states)

    assert disproved(lambda cell, x, h: results(cell, ops.sqrt(x), h), Root()) is None
    told = disproved(
        lambda cell, x, h: results(cell, ops.sqrt(x), h, kernel=bent(cell.kernel + 0.0)), Root()
    )
    assert "the gradient of weight kernel differs" in told


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_out(name):
    step, told = WRONG[name]
    assert told in disproved(step)


def test_half_precision_explains_more():
    step, _ = WRONG["the output, a little"]
    assert disproved(step, dtype="float16") is None
    assert "result 0 differs" in disproved(first_changed(lambda y: 1.5 * y), dtype="bfloat16")


def test_a_gradient_that_only_the_cell_has_as_no_number_is_none_to_compare():
    class Rooted(Real):
        def call(self, inputs, states):
            return super().call(inputs + not_finite(inputs), states)

    assert disproved(results, Rooted()) is None


def test_a_threshold_met_by_chance_is_tried_again(monkeypatch):
    """A step that's wrong on some numbers alone; one that's wrong on all others, too, is wrong."""
    compared, tried = proving._compared, []

    def once(*args):
        tried.append(args[-1])
        return "it differs" if len(tried) == 1 else compared(*args)

    monkeypatch.setattr(proving, "_compared", once)
    assert disproved(results) is None
    assert tried == [0, 1]
