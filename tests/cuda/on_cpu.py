"""Kernels' text compiled for the CPU under shim.h, in the place of NVRTC, driver and card."""

import ctypes
import hashlib
import subprocess
from pathlib import Path

from ostinato.cuda import driver, kernels, layout
from ostinato.cuda.layout import BLOCK, CLUSTER, Card

SHIM = Path(__file__).with_name("shim.h")
FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC")
CARD = Card(90, 132, 232448)
THREADS = 64  # fibers: fewer are quicker
ENTRY = """
extern "C" int launch(const Call *p, int grid, int cluster, long shared) {
  return shim::launch(grid, THREADS, cluster, shared, [=] { ostinato_run(*p); });
}
"""


class RefusedError(RuntimeError):
    """A thread has trapped, or all wait."""


def precompile(directory: Path) -> None:
    """Has the shim's header compiled there: more than half of the time that a kernel takes."""
    compiled = directory / f"{SHIM.name}.gch"
    if not compiled.exists():
        subprocess.run(["g++", *FLAGS, "-x", "c++-header", SHIM, "-o", compiled], check=True)


def built(text: str, directory: Path) -> Path:
    """A library of a kernel's text, made once in a directory."""
    whole = f"#include <{SHIM.name}>\n#define KERNEL static void\n{text}\n{ENTRY}"
    path = directory / hashlib.sha256(whole.encode()).hexdigest()[:16]
    library = path.with_suffix(".so")
    if not library.exists():
        path.with_suffix(".cpp").write_text(whole)
        precompile(directory)
        folders = (f"-I{directory}", f"-I{SHIM.parent}")
        command = ["g++", *FLAGS, *folders, "-shared", "-o", library, path.with_suffix(".cpp")]
        subprocess.run(command, check=True)
    return library


def toolchain(directory: Path, edit=lambda text: text):
    """What compiles and runs kernels on the CPU; `edit` changes their text."""

    def load(image, laid):
        return driver.Kernel(ctypes.CDLL(image.decode()), laid)

    def launch(kernel, groups, stream, call):
        laid = kernel.layout
        cluster = laid.blocks if laid.barrier == CLUSTER else 1
        grid, shared = groups * laid.blocks, ctypes.c_long(laid.shared)
        code = kernel.function.launch(ctypes.c_char_p(call), grid, cluster, shared)
        if code:
            raise RefusedError({1: "a thread trapped", 2: "all threads wait"}[code])

    def cubin(text, arch):
        return str(built(edit(text), directory)).encode()

    return kernels.Toolchain(lambda device: CARD, cubin, load, launch)


def forced(units: int, barrier: int, rows: int = 16):
    """In the place of `layout`: so many units a block, meeting so."""

    def laid(passed, batch, card, products):
        meets = barrier if passed.step.across else BLOCK
        return layout.made(passed, rows, units, meets, products, THREADS)

    return laid
