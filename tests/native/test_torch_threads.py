"""Under PyTorch the native engine works on PyTorch's own threads, and not in a child after fork."""

import _ctypes
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

if keras.config.backend() != "torch":
    pytest.skip("for PyTorch", allow_module_level=True)

import torch

from ostinato import native

if native.why_not() is not None:
    pytest.skip(f"no native engine: {native.why_not()}", allow_module_level=True)
if "OpenMP" not in torch.__config__.parallel_info() or not Path("/proc/self/task").exists():
    pytest.skip("for PyTorch with OpenMP, on Linux", allow_module_level=True)

BEGIN = """
import os, signal
import torch
from ostinato.layers import LSTM
layer = LSTM(32)
x = torch.ones(64, 20, 16)
def threads():
    return len(os.listdir("/proc/self/task"))
torch.ones(1 << 22).sum()  # has PyTorch start its team
with torch.no_grad():
    before = threads()
    y = layer(x)
    started = threads() - before
"""
FORK = """
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that waits for the parent's threads is ended
        same = all(torch.equal(layer(x), y) for _ in range(20))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
"""


def run(script, **environment):
    """What a script prints, in a process of its own; of PyTorch's threads it has two."""
    settings = {"OSTINATO_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", **environment}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "KERAS_BACKEND": "torch", **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_thread_of_its_own_but_in_a_child_after_a_fork():
    # On a busy machine PyTorch's may come late, and then the engine does start one.
    assert any(run(BEGIN + FORK + "print(started)") == "0" for _ in range(5))


def test_as_many_as_it_is_told_of_its_own_where_pytorch_has_fewer():
    count = """
from ostinato import native
alone = native.threads()
torch.set_num_threads(2)
print(started, alone, native.threads())
"""
    assert run(BEGIN + count, OSTINATO_NUM_THREADS="3", OMP_NUM_THREADS="1") == "2 3 3"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: one thread anyway")
def test_as_many_as_pytorch_has_where_it_is_told_no_number():
    count = """
import torch
import ostinato.layers
from ostinato import native
torch.set_num_threads(1)
alone = native.threads()
torch.set_num_threads(2)
print(alone, native.threads())
"""
    assert run(count, OSTINATO_NUM_THREADS="") == "1 2"


def test_a_library_without_openmp():
    assert not native.lend_openmp(ctypes.CDLL(_ctypes.__file__))
