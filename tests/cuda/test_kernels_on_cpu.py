"""The engine `cuda`: its kernels' text run on the CPU, against float64; no GPU has seen it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import ostinato
from ostinato import layers, native

if keras.config.backend() != "torch":
    pytest.skip("PyTorch alone calls these kernels", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("needs g++", allow_module_level=True)

import torch
from minimal_cell import MinimalCell

from ostinato.cuda import kernels
from ostinato.cuda.layout import BLOCK, CLUSTER, GRID
from ostinato.doors import door, torch_cuda
from ostinato.programs import elementwise

MASK = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()


CASES = {
    "lstm": (lambda: layers.LSTM(11, return_sequences=True, return_state=True), 8, GRID),
    "lstm masks": (lambda: layers.LSTM(11, dropout=0.2, recurrent_dropout=0.3), 8, CLUSTER),
    "gru": (lambda: layers.GRU(11, activation="gelu", use_bias=False), 16, BLOCK),
    "gru before": (lambda: layers.GRU(9, reset_after=False, go_backwards=True), 8, GRID),
    "simple": (
        lambda: layers.SimpleRNN(7, return_sequences=True, zero_output_for_mask=True),
        8,
        BLOCK,
    ),
    "own": (lambda: layers.RNN(MinimalCell(11), return_sequences=True), 8, CLUSTER),
}


def results(layer, engine, x, mask, training):
    """Outputs, and the gradients of x and all weights."""
    x = x.clone().requires_grad_()
    keras.utils.set_random_seed(3)
    for each in layer._flatten_layers():
        for name in ("seed_generator", "_seed_generator"):
            if hasattr(each, name):
                getattr(each, name).state.assign([7, 0])
    with ostinato.use_engine(engine):
        found = layer(x, mask=mask, training=training)
    flat = list(found) if isinstance(found, list | tuple) else [found]
    weights = [variable.value for variable in layer.trainable_variables]
    upstream = [torch.cos(torch.arange(each.numel())).reshape(each.shape) for each in flat]
    loss = sum((each * weight).sum() for each, weight in zip(flat, upstream, strict=True))
    return [*flat, *torch.autograd.grad(loss, [x, *weights])]


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_scan(case, card):
    make, units, barrier = CASES[case]
    card(units, barrier)
    layer, x = make(), torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1))
    layer(x)
    masks = "masks" in case
    wanted = results(layer, "scan", x, MASK, masks)
    found = results(layer, "cuda", x, MASK, masks)
    for one, other in zip(found, wanted, strict=True):
        scale = float(other.detach().abs().max())
        np.testing.assert_allclose(one.detach(), other.detach(), atol=3e-6 * max(scale, 1e-2))
        assert scale > 0


def test_rows_beyond_a_group_and_the_other_order_of_threads(card, monkeypatch):
    card(8, GRID)
    layer, x = layers.GRU(11), torch.randn(19, 3, 2)
    layer(x)
    wanted = results(layer, "scan", x, None, False)
    for order in ("SHIM_REVERSE", "SHIM_UNEVEN"):
        monkeypatch.setenv(order, "1")
        for one, other in zip(results(layer, "cuda", x, None, False), wanted, strict=True):
            np.testing.assert_allclose(one.detach(), other.detach(), atol=1e-5)


def test_what_keeps_it_from_a_layer_is_said():
    layer, x = layers.LSTM(3), torch.randn(2, 3, 4)
    with ostinato.use_engine("cuda"), pytest.raises(ValueError, match="the tensors are on cpu"):
        layer(x)
    assert "cuda" not in str(ostinato.explain(keras.Sequential([keras.Input((3, 4)), layer])))


def test_torch_compile_has_it_in_its_graph(card):
    card(8, BLOCK)
    layer, x = layers.SimpleRNN(7, return_sequences=True), torch.randn(3, 4, 5)
    wanted = results(layer, "scan", x, None, False)
    given = x.clone().requires_grad_()
    with ostinato.use_engine("cuda"):
        found = torch.compile(layer, backend="aot_eager", fullgraph=True)(given)
    upstream = torch.cos(torch.arange(found.numel())).reshape(found.shape)
    (found * upstream).sum().backward()
    np.testing.assert_allclose(found.detach(), wanted[0].detach(), atol=1e-5)
    np.testing.assert_allclose(given.grad, wanted[1], atol=1e-5)


@pytest.mark.parametrize(("setting", "bits"), [("high", 11), ("medium", 8)])
def test_products_are_computed_from_what_is_asked_for(setting, bits, card):
    torch.set_float32_matmul_precision(setting)
    try:
        card(16, GRID)
        layer, x = layers.LSTM(21, return_sequences=True), torch.randn(5, 4, 3)
        layer(x)
        wanted = results(layer, "scan", x, MASK, False)
        found = results(layer, "cuda", x, MASK, False)
        with ostinato.use_engine("cuda"):
            (row,) = ostinato.explain(layer)
        shown = {"high": "tf32", "medium": "bfloat16"}[setting]
        assert shown in str(row), row
    finally:
        torch.set_float32_matmul_precision("highest")
    errors = [
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(found, wanted, strict=True)
    ]
    assert max(errors) < 4 * 2.0**-bits  # rounded to so many bits
    assert max(errors[1:]) > 2.0**-bits / 64  # and to no more: the inputs' products are PyTorch's


def test_the_operation_is_what_torch_wants_of_one(card):
    card(8, BLOCK)
    layer, x = layers.SimpleRNN(7, return_sequences=True), torch.randn(3, 4, 5)
    layer(x)
    calls = []
    real = torch_cuda.cuda_recurrence

    def recorded(name, operands, every, products):
        calls.append((name, every, products, operands))
        return real(name, operands, every, products)

    with pytest.MonkeyPatch.context() as patch, ostinato.use_engine("cuda"):
        patch.setattr(door, "cuda_recurrence", recorded)
        layer(x)
    name, every, products, operands = calls[0]
    for train in (False, True):
        given = [operand.detach().clone().requires_grad_(train) for operand in operands]
        torch.library.opcheck(
            torch.ops.ostinato.cuda_forward.default,
            (name, every, products, train, given),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
            + (("test_aot_dispatch_dynamic",) if train else ()),
        )


def test_vmap_makes_the_mapped_axis_part_of_the_batch(card, monkeypatch):
    card(8, CLUSTER)
    layer, many = layers.GRU(9, return_sequences=True), torch.randn(3, 5, 4, 2)
    layer(many[0])
    launches = []
    launch = kernels._TOOLCHAIN.launch
    counting = kernels._TOOLCHAIN._replace(
        launch=lambda *args: (launches.append(args), launch(*args))
    )
    monkeypatch.setattr(kernels, "_TOOLCHAIN", counting)

    def loss(x):
        return (layer(x, mask=MASK) ** 2).sum()

    def gradients():
        return torch.func.vmap(loss)(many), torch.func.vmap(torch.func.grad(loss))(many)

    with ostinato.use_engine("scan"):
        wanted = gradients()
    with ostinato.use_engine("cuda"):
        found = gradients()
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-4, atol=1e-5)
    assert len(launches) == 3  # one for all; then there and back


def test_it_needs_none_of_our_native_code(kernels_folder):
    script = Path(__file__).with_name("without_native.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parent)}
    command = [sys.executable, script, kernels_folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_names_of_activations_are_the_core_s():
    assert native.activation_names() == elementwise.ACTIVATIONS
