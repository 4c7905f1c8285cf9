"""JAX before a driver that is none: our handler and the kernels' text, on the CPU."""

import os
import subprocess
from pathlib import Path

import jax
import on_cpu
from jax.interpreters import mlir

from ostinato import native
from ostinato.cuda import driver, kernels
from ostinato.doors import door, jax_cuda
from ostinato.layers import planning


def built_driver(directory):
    """Where the driver is that our extension opens, once."""
    path = directory / "libcuda.so"
    text = Path(__file__).with_name("fake_driver.cpp")
    subprocess.run(["g++", "-shared", "-fPIC", "-o", path, text], check=True)
    os.environ["OSTINATO_LIBCUDA"] = str(path)
    jax.ffi.register_ffi_target(jax_cuda.TARGET, native.jax_cuda_handler(on_card=False), "cpu")
    mlir.register_lowering(jax_cuda._launch, jax_cuda._lowered, platform="cpu")
    return path


def replaced(directory):
    """What has to be replaced, and by what: (where, name, value)."""

    def cubin(text, arch):
        return on_cpu.toolchain(directory).cubin(text, arch) + b"\0"

    real = kernels.Toolchain(driver.card, cubin, driver.load, driver.launch)
    return (
        (door, "cuda_why_not", lambda x: None),
        (planning, "why_no_cuda", driver.why_not),
        (kernels, "_TOOLCHAIN", real),
    )


def laid_out(units, barrier, platform="cpu"):
    """Likewise, for kernels of so many units a block, lowered for a platform."""
    return (
        (jax_cuda._Recurrence, "platform", platform),
        (kernels, "layout", on_cpu.forced(units, barrier)),
    )
