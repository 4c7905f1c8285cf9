"""JAX as where it has CUDA."""

from functools import partial

import pytest


@pytest.fixture
def with_cuda(monkeypatch):
    """JAX as where it has CUDA beside the CPU: what needs the library to say sizes says some."""
    from jax.experimental import rnn
    from jax.interpreters import mlir

    from ostinato.doors import jax_cudnn

    class Library:
        def build_rnn_descriptor(self, *sizes):
            return b"sizes"

    monkeypatch.setattr(jax_cudnn, "_has_cuda", lambda: True)
    gpu = rnn.gpu_rnn
    sizes = "compute_rnn_workspace_reserve_space_sizes"
    monkeypatch.setattr(gpu, sizes, lambda *of: (0, 7), raising=False)
    for primitive, rule in (
        (rnn.rnn_fwd_p, gpu._rnn_fwd_lowering),
        (rnn.rnn_bwd_p, gpu._rnn_bwd_lowering),
    ):
        mlir.register_lowering(primitive, partial(rule, Library(), "cu"), platform="cuda")
