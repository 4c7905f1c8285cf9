"""Run by test_kernels_on_cpu.py: a process without our native extension, as without a compiler."""

import sys
from pathlib import Path

import on_cpu
import torch
from minimal_cell import MinimalCell

import ostinato
from ostinato import layers, native
from ostinato.cuda import kernels
from ostinato.cuda.layout import BLOCK
from ostinato.doors import door, torch_cuda
from ostinato.layers import planning

native._load = lambda: (None, "it isn't built")
native.why_not.cache_clear()
assert native.why_not() == "it isn't built"
door.cuda_why_not = lambda x: None
planning.why_no_cuda = lambda: None
torch_cuda._stream_of = lambda x: 0
kernels._TOOLCHAIN = on_cpu.toolchain(Path(sys.argv[1]))
kernels.layout = on_cpu.forced(8, BLOCK)

x = torch.randn(3, 4, 2)
for layer in (layers.GRU(7, activation="softsign"), layers.RNN(MinimalCell(7))):
    wanted = layer(x)
    with ostinato.use_engine("cuda"):
        found = layer(x)
    assert torch.allclose(found, wanted, atol=1e-5), (found - wanted).abs().max()
    weight = layer.trainable_variables[0].value
    gradients = [torch.autograd.grad(ys.sum(), weight)[0] for ys in (found, wanted)]
    assert torch.allclose(*gradients, atol=1e-5)
