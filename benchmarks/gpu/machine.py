"""What the machine is."""

import importlib.metadata
import platform
import shutil
import subprocess

from benchmarks.gpu.context import Context
from ostinato import native
from ostinato.cuda import driver, nvrtc

PACKAGES = ("torch", "jax", "jaxlib", "keras", "numpy", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")


def run(context: Context) -> None:
    import torch

    said = {"python": platform.python_version(), "torch_cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            said[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            said[package] = None
    said["cudnn"] = torch.backends.cudnn.version()
    said["native"] = native.why_not() or native.target()
    said["driver"] = driver.why_not() or "opened"
    said["nvrtc"] = nvrtc.why_not() or ".".join(map(str, nvrtc.version()))
    if torch.cuda.is_available():
        said["card"] = torch.cuda.get_device_name()
        if driver.why_not() is None:
            said["layouts"] = str(driver.card(0))
    if shutil.which("nvidia-smi"):
        names = "name,driver_version,clocks.sm,clocks.max.sm,memory.total,temperature.gpu"
        asked = ["nvidia-smi", f"--query-gpu={names}", "--format=csv,noheader"]
        said["nvidia-smi"] = subprocess.run(
            asked, capture_output=True, text=True, check=False
        ).stdout.strip()
    for name, value in said.items():
        context.tell(f"{name}: {value}", **{name: value})
    if not context.fake and not torch.cuda.is_available():
        context.wrong += 1
        context.tell("PyTorch sees no GPU")
