"""A card that is none, for PyTorch's tests; JAX's have one of their own."""

import pytest


@pytest.fixture
def card(tmp_path, monkeypatch):
    """By `card(units, barrier, edit)`: kernels of so many units a block, their text edited."""
    import on_cpu

    from ostinato.cuda import kernels
    from ostinato.doors import door, torch_cuda
    from ostinato.layers import planning

    monkeypatch.setattr(door, "cuda_why_not", lambda x: None)
    monkeypatch.setattr(planning, "why_no_cuda", lambda: None)
    monkeypatch.setattr(torch_cuda, "_stream_of", lambda x: 0)

    def use(units, barrier, edit=lambda text: text):
        monkeypatch.setattr(kernels, "_TOOLCHAIN", on_cpu.toolchain(tmp_path, edit))
        monkeypatch.setattr(kernels, "layout", on_cpu.forced(units, barrier))

    return use
