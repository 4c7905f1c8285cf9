"""Who takes part, and what each needs."""

import importlib.util
import os
from dataclasses import dataclass, replace

from ostinato.machine import FRAMEWORKS

LIBRARIES = {"ostinato": "Ostinato", "keras": "Keras", "sgemm": "bare sgemm"}  # on some frameworks
TITLES = {**LIBRARIES, "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Contender:
    """One library on one framework, a process of its own.

    Attributes:
        library: "ostinato", "keras", "tf_keras", "torch.nn", "onnxruntime", "openvino", or
            "sgemm": the matrix products alone, which is no peer but the limit.
        framework: "jax", "torch" or "tensorflow"; "onnx" of runtimes of ONNX graphs.
        engine: The engine that Ostinato is forced to use, or None.
        dtype: That of weights, inputs and results; what a runtime computes in.
    """

    library: str
    framework: str
    engine: str | None = None
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """How options and JSON call it."""
        framework = f"-{self.framework}" if self.library in LIBRARIES else ""
        dtype = "" if self.dtype == "float32" else f"-{self.dtype}"
        engine = f"-{self.engine}" if self.engine else ""
        return f"{self.library}{framework}{dtype}{engine}"

    @property
    def title(self) -> str:
        """How tables call it."""
        framework = FRAMEWORKS[self.framework] if self.library in LIBRARIES else None
        dtype = None if self.dtype == "float32" else self.dtype
        parts = ", ".join(part for part in (framework, dtype, self.engine) if part)
        name = TITLES.get(self.library, self.library)
        return f"{name} ({parts})" if parts else name

    @property
    def is_peer(self) -> bool:
        """Whether Ostinato is compared with it."""
        return self.library not in ("ostinato", "sgemm")

    @property
    def modes(self) -> tuple[str, ...]:
        """What it can do: fit is Keras's, and runtimes don't train."""
        if self.framework == "onnx":
            return ("infer",)
        keras_like = self.library in ("ostinato", "keras", "tf_keras") and self.dtype == "float32"
        return ("infer", "train", "fit") if keras_like else ("infer", "train")

    def missing(self) -> tuple[str, ...]:
        """The packages that it needs and that aren't installed."""
        alone = self.library in ("tf_keras", "onnxruntime", "openvino")
        needed = [self.framework, *([self.library] if alone else [])]
        return tuple(package for package in needed if importlib.util.find_spec(package) is None)

    def environment(self) -> dict[str, str]:
        """The environment of its process."""
        chosen = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        if self.framework in FRAMEWORKS:
            chosen["KERAS_BACKEND"] = self.framework
        if self.engine:
            chosen["OSTINATO_ENGINE"] = self.engine
        # An accelerator would be another benchmark.
        chosen |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
        return {**os.environ, **chosen}


ALL = (
    *(Contender("ostinato", framework) for framework in FRAMEWORKS),
    *(Contender("keras", framework) for framework in FRAMEWORKS),
    Contender("tf_keras", "tensorflow"),
    Contender("torch.nn", "torch"),
    Contender("onnxruntime", "onnx"),
    Contender("openvino", "onnx"),
    *(Contender("ostinato", framework, dtype="bfloat16") for framework in FRAMEWORKS),
    Contender("torch.nn", "torch", dtype="bfloat16"),
    Contender("openvino", "onnx", dtype="bfloat16"),
    Contender("sgemm", "torch"),
    Contender("sgemm", "jax"),
)
NAMES = {contender.name: contender for contender in ALL}


def choose(names: list[str], engine: str | None) -> tuple[list[Contender], dict[str, str]]:
    """Those of the named that are installed, and the reasons why the others aren't here.

    Args:
        names: Keys of `NAMES`.
        engine: The engine that Ostinato's are forced to use, or None.
    """
    here, absent = [], {}
    for name in names:
        contender = NAMES[name]
        missing = contender.missing()
        if missing:
            absent[contender.title] = f"{' and '.join(missing)} isn't installed"
        elif contender.library == "ostinato":
            here.append(replace(contender, engine=engine))
        else:
            here.append(contender)
    return here, absent


def parse(name: str) -> Contender:
    """The contender of a `name`, with its engine where it has one."""
    if name in NAMES:
        return NAMES[name]
    plain, _, engine = name.rpartition("-")
    return replace(NAMES[plain], engine=engine)
