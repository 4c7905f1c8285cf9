"""CUDA C++ to a cubin, by NVRTC where there is one: it needs no GPU, no driver and no headers.

PyTorch's and JAX's wheels for CUDA bring it along, and it's a package of its own on PyPI
(nvidia-cuda-nvrtc-cu12). What is compiled is kept on disk.
"""

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

_DIGEST = hashlib.sha256().digest_size  # before a cubin on disk, of it
_PLACES = ("nvidia/cuda_nvrtc/lib", "nvidia/cu13/lib", "nvidia/cu12/lib")


class CompileError(RuntimeError):
    """What NVRTC refuses, with its log."""


@functools.cache
def _opened() -> Any:
    """NVRTC's library, or why it can't be had."""
    for path in _candidates():
        try:
            # It opens its builtins by their name alone.
            for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(path)
        except OSError:
            continue
    return "NVRTC, which compiles its kernel, isn't found (pip install nvidia-cuda-nvrtc-cu12)"


def _candidates() -> list[str]:
    """Where NVRTC may be: OSTINATO_NVRTC alone where it's set, else wheels, then the system."""
    if "OSTINATO_NVRTC" in os.environ:
        return [os.environ["OSTINATO_NVRTC"]]
    wheels = [
        str(found)
        for root in sys.path
        for place in _PLACES
        for found in sorted(Path(root, place).glob("libnvrtc.so.*"))
    ]
    return [*wheels, *(f"libnvrtc.so.{version}" for version in (13, 12)), "libnvrtc.so"]


def why_not() -> str | None:
    """Why there's no NVRTC, or None."""
    found = _opened()
    return found if isinstance(found, str) else None


@functools.cache
def version() -> tuple[int, int]:
    """NVRTC's version."""
    major, minor = c_int(), c_int()
    _opened().nvrtcVersion(byref(major), byref(minor))
    return major.value, minor.value


def cubin(text: str, arch: int) -> bytes:
    """A text's machine code for a compute capability, from the disk where it has been compiled.

    Raises:
        CompileError: There's no NVRTC, or it refuses the text.
    """
    reason = why_not()
    if reason is not None:
        raise CompileError(reason)
    told = f"{version()} {arch} {text}".encode()
    path = directory() / f"{hashlib.sha256(told).hexdigest()[:32]}.cubin"
    found = kept(path) or b""
    digest, image = found[:_DIGEST], found[_DIGEST:]  # a file that isn't whole is made again
    if hashlib.sha256(image).digest() == digest:
        return image
    made = compiled(text, arch)
    keep(path, hashlib.sha256(made).digest() + made)
    return made


def directory() -> Path:
    """Where cubins are kept, and what has been checked."""
    asked = os.environ.get("OSTINATO_CACHE")
    try:
        if asked:
            return Path(asked).expanduser()
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return Path(asked or "/.cache/ostinato")
    return Path(cache) / "ostinato"


def kept(path: Path) -> bytes | None:
    """What is kept in a file; None where there's none, or the folder isn't this user's to read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def keep(path: Path, made: bytes) -> None:
    """Whole or not at all; on a disk that can't be written to it has to be made again each time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            file = Path(folder, path.name)
            file.write_bytes(made)
            file.replace(path)
    except OSError:
        return


def compiled(text: str, arch: int) -> bytes:
    """A text's machine code, compiled now."""
    library, program = _opened(), c_void_p()
    library.nvrtcCreateProgram(
        byref(program), text.encode(), b"ostinato.cu", 0, c_void_p(), c_void_p()
    )
    options = [f"--gpu-architecture=sm_{arch}", "--std=c++17"]
    given = (c_char_p * len(options))(*(option.encode() for option in options))
    try:
        if library.nvrtcCompileProgram(program, len(options), given):
            log = _text(library, program, "ProgramLog").decode(errors="replace")
            raise CompileError(f"NVRTC {version()} refuses the kernel for sm_{arch}: {log}")
        return _text(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(byref(program))


def _text(library: Any, program: c_void_p, what: str) -> bytes:
    size = c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw
