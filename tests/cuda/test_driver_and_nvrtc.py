"""Launching through a driver that is none, and compiling for cards that aren't here."""

import functools
import itertools
import os
import shutil
import struct
from typing import NamedTuple

import keras
import numpy as np
import pytest
from benchmarks.own_cells import CELLS

import ostinato
from ostinato import layers

if keras.config.backend() != "torch":
    pytest.skip("PyTorch alone calls these kernels", allow_module_level=True)

import on_cpu
import torch

from ostinato.cuda import driver, kernels, nvrtc
from ostinato.cuda.apart import apart
from ostinato.cuda.layout import BLOCK, CLUSTER, GRID, Card, layout
from ostinato.cuda.passes import Passes
from ostinato.cuda.source import source
from ostinato.doors import door, torch_cuda
from ostinato.layers import planning
from ostinato.programs.compiling import compiled
from support import LONG

CARDS = (Card(80, 108, 166912), Card(90, 132, 232448), Card(100, 148, 232448))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("barrier", [GRID, CLUSTER])
def test_a_layer_runs_through_the_driver(barrier, no_driver, kernels_folder, monkeypatch):
    cubin = on_cpu.toolchain(kernels_folder).cubin
    real = kernels.Toolchain(driver.card, cubin, driver.load, driver.launch)
    monkeypatch.setattr(kernels, "_TOOLCHAIN", real)
    monkeypatch.setattr(kernels, "layout", on_cpu.forced(8, barrier))
    monkeypatch.setattr(door, "cuda_why_not", lambda x: None)
    monkeypatch.setattr(planning, "why_no_cuda", driver.why_not)
    monkeypatch.setattr(torch_cuda, "_stream_of", lambda x: 0)
    layer, x = layers.SimpleRNN(11), torch.randn(3, 4, 2)
    wanted = layer(x).detach()
    with torch.no_grad(), ostinato.use_engine("cuda"):
        np.testing.assert_allclose(layer(x), wanted, atol=1e-5)
    assert driver.card(0) == Card(90, 132, 232448)
    assert driver.described(0) == "a card that is none, a driver of CUDA 12.4"


# As /proc/driver/nvidia/version has it of either kind of the kernel's module.
CLOSED = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""
OPEN = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (a@U16)
GCC version:  gcc version 11.4.0
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_drivers_of_one_cuda_are_told_apart(no_driver, monkeypatch):
    def described(told=None):
        driver.described.cache_clear()
        if told is not None:
            driver._VERSION.write_text(told)
        return driver.described(0).removeprefix("a card that is none, ")

    assert described() == "a driver of CUDA 12.4"
    assert described("NVRM version: another text") == "a driver of CUDA 12.4"
    monkeypatch.setattr(driver, "_NVML", str(no_driver))
    assert described() == "driver 560.35.05 of CUDA 12.4"
    monkeypatch.setenv("FAKE_NO_NVML", "1")
    assert described() == "a driver of CUDA 12.4"
    assert described(CLOSED) == "driver 550.54.15 of CUDA 12.4"
    assert described(OPEN) == "driver 570.86.15 of CUDA 12.4"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_driver_without_a_card_is_said(no_driver, monkeypatch):
    monkeypatch.setenv("FAKE_NO_CARD", "1")
    assert driver.why_not() == "NVIDIA's driver can't begin: of the driver that is none"


def test_without_a_driver_it_is_said(monkeypatch):
    monkeypatch.setenv("OSTINATO_LIBCUDA", "/nowhere/libcuda.so")
    driver._opened.cache_clear()
    try:
        assert "can't be opened" in driver.why_not()
    finally:
        driver._opened.cache_clear()


class Form(NamedTuple):
    """What a call asks of a cell: see `ostinato.engines.cuda.Form`."""

    has_mask: bool = True
    zero_output: bool = False
    has_resets: bool = False
    truncates: bool = False


PLAIN, HELD, ZEROED = Form(has_mask=False), Form(), Form(zero_output=True)
ALL = Form(has_resets=True, truncates=True)


@functools.cache
def passes(kind, units, form=HELD, training=False):
    if kind in CELLS:
        cell = CELLS[kind].make(units)
    else:
        name, _, option = kind.partition(" ")
        options = dict([OPTIONS[option]]) if option else {}
        if training:
            options |= {"dropout": 0.2, "recurrent_dropout": 0.2}
        cell = getattr(layers, name)(units, recurrent_initializer="zeros", **options)
    cell.build((None, 4))
    states = [f"float32 {size}" for size in keras.tree.flatten(cell.state_size)]
    found = compiled(cell, "float32 4", states, None, training, "float32")
    step = apart(found.program).step
    fresh = len(states) if form.has_resets else None
    return Passes(step, form.has_mask, form.zero_output, fresh, form.truncates)


OPTIONS = {
    "before": ("reset_after", False),
    "gelu": ("activation", "gelu"),
    "without bias": ("use_bias", False),
}


def frames_and_registers(cubin):
    """Of an ELF's sections named .nv.info what it says of stack frames (17) and registers (47)."""
    at, size, count, names = (
        struct.unpack_from("<Q", cubin, 40)[0],
        *struct.unpack_from("<HHH", cubin, 58),
    )
    sections = [struct.unpack_from("<IIQQQQ", cubin, at + i * size) for i in range(count)]
    table = sections[names][4]
    found = {17: [], 47: []}
    for name, _, _, _, offset, length in sections:
        end = cubin.index(b"\0", table + name)
        if cubin[table + name : end] != b".nv.info":
            continue
        place = offset
        while place < offset + length:
            form, attribute, value = struct.unpack_from("<BBH", cubin, place)
            place += 4
            if form == 4:
                if attribute in found:
                    found[attribute].append(struct.unpack_from("<II", cubin, place)[1])
                place += value
    return found[17], found[47]


def test_code_on_disk_that_is_not_whole_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OSTINATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "why_not", lambda: None)
    monkeypatch.setattr(nvrtc, "version", lambda: (12, 9))
    asked = []
    monkeypatch.setattr(nvrtc, "compiled", lambda text, arch: asked.append(arch) or b"the code")
    for _ in range(2):
        assert nvrtc.cubin("text", 90) == b"the code"
    assert asked == [90]
    (file,) = (tmp_path / "cache").iterdir()  # and nothing else
    whole = file.read_bytes()
    for times, left in enumerate((b"", whole[:-1], whole[:20], b"other" + whole[5:]), start=2):
        file.write_bytes(left)
        assert nvrtc.cubin("text", 90) == b"the code"
        assert len(asked) == times
        assert file.read_bytes() == whole
    file.unlink()
    file.mkdir()  # nor where it can't be read, or written
    assert nvrtc.cubin("text", 90) == b"the code"
    assert list((tmp_path / "cache").iterdir()) == [file]


needs_nvrtc = pytest.mark.skipif(nvrtc.why_not() is not None, reason="needs NVRTC")


def check_without_spills(found, products, card, batch=32, ways=("infer", "train", "backward")):
    """Compiles passes for a card; how many kernels."""
    for way in ways:
        passed = getattr(found, way)
        laid = layout(passed, batch, card, products)
        if isinstance(laid, str):  # which the engine says then
            assert "KB of shared memory" in laid, laid
            return 0
        assert laid.shared <= card.shared
        frames, registers = frames_and_registers(nvrtc.compiled(source(passed, laid), card.arch))
        assert frames, way
        assert max(frames) == 0, way
        assert 16 < max(registers) <= 255
    return len(ways)


COMMON = [
    ("LSTMCell", 64, "float32"),
    ("LSTMCell", 256, "float32"),
    ("LSTMCell", 768, "bfloat16"),
    ("GRUCell", 512, "float32"),
    ("GRUCell", 512, "bfloat16"),
    ("SimpleRNNCell", 100, "tf32"),
    ("LayerNormLSTM", 128, "float32"),
]


@needs_nvrtc
@pytest.mark.parametrize(
    ("kind", "units", "products", "number"),
    [
        (*case, number)
        for at, case in enumerate(COMMON)
        for number in (range(len(CARDS)) if LONG else [at % len(CARDS)])
    ],
)
def test_every_card_has_it_without_spills(kind, units, products, number):
    card = CARDS[number]
    assert check_without_spills(passes(kind, units), products, card)


@needs_nvrtc
@pytest.mark.parametrize(
    ("kind", "units", "products", "form", "number"),
    [
        ("LSTMCell", 512, "float32", ALL, 0),
        ("LSTMCell", 128, "tf32", ZEROED, 1),
        ("LSTMCell gelu", 1024, "bfloat16", PLAIN, 2),
        ("GRUCell before", 512, "float32", ALL, 1),
        ("GRUCell without bias", 128, "bfloat16", ZEROED, 0),
        ("SimpleRNNCell gelu", 64, "float32", ALL, 2),
        ("LayerNormLSTM", 256, "bfloat16", ALL, 1),
        ("LayerNormLSTM", 64, "float32", PLAIN, 0),
    ],
)
def test_every_option_has_it_without_spills(kind, units, products, form, number):
    training = kind == "GRUCell before"
    assert check_without_spills(passes(kind, units, form, training), products, CARDS[number])


# An hour: OSTINATO_EVERY=1 asks for it.
EVERY = CARDS if os.environ.get("OSTINATO_EVERY") else ()


@needs_nvrtc
@pytest.mark.parametrize("card", EVERY, ids=lambda card: f"sm_{card.arch}")
@pytest.mark.parametrize("units", [64, 128, 256, 512, 768, 1024])
@pytest.mark.parametrize(
    "kind",
    [
        *("LSTMCell", "GRUCell", "GRUCell before", "SimpleRNNCell"),
        *("LSTMCell gelu", "GRUCell without bias"),
    ],
)
def test_every_configuration_has_it_without_spills(kind, units, card):
    made = 0
    for products, form in itertools.product(
        ("float32", "tf32", "bfloat16"), (PLAIN, HELD, ZEROED, ALL)
    ):
        made += check_without_spills(passes(kind, units, form), products, card, batch=64)
    assert made


@needs_nvrtc
@pytest.mark.parametrize("card", EVERY, ids=lambda card: f"sm_{card.arch}")
@pytest.mark.parametrize("kind", ["LayerNormLSTM", "PlainLSTM", "PeepholeLSTM"])
@pytest.mark.parametrize("units", [64, 128, 512])
def test_every_own_cell_has_it_without_spills(kind, units, card):
    for products, form in itertools.product(("float32", "bfloat16"), (PLAIN, ALL)):
        check_without_spills(passes(kind, units, form), products, card)


def test_layouts_hold_what_fits_and_say_what_does_not():
    barriers = {
        units: layout(passes("LSTMCell", units).train, 16, CARDS[1]).barrier
        for units in (64, 128, 512)
    }
    assert barriers == {64: BLOCK, 128: CLUSTER, 512: GRID}
    for batch in (1, 16, 64, 1000):
        laid = layout(passes("LSTMCell", 512).backward, batch, CARDS[1])
        assert laid.groups(batch) * laid.rows >= batch
        assert laid.groups_at_once(batch, CARDS[1]) * laid.blocks <= 132
    large = passes("LSTMCell", 2048).train
    assert "and the card has 227" in layout(large, 16, CARDS[1])
    halves = [
        layout(passes("LSTMCell", units).train, 16, CARDS[1], products)
        for units, products in ((1000, "float32"), (1400, "float32"), (1400, "bfloat16"))
    ]
    assert [isinstance(half, str) for half in halves] == [False, True, False]
