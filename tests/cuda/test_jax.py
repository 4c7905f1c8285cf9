"""The engine `cuda` on JAX: what is lowered for CUDA; our handler before a driver that is none."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers

if keras.config.backend() != "jax":
    pytest.skip("JAX's door", allow_module_level=True)
if shutil.which("g++") is None or sys.platform != "linux":
    pytest.skip("needs g++, and Linux", allow_module_level=True)

import jax
import jax_card
import on_cpu
from minimal_cell import MinimalCell

from ostinato.cuda import driver, kernels
from ostinato.cuda.layout import BLOCK, CLUSTER, GRID
from ostinato.doors import door, jax_cuda, jax_cudnn
from ostinato.layers import planning
from support import LONG, sample

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4, 3)).astype("float32")
MASK = np.array([[1, 1, 0, 1], [0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]], bool)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A driver that is none, which our extension opens once."""
    yield ctypes.CDLL(str(jax_card.built_driver(tmp_path_factory.mktemp("driver"))))
    del os.environ["OSTINATO_LIBCUDA"]


@pytest.fixture
def card(library, kernels_folder, monkeypatch):
    """A card that is none, by `card(units, barrier)`; kernels are lowered for the CPU then."""
    for each in (driver._opened, driver.card):
        each.cache_clear()
    for replacement in jax_card.replaced(kernels_folder):
        monkeypatch.setattr(*replacement)

    def use(*layout):
        for replacement in jax_card.laid_out(*layout):
            monkeypatch.setattr(*replacement)

    yield use
    for each in (driver._opened, driver.card):
        each.cache_clear()


CASES = {
    "lstm": (lambda: layers.LSTM(11, return_sequences=True, return_state=True), 8, GRID),
    "gru": (lambda: layers.GRU(9, reset_after=False, go_backwards=True), 8, CLUSTER),
    "own": (lambda: layers.RNN(MinimalCell(7), return_sequences=True), 8, BLOCK),
    "resets": (lambda: layers.GRU(9, truncate=3, return_sequences=True), 8, CLUSTER),
}
RESETS = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool)


def loss_of(layer, **call):
    """A scalar function of a layer's weights and inputs."""
    others = [v.value for v in layer.non_trainable_variables]
    call = {"mask": MASK, **call}

    def loss(weights, x):
        results, _ = layer.stateless_call(weights, others, x, **call)
        flat = jax.tree.leaves(results)
        return sum((y * np.cos(np.arange(y.size)).reshape(y.shape)).sum() for y in flat)

    return loss, [v.value for v in layer.trainable_variables]


@pytest.mark.parametrize("case", CASES if LONG else ("own", "resets"))
def test_values_and_gradients_are_those_of_scan(case, card, library):
    make, units, barrier = CASES[case]
    card(units, barrier)
    layer = make()
    layer.build(X.shape)
    call = {"resets": RESETS, "fresh_state": [np.ones((5, 9), "float32")]}
    loss, weights = loss_of(layer, **(call if case == "resets" else {}))
    both = jax.value_and_grad(loss, argnums=(0, 1))
    with ostinato.use_engine("scan"):
        wanted = jax.jit(lambda *a: both(*a))(weights, X)
    before = library.fake_launches()
    with ostinato.use_engine("cuda"):
        found = jax.block_until_ready(jax.jit(lambda *a: both(*a))(weights, X))
        launches = library.fake_launches() - before
        inferred = jax.jit(loss)(weights, X).block_until_ready()
    assert (launches, library.fake_contexts()) == (2, 0)  # there and back
    np.testing.assert_allclose(inferred, wanted[0], rtol=1e-5)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = float(np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * max(scale, 1e-2))
        assert scale > 0


@pytest.mark.parametrize("with_resets", sample([False, True], True))
def test_transforms_fold_the_batch_or_take_the_scan(with_resets, card, library):
    call = {"resets": RESETS} if with_resets else {}
    card(8, GRID)
    layer = layers.GRU(9, return_sequences=True, truncate=3 if call else None)
    layer.build(X.shape)
    loss, weights = loss_of(layer, **call)
    many = np.stack([X, 2 * X, -X])

    def transformed():
        mapped = jax.jit(jax.vmap(lambda x: loss(weights, x)))(many)
        each = jax.jit(jax.vmap(jax.grad(loss, argnums=1), (None, 0)))(weights, many)
        _, pushed = jax.jvp(lambda x: loss(weights, x), (X,), (np.cos(X),))
        twice = jax.grad(lambda x: (jax.grad(loss, argnums=1)(weights, x) ** 2).sum())(X)
        again = jax.jit(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(weights, X)
        return mapped, each, pushed, twice, again

    with ostinato.use_engine("scan"):
        wanted = transformed()
    with ostinato.use_engine("cuda"):
        before = library.fake_launches()
        jax.jit(jax.vmap(lambda x: loss(weights, x)))(many).block_until_ready()
        assert library.fake_launches() == before + 1
        found = transformed()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


def test_with_a_stamp_each_platform_has_its_engine(card, monkeypatch):
    """What was checked on a card is taken where it's lowered for cards, and there alone."""
    card(8, CLUSTER, "cuda")
    monkeypatch.setattr(jax_cudnn, "_has_cuda", lambda: True)
    monkeypatch.setattr(planning, "is_checked", lambda number: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for make in (CASES["gru"][0], CASES["own"][0]):
        layer = make()
        layer.build(X.shape)
        loss, weights = loss_of(layer)
        traced = jax.jit(jax.grad(loss)).trace(weights, X)
        calls = {
            platform: re.findall(
                r"custom_call @(ostinato_\w+)\(",
                traced.lower(lowering_platforms=(platform,)).as_text(),
            )
            for platform in ("cuda", "cpu")
        }
        assert calls["cuda"] == ["ostinato_cuda"] * 2
        assert set(calls["cpu"]) == {"ostinato_forward", "ostinato_backward"}


def test_the_custom_call_is_lowered_for_cuda_alone(card):
    card(8, CLUSTER, "cuda")
    layer = layers.LSTM(11, return_sequences=True)
    layer.build(X.shape)
    loss, weights = loss_of(layer)
    with ostinato.use_engine("scan"):
        wanted = jax.grad(loss, argnums=1)(weights, X)
    with ostinato.use_engine("cuda"):
        run = jax.jit(jax.grad(loss, argnums=1))
        np.testing.assert_allclose(run(weights, X), wanted, rtol=0, atol=1e-5)  # on the CPU
        traced = run.trace(weights, X)
    for_cuda = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(r"custom_call @ostinato_cuda\(", for_cuda)) == 2
    assert "while" not in for_cuda
    assert "ostinato_cuda(" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_each_device_runs_its_rows_of_a_sharded_batch(kernels_folder):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parent)}
    script = Path(__file__).with_name("sharded_on_jax.py")
    command = [sys.executable, script, kernels_folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_driver_s_refusal_is_an_error_of_jax_s(card, monkeypatch):
    card(8, CLUSTER)
    forced = on_cpu.forced(8, CLUSTER)
    monkeypatch.setattr(
        kernels, "layout", lambda *args: forced(*args)._replace(threads=on_cpu.THREADS + 32)
    )
    layer = layers.SimpleRNN(11)
    layer.build(X.shape)
    with (
        ostinato.use_engine("cuda"),
        pytest.raises(jax.errors.JaxRuntimeError, match="cuLaunchKernelEx: of the driver that is"),
    ):
        jax.jit(lambda x: layer(x))(X).block_until_ready()


def test_what_keeps_jax_from_it_is_said(monkeypatch):
    layer = layers.GRU(4)
    with ostinato.use_engine("cuda"), pytest.raises(ValueError, match="JAX computes on cpu"):
        layer(X)
    monkeypatch.setattr(jax_cuda, "device_of", lambda x: "cuda")
    assert door.cuda_why_not(jax.numpy.zeros((2, 0, 3))) == "it takes no tensor without numbers"
    for setting, products in (
        (None, "float32"),
        ("highest", "float32"),
        ("tensorfloat32", "tf32"),
        ("BF16_BF16_F32", "bfloat16"),
    ):
        with jax.default_matmul_precision(setting):
            assert door.cuda_products() == products
