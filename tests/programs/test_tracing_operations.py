"""Each of Keras's operations that is traced, in a cell of one line, against itself on tensors."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from ostinato.programs.evaluation import evaluate
from ostinato.programs.tracing import Like, trace
from support import IS_OLDEST_KERAS, WHOLE

ROWS = 3
# x is (B, 4), m is (B, 3, 4), p is (B, 6, 5, 2); w holds weights.
WEIGHTS = {"v": (4,), "sq": (4, 4), "w34": (3, 4), "w43": (4, 3), "h": (3, 4, 2), "one": ()}
A = keras.activations

CASES = {
    # Products.
    "matmul of a vector": lambda x, m, p, w: ops.matmul(x, w["v"]),
    "matmul of rows by a matrix": lambda x, m, p, w: ops.matmul(m, w["sq"]),
    "matmul of folded rows": lambda x, m, p, w: ops.reshape(
        ops.reshape(m, (-1, 4)) @ w["sq"], (-1, 3, 4)
    ),
    "matmul by a weight on the left": lambda x, m, p, w: ops.matmul(
        w["sq"], ops.transpose(m, (0, 2, 1))
    ),
    "matmul of a weight and a vector of rows": lambda x, m, p, w: w["w34"] @ x[:, :, None],
    "matmul of rows and rows": lambda x, m, p, w: ops.matmul(m, ops.transpose(m, (0, 2, 1))),
    "matmul of rows and vectors": lambda x, m, p, w: (m @ x[..., None])[..., 0],
    "matmul with broadcast batch axes": lambda x, m, p, w: ops.matmul(m[:, None], w["h"][:, :, :]),
    "dot": lambda x, m, p, w: ops.dot(m, w["w43"]),
    "inner": lambda x, m, p, w: ops.inner(m, w["w34"]),
    "tensordot": lambda x, m, p, w: ops.tensordot(m, w["h"], axes=2),
    "tensordot of axes": lambda x, m, p, w: ops.tensordot(p, w["h"], axes=[[3], [2]]),
    "einsum": lambda x, m, p, w: ops.einsum("bij,ijk->bk", m, w["h"]),
    "einsum with an axis that both keep": lambda x, m, p, w: ops.einsum("bij,ijk->bik", m, w["h"]),
    "einsum in another order": lambda x, m, p, w: ops.einsum("ijk,bij->bkj", w["h"], m),
    "einsum of rows": lambda x, m, p, w: ops.einsum("bij,bj->bi", m, x),
    "einsum of an outer product": lambda x, m, p, w: ops.einsum("bi,bj->bij", x, x),
    "einsum of three": lambda x, m, p, w: ops.einsum("bi,ij,bj->b", x, w["sq"], x),
    "einsum of one": lambda x, m, p, w: ops.einsum("bij->bj", m),
    "einsum without an arrow": lambda x, m, p, w: ops.einsum("bij,jk", m, w["w43"]),
    "einsum with dots": lambda x, m, p, w: ops.einsum("...i,io->...o", m, w["w43"]),
    "cumsum": lambda x, m, p, w: ops.cumsum(m, axis=1),
    "diff": lambda x, m, p, w: ops.diff(m, axis=-1)[:, :1] + ops.diff(m, 2, axis=1)[..., :3],
    "conv by strides over the edge": lambda x, m, p, w: ops.conv(
        p, ops.reshape(w["h"], (3, 2, 2, 2)), strides=2, padding="same"
    ),
    "conv of single places by strides": lambda x, m, p, w: ops.conv(
        p, ops.reshape(w["v"], (1, 1, 2, 2)), strides=2
    ),
    # Reductions.
    "sum of two axes": lambda x, m, p, w: ops.sum(p, axis=(1, 3)),
    "mean, var, std": lambda x, m, p, w: ops.mean(m, 1) + ops.var(m, axis=1) + ops.std(m, axis=1),
    "max, min": lambda x, m, p, w: (
        ops.max(m, axis=1, keepdims=True) - ops.min(m, axis=1, keepdims=True)
    ),
    "any, all": lambda x, m, p, w: (
        ops.cast(ops.any(m > 1, -1), "float32") + ops.cast(ops.all(m > -1, -1), "float32")
    ),
    "prod": lambda x, m, p, w: ops.prod(m, axis=1),
    "argmax, argmin": lambda x, m, p, w: ops.cast(
        ops.argmax(m, axis=1) - 2 * ops.argmin(m, axis=1), "float32"
    ),
    "one_hot": lambda x, m, p, w: ops.one_hot(ops.argmax(x, axis=-1), 4),
    "softmax of a middle axis": lambda x, m, p, w: ops.softmax(m, axis=1),
    "log_softmax": lambda x, m, p, w: ops.log_softmax(m),
    "logsumexp": lambda x, m, p, w: ops.logsumexp(m, axis=1),
    "norm, normalize": lambda x, m, p, w: ops.norm(m, axis=1) + ops.normalize(x),
    "moments": lambda x, m, p, w: sum(ops.moments(m, axes=[1, 2], keepdims=True)),
    "argmax that keeps its axis": lambda x, m, p, w: (
        ops.cast(ops.argmax(m, axis=1, keepdims=True), "float32") + m
    ),
    "reductions that keep their axes": lambda x, m, p, w: ops.concatenate(
        [
            ops.cast(kept, "float32")
            for kept in (
                ops.sum(m, axis=1, keepdims=True),
                ops.var(m, axis=1, keepdims=True),
                ops.std(m, axis=1, keepdims=True),
                ops.logsumexp(m, axis=(1,), keepdims=True),
                ops.any(m > 1, axis=1, keepdims=True),
                ops.all(m > -1, axis=1, keepdims=True),
                ops.norm(m, axis=1, keepdims=True),
            )
        ],
        axis=1,
    ),
    "norms of other orders": lambda x, m, p, w: (
        ops.norm(m, ord=1, axis=1)
        - 3 * ops.norm(m, ord=math.inf, axis=1)
        + ops.norm(-m, axis=2)[:, :1]
    ),
    "normalize a middle axis": lambda x, m, p, w: ops.normalize(m, axis=1),
    "max, min from a number on": lambda x, m, p, w: (
        ops.max(m, axis=1, initial=0.4) - 3 * ops.min(m, axis=1, initial=-0.4)
    ),
    "count_nonzero": lambda x, m, p, w: ops.cast(ops.count_nonzero(ops.relu(x), -1), "float32"),
    "layer_normalization": lambda x, m, p, w: ops.layer_normalization(m, w["v"], w["v"]),
    "batch_normalization": lambda x, m, p, w: ops.batch_normalization(
        m, w["w34"][:, 0], w["w34"][:, 1] ** 2, 1, w["w34"][:, 2], 3 * w["w34"][:, 3]
    ),
    "dot_product_attention": lambda x, m, p, w: ops.dot_product_attention(
        p, p[:, :4], 2 * p[:, 1:5]
    ),
    "rms_normalization": lambda x, m, p, w: ops.rms_normalization(m, w["v"]),
    # Places.
    "getitem": lambda x, m, p, w: p[:, 1:5:2, -1, None, ..., 0],
    "getitem of all but one": lambda x, m, p, w: m[:, -2, :3],
    "slice": lambda x, m, p, w: ops.slice(m, (0, 1, 2), (ops.shape(m)[0], 2, 2)),
    "split at places": lambda x, m, p, w: ops.split(p, [1, 3], axis=1)[1],
    "unstack": lambda x, m, p, w: ops.unstack(m, axis=2)[3],
    "take": lambda x, m, p, w: ops.take(m, [[2, 0], [1, 1]], axis=1),
    "flip, roll": lambda x, m, p, w: (  # Keras 3.10 flips one axis at a time on TensorFlow
        ops.flip(ops.flip(m, axis=1), axis=2) + ops.roll(m, (1, -1), axis=(1, 2))
    ),
    "swapaxes, moveaxis": lambda x, m, p, w: (
        ops.swapaxes(p, 1, 3) + ops.moveaxis(ops.moveaxis(p, 1, -1), 2, 1)[:, :, :, :6]
    ),
    "moveaxis of several": lambda x, m, p, w: ops.moveaxis(p, (1, 2), (2, 1)),
    "squeeze, expand_dims": lambda x, m, p, w: ops.squeeze(ops.expand_dims(x, (1, 3)), 1),
    "broadcast_to": lambda x, m, p, w: (
        ops.broadcast_to(x[:, None], (ops.shape(x)[0], 3, 4))
        * ops.broadcast_to(w["v"], (ops.shape(x)[0], 3, 4))
    ),
    "repeat, tile": lambda x, m, p, w: ops.repeat(m, 2, axis=1) + ops.tile(m, (1, 2, 1)),
    "pad": lambda x, m, p, w: (
        ops.pad(m, ((0, 0), (1, 2), (0, 1)))
        + ops.pad(m, ((0, 0), (2, 1), (1, 0)), constant_values=2.0)
    ),
    "stack, concatenate": lambda x, m, p, w: ops.concatenate(
        [ops.stack([x, 2 * x], axis=1), m], axis=1
    ),
    "diagonal, tril, triu": lambda x, m, p, w: (
        ops.diagonal(m[:, :, :3], axis1=1, axis2=2) + ops.sum(ops.tril(m) - 2 * ops.triu(m, 1), -1)
    ),
    "diagonals beside the main one": lambda x, m, p, w: ops.concatenate(
        [ops.diagonal(m, offset, axis1=1, axis2=2) for offset in (1, 2, -1, -2)], axis=1
    ),
    "hstack": lambda x, m, p, w: ops.hstack([m, 2 * m[:, :2]]),
    "zeros and ones of the batch": lambda x, m, p, w: ops.concatenate(
        [ops.zeros((ops.shape(x)[0], 2)), ops.ones_like(x), ops.full_like(x, 3.0)], axis=1
    ),
    # Elementwise.
    "where, clip": lambda x, m, p, w: ops.where(x > 0.2, ops.clip(x, -0.5, 0.5), w["v"] * 1.0),
    "clip between weights": lambda x, m, p, w: ops.clip(x, w["v"] - 0.2, w["v"] + 0.3),
    "arithmetic": lambda x, m, p, w: (2.0 - x) / (1.5 + x**2) * -w["one"] + abs(x) % 0.7 + x // 0.3,
    "logic": lambda x, m, p, w: ops.cast(((x > 0) & ~(x > 1)) | (x < -1) ^ (x == 0), "float32") * x,
    "powers and logarithms": lambda x, m, p, w: (
        ops.log2(1 + x * x) + ops.log10(2 + x * x) + ops.logaddexp(x, w["v"]) + ops.exp2(x) + 2.0**x
    ),
    "rounding": lambda x, m, p, w: (
        ops.round(3 * x, 1) + ops.floor(x) + ops.ceil(x) + ops.trunc(3 * x)
    ),
    "divide_no_nan, hypot": lambda x, m, p, w: (
        ops.divide_no_nan(x, ops.floor(x)) + ops.hypot(x, w["v"])
    ),
    "activations": lambda x, m, p, w: sum(
        f(x)
        for f in (
            A.gelu,
            A.mish,
            A.hard_silu,
            A.silu,
            A.elu,
            A.selu,
            A.softsign,
            A.relu6,
            A.hard_sigmoid,
            A.leaky_relu,
        )
    ),
    "activations with settings": lambda x, m, p, w: (
        A.elu(x, 0.5)
        + A.leaky_relu(x, 0.3)
        + A.gelu(x, True)
        + A.relu(x, 0.1, 1.5, 0.2)
        + A.celu(x, 0.7)
        + A.threshold(x, 0.1, 0.4)
    ),
    # By places known in the timestep only; in order; of whole numbers.
    "take by computed places": lambda x, m, p, w: ops.take(
        w["w34"], ops.cast(ops.clip(ops.abs(x), 0, 2), "int32"), axis=0
    ),
    "take of an infinite table": lambda x, m, p, w: ops.take(
        w["v"] / ops.convert_to_tensor([1.0, 0.0, 1.0, 1.0]), ops.argmax(x, axis=-1) * 0, axis=0
    ),
    "take_along_axis": lambda x, m, p, w: ops.take_along_axis(
        m, ops.cast(ops.clip(ops.abs(m[:, :2]), 0, 2), "int32"), axis=1
    ),
    "cumprod": lambda x, m, p, w: ops.cumprod(m, axis=1) + ops.cumprod(x, axis=-1)[:, None, :1],
    "sort": lambda x, m, p, w: ops.sort(m, axis=1) + ops.sort(ops.round(m)),
    "argsort": lambda x, m, p, w: ops.cast(ops.argsort(m, axis=-1), "float32"),
    "argsort of equals": lambda x, m, p, w: ops.cast(ops.argsort(ops.round(m)), "float32"),
    "sort of NaN": lambda x, m, p, w: ops.sort(ops.where(x > 0, math.nan, x)),
    "top_k": lambda x, m, p, w: (
        ops.top_k(m, 2)[0] + ops.cast(ops.top_k(m, 2)[1], "float32")  # places, the first of equals
    ),
    "an array of places": lambda x, m, p, w: m[:, [2, 0, 0], 1:3] + m[:, np.array([1, 1, 0]), ::2],
    "a cast to booleans": lambda x, m, p, w: ops.cast(ops.cast(ops.relu(3 * x), "bool"), "float32"),
    "a cast to whole numbers": lambda x, m, p, w: (
        ops.cast(ops.cast(x * 9, "int32") % 5, "float32")
        + ops.cast(ops.cast(x * 9, "int32") > 2, "float32")
    ),
    "whole numbers": lambda x, m, p, w: ops.cast(
        (ops.argmax(m, axis=1) * 3 + ops.argmin(m, axis=1)) // 2 - 4, "float32"
    ),
    # Loops whose course is known.
    "fori_loop": lambda x, m, p, w: ops.fori_loop(0, 3, lambda i, h: h * w["v"] + i, x),
    "while_loop": lambda x, m, p, w: ops.while_loop(
        lambda i, h: i < 2, lambda i, h: (i + 1, ops.tanh(h)), (0, x)
    )[1],
    "cond": lambda x, m, p, w: ops.cond(True, lambda: x + 1.0, lambda: x),
    # What isn't finite.
    "a NaN": lambda x, m, p, w: ops.where(x > 0, math.nan, x),
    "infinities as the largest numbers": lambda x, m, p, w: (
        ops.nan_to_num(ops.where(x > 0, math.inf, -math.inf)) / 1e38
    ),
    "a threshold exactly met": lambda x, m, p, w: A.threshold(ops.sign(x), 1.0, 7.0),
    "isclose of negative numbers": lambda x, m, p, w: ops.cast(
        ops.isclose(x, x * 1.001, rtol=0.01, atol=0.0), "float32"
    ),
    "nan_to_num": lambda x, m, p, w: (
        ops.nan_to_num(ops.where(x > 0, math.nan, x / w["v"] * 0))
        + ops.nan_to_num(ops.log(x * 0), neginf=-3.0, posinf=2.0)
    ),
    "logaddexp of infinities": lambda x, m, p, w: ops.logaddexp(
        ops.where(x > 0, x, -math.inf), ops.where(x > 0.5, x, -math.inf)
    ),
    "logsumexp of infinities": lambda x, m, p, w: ops.logsumexp(
        ops.where(m > 1, m, -math.inf),
        axis=(-1,),  # Keras 3.10 has no symbol of an axis alone
    ),
    "argmax of NaN": lambda x, m, p, w: ops.cast(
        ops.argmax(ops.where(m == ops.max(m, axis=1, keepdims=True), math.nan, m), axis=1),
        "float32",
    ),
    "cumsum of infinities": lambda x, m, p, w: ops.cumsum(
        ops.concatenate([m, ops.where(m > 1, math.inf, m), m, ops.where(m < 0, math.nan, m)], 1),
        axis=1,
    ),
    "arrays of float64": lambda x, m, p, w: (
        (x * np.linspace(0.1, 0.9, 4) - np.ones(4)) / np.float64(0.7) + m[:, 0] ** np.float64(2.0)
    ),
    "a fixed tensor on the left": lambda x, m, p, w: ops.ones((4,)) - x + ops.ones((4,)) / (x + 9),
    "fixed numbers": lambda x, m, p, w: ops.ones((ops.shape(x)[0], 4)) * 3,
    # Of weights alone.
    "an operation that is none of programs'": lambda x, m, p, w: (
        x @ ops.inv(w["sq"] + ops.eye(4)) + ops.diag(w["sq"]) + ops.qr(w["sq"])[0][0]
    ),
    "an expression of weights": lambda x, m, p, w: (
        x @ (w["sq"] - ops.transpose(w["sq"]) + ops.eye(4))
    ),
    "weights cut and joined": lambda x, m, p, w: (
        m * ops.concatenate([w["w34"][:1], w["w34"][1:] * 2], 0) + w["v"][:1]
    ),
}


class OneLine(keras.layers.Layer):
    """A cell whose output is a case, and whose states are all that it's made of."""

    state_size = ()

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.weights_of = {}

    def build(self, input_shape):
        for name, shape in WEIGHTS.items():
            self.weights_of[name] = self.add_weight(shape=shape, initializer="uniform", name=name)

    def call(self, inputs, states):
        return self.case(*inputs, self.weights_of), ()


# Keras 3.10 hasn't these, or gets their shapes or dtypes wrong on symbols.
NEWER = (
    "matmul of a vector",
    "inner",
    "logsumexp",
    "layer_normalization",
    "divide_no_nan, hypot",
    "argmax that keeps its axis",
    "arrays of float64",
)
# TensorFlow orders NaN as it likes, and takes no arrays as indices.
NOT_ON_TENSORFLOW = ("sort of NaN", "argmax of NaN", "an array of places")
LEFT_OUT = {
    *(NEWER if IS_OLDEST_KERAS else ()),
    *(NOT_ON_TENSORFLOW if keras.config.backend() == "tensorflow" else ()),
}
NAMES = [name for name in CASES if name not in LEFT_OUT]


@pytest.mark.parametrize("name", NAMES if WHOLE else NAMES[::4])
def test_an_operation_is_translated(name):
    rng = np.random.default_rng(3)
    shapes = ((4,), (3, 4), (6, 5, 2))
    xs = [ops.convert_to_tensor(rng.normal(size=(ROWS, *s)).astype("float32")) for s in shapes]
    cell = OneLine(CASES[name])
    cell.build(None)
    traced = trace(cell, [Like(shape, "float32") for shape in shapes], (), None, False)
    weights, _ = traced.prepare(cell, None)
    (output,), _ = evaluate(traced.program, xs, (), (), weights)
    expected = ops.convert_to_numpy(cell.call(xs, ())[0])
    np.testing.assert_allclose(ops.convert_to_numpy(output), expected, rtol=1e-5, atol=1e-5)
