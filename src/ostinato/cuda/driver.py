"""NVIDIA's driver, opened at run time: cards, modules, launches. Nothing of CUDA is needed before.

The few structures are written out here; their layout is the driver's ABI (cuda.h of CUDA 12).
"""

import ctypes
import functools
import os
import re
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

from ostinato.cuda.layout import CLUSTER, GRID, Card, Layout
from ostinato.cuda.source import ENTRY

# CUdevice_attribute, CUfunction_attribute and CUlaunchAttributeID.
_PROCESSORS, _MAJOR, _MINOR, _SHARED, _COOPERATIVE = 16, 75, 76, 97, 95
_DYNAMIC_SHARED = 8
_LAUNCH_COOPERATIVE, _LAUNCH_CLUSTER = 2, 4

# Where Linux's driver says its version, and the library that says it elsewhere (WSL, containers).
_VERSION, _NVML = Path("/proc/driver/nvidia/version"), "libnvidia-ml.so.1"


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("id", c_int),
        ("pad", c_int),
        ("value", c_uint * 3),
        ("rest", ctypes.c_char * 52),
    )


class _Config(ctypes.Structure):
    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", POINTER(_Attribute)),
        ("count", c_uint),
    )


class DriverError(RuntimeError):
    """What the driver refuses."""


class Kernel(NamedTuple):
    """A kernel that is loaded.

    Attributes:
        function: The driver's handle.
        layout: How it's laid out.
    """

    function: c_void_p
    layout: Layout


@functools.cache
def _opened() -> Any:
    """The driver's library, or why it can't be had."""
    try:
        library = ctypes.CDLL(os.environ.get("OSTINATO_LIBCUDA", "libcuda.so.1"))
        library.cuLaunchKernelEx  # noqa: B018 - drivers before CUDA 11.8 haven't got it
    except (OSError, AttributeError) as error:
        return f"NVIDIA's driver can't be opened: {error}"
    code = library.cuInit(c_uint(0))
    return f"NVIDIA's driver can't begin: {_text_of(library, code)}" if code else library


def why_not() -> str | None:
    """Why there's no driver, or no card for it, or None."""
    found = _opened()
    return found if isinstance(found, str) else None


def _text_of(library: Any, code: int) -> str:
    text = c_char_p()
    library.cuGetErrorString(code, byref(text))
    return text.value.decode() if text.value else f"error {code}"


def _call(name: str, *arguments: Any) -> None:
    library = _opened()
    if isinstance(library, str):
        raise DriverError(library)
    code = getattr(library, name)(*arguments)
    if code:
        raise DriverError(f"{name}: {_text_of(library, code)}")


def _device(number: int) -> c_int:
    device = c_int()
    _call("cuDeviceGet", byref(device), c_int(number))
    return device


@functools.cache
def described(number: int) -> str:
    """A card's name, the driver's version as far as it's told, and its CUDA's, as text."""
    device, name, version = _device(number), ctypes.create_string_buffer(256), c_int()
    _call("cuDeviceGetName", name, c_int(256), device)
    _call("cuDriverGetVersion", byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    own = _of_the_kernel() or _of_nvml()
    driver = f"driver {own}" if own else "a driver"
    return f"{name.value.decode()}, {driver} of CUDA {major}.{minor}"


def _of_the_kernel() -> str | None:
    """The version of Linux's driver, or None: several drivers have the same CUDA."""
    try:
        told = _VERSION.read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", told, re.MULTILINE)
    return found[1] if found else None


def _of_nvml() -> str | None:
    """The driver's version as NVIDIA's management library tells it; None where there's no such."""
    text = ctypes.create_string_buffer(80)
    try:
        library = ctypes.CDLL(_NVML)
        failed = library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(text, c_uint(80))
    except (OSError, AttributeError):
        return None
    return None if failed else text.value.decode()


@functools.cache
def card(number: int) -> Card:
    """What a layout has to know of a card."""
    device = _device(number)

    def attribute(which: int) -> int:
        value = c_int()
        _call("cuDeviceGetAttribute", byref(value), c_int(which), device)
        return value.value

    arch = 10 * attribute(_MAJOR) + attribute(_MINOR)
    return Card(arch, attribute(_PROCESSORS), attribute(_SHARED))


def load(image: bytes, layout: Layout) -> Kernel:
    """Loads a cubin's kernel into the context that is current: the framework's."""
    module, function = c_void_p(), c_void_p()
    _call("cuModuleLoadData", byref(module), c_char_p(image))
    _call("cuModuleGetFunction", byref(function), module, c_char_p(ENTRY.encode()))
    _call("cuFuncSetAttribute", function, c_int(_DYNAMIC_SHARED), c_int(layout.shared))
    return Kernel(function, layout)


def launch(kernel: Kernel, groups: int, stream: int, call: bytes) -> None:
    """Launches a kernel.

    Args:
        kernel: The kernel.
        groups: Groups of blocks.
        stream: The stream's handle.
        call: The kernel's only argument, `Call` in kernel.cuh.
    """
    layout = kernel.layout
    attributes = (_Attribute * 1)()
    if layout.barrier == GRID:  # refused where not all of its blocks can run at once
        attributes[0].id, attributes[0].value[0] = _LAUNCH_COOPERATIVE, 1
    elif layout.barrier == CLUSTER:
        attributes[0].id, attributes[0].value[:] = _LAUNCH_CLUSTER, (layout.blocks, 1, 1)
    config = _Config(
        grid=(groups * layout.blocks, 1, 1),
        block=(layout.threads, 1, 1),
        shared=layout.shared,
        stream=stream,
        attributes=attributes,
        count=int(layout.barrier in (GRID, CLUSTER)),
    )
    argument = ctypes.create_string_buffer(call, len(call))
    arguments = (c_void_p * 1)(ctypes.addressof(argument))
    _call("cuLaunchKernelEx", byref(config), kernel.function, arguments, c_void_p())
