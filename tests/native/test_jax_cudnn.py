"""JAX's door to cuDNN: what is lowered for CUDA, and what runs in its place elsewhere."""

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers
from ostinato.doors import door

if keras.config.backend() != "jax":
    pytest.skip("JAX's door", allow_module_level=True)

import jax

from ostinato.doors import jax_cudnn

X = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)


def loss_of(layer):
    """A scalar function of a layer's weights and inputs."""
    others = [v.value for v in layer.non_trainable_variables]

    def loss(weights, x):
        results, _ = layer.stateless_call(weights, others, x, mask=MASK)
        return sum((result**2).sum() for result in jax.tree.leaves(results))

    return loss, [v.value for v in layer.trainable_variables]


@pytest.mark.parametrize("wrap", [False, True])
def test_lowered_for_cuda_it_calls_cudnn_and_elsewhere_it_s_a_scan(with_cuda, wrap):
    layer = layers.LSTM(3, return_sequences=True, return_state=True, bias_initializer="normal")
    layer = layers.Bidirectional(layer) if wrap else layer
    layer.build(X.shape)
    loss, weights = loss_of(layer)
    with ostinato.use_engine("scan"):
        expected = jax.value_and_grad(lambda *a: loss(*a), argnums=(0, 1))(weights, X)
    with ostinato.use_engine("cudnn"):
        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        got = run(weights, X)
        traced = run.trace(weights, X)
        for_cuda = traced.lower(lowering_platforms=("cuda",)).as_text()
        for_cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
        many = np.stack([X, 2 * X])
        mapped = jax.vmap(jax.grad(loss, argnums=1), (None, 0))(weights, many)
        one_by_one = [jax.grad(loss, argnums=1)(weights, x) for x in many]
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert for_cuda.count("custom_call @cudnn_rnn_ffi") == 1
    assert for_cuda.count("custom_call @cudnn_rnn_bwd_ffi") == 1
    assert "while" not in for_cuda
    assert "cudnn" not in for_cpu
    np.testing.assert_allclose(mapped, np.stack(one_by_one), rtol=0, atol=1e-6)


def test_forward_mode_and_second_derivatives_are_the_scan_s(with_cuda):
    layer = layers.LSTM(3, return_sequences=True, return_state=True)
    layer.build(X.shape)
    loss, weights = loss_of(layer)

    def derivatives():
        _, pushed = jax.jvp(lambda x: loss(weights, x), (X,), (np.cos(X),))
        return pushed, jax.grad(lambda x: (jax.grad(loss, argnums=1)(weights, x) ** 2).sum())(X)

    with ostinato.use_engine("scan"):
        expected = derivatives()
    with ostinato.use_engine("cudnn"):
        got = derivatives()
        pushing = jax.jit(lambda x, t: jax.jvp(lambda x: loss(weights, x), (x,), (t,)))
        pushed = pushing.trace(X, X).lower(lowering_platforms=("cuda",)).as_text()
        many = np.stack([X, 2 * X])
        mapped = jax.jit(jax.vmap(lambda x: loss(weights, x))).trace(many)
        mapped = mapped.lower(lowering_platforms=("cuda",)).as_text()
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert "while" in pushed  # of the tangents
    assert mapped.count("custom_call @cudnn_rnn_ffi") == 1  # the mapped axis is in the batch
    assert "tensor<4x5x" in mapped


def test_what_it_refuses(monkeypatch):
    x = jax.numpy.zeros((2, 3, 4))
    assert door.cudnn_why_not(x) is None
    assert "without numbers" in door.cudnn_why_not(x[:0])
    monkeypatch.setattr(jax_cudnn, "platform_of", lambda x: "tpu")
    assert "JAX computes on tpu" in door.cudnn_why_not(x)
    monkeypatch.setattr(jax_cudnn, "platform_of", lambda x: "gpu")
    assert door.device_of(x) == "gpu"  # another vendor's
    assert "NVIDIA" in door.cudnn_why_not(x)
    monkeypatch.setattr(jax_cudnn, "_has_cuda", lambda: True)
    assert door.device_of(x) == "cuda"
    assert door.cudnn_why_not(x) is None
    monkeypatch.setattr(jax_cudnn, "rnn", None)
    assert "no jax.experimental.rnn" in door.cudnn_why_not(x)


def test_only_the_lstm_in_float32_or_less():
    for layer, reason in (
        (layers.GRU(3), "this backend calls cuDNN for lstm, not for gru"),
        (layers.SimpleRNN(3), "this backend calls cuDNN for lstm, not for rnn_tanh"),
        (
            layers.LSTM(3, dtype="float64"),
            "this backend calls cuDNN for float32, float16, bfloat16, not for float64",
        ),
    ):
        layer.build(X.shape)
        with ostinato.use_engine("cudnn"):
            (row,) = ostinato.explain(layer)
            assert row.engine == "none"
            assert reason in row.why_not_faster


def test_precision_is_jax_s_setting():
    for setting, precision in (
        (None, "tf32"),
        ("highest", "float32"),
        ("float32", "float32"),
        ("tensorfloat32", "tf32"),
        ("bfloat16", "tf32"),  # which cuDNN hasn't got
    ):
        with jax.default_matmul_precision(setting):
            assert door.cudnn_precision("bfloat16") == precision
