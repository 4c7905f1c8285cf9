"""A card that is none, for PyTorch's tests; JAX's have one of their own."""

import pytest


@pytest.fixture(scope="session")
def kernels_folder(tmp_path_factory):
    """Where kernels' text is compiled, for all tests: many run the same."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def card(kernels_folder, monkeypatch):
    """By `card(units, barrier, edit)`: kernels of so many units a block, their text edited."""
    import on_cpu

    from ostinato.cuda import kernels
    from ostinato.doors import door, torch_cuda
    from ostinato.layers import planning

    monkeypatch.setattr(door, "cuda_why_not", lambda x: None)
    monkeypatch.setattr(planning, "why_no_cuda", lambda: None)
    monkeypatch.setattr(torch_cuda, "_stream_of", lambda x: 0)

    def use(units, barrier, edit=lambda text: text):
        monkeypatch.setattr(kernels, "_TOOLCHAIN", on_cpu.toolchain(kernels_folder, edit))
        monkeypatch.setattr(kernels, "layout", on_cpu.forced(units, barrier))

    return use


@pytest.fixture
def no_driver(tmp_path, monkeypatch):
    """A driver that is none, opened in place of NVIDIA's; a cache of its own."""
    import subprocess
    from pathlib import Path

    from ostinato.cuda import driver

    library = tmp_path / "libcuda.so"
    text = Path(__file__).with_name("fake_driver.cpp")
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, text], check=True)
    monkeypatch.setenv("OSTINATO_LIBCUDA", str(library))
    monkeypatch.setenv("OSTINATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(driver, "_VERSION", tmp_path / "version")
    monkeypatch.setattr(driver, "_NVML", str(tmp_path / "no such library"))
    caches = (driver._opened, driver.card, driver.described)
    for each in caches:
        each.cache_clear()
    yield library
    for each in caches:
        each.cache_clear()
