"""What a contender makes of a case: something to run, in the contender's own process."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ostinato.bench.cases import Case
from ostinato.bench.contenders import Contender


@dataclass(frozen=True)
class Prepared:
    """A case ready to run.

    Attributes:
        run: Computes it once, and returns when all is computed.
        values: NumPy arrays of what `run` returned, in an order common to all contenders: outputs,
            then gradients to inputs, kernel, recurrent kernel and bias.
        engine: Which engine computes, in words.
    """

    run: Callable[[], Any]
    values: Callable[[Any], list[np.ndarray]]
    engine: str = ""

    def seconds(self) -> float:
        """Runs it once: how long it took."""
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


def load(contender: Contender) -> Any:
    """Imports all that a contender needs, which takes long; the module of its framework."""
    if contender.library == "ostinato":
        importlib.import_module("ostinato.layers")
    elif contender.library in ("keras", "tf_keras"):
        library_of(contender)
    return importlib.import_module(f"ostinato.bench.on_{contender.framework}")


def prepare(contender: Contender, case: Case) -> Prepared:
    """What a contender makes of a case."""
    framework = load(contender)
    prepared: Prepared
    if contender.library == "sgemm":
        prepared = framework.products(case)
    elif contender.library == "torch.nn":
        prepared = framework.torch_nn(case, contender.dtype)
    elif contender.framework == "onnx":
        prepared = framework.prepare(contender.library, case, contender.dtype)
    elif case.mode == "fit":
        fitting = importlib.import_module("ostinato.bench.fitting")
        prepared = fitting.prepare(contender, case)
    else:
        layer = layer_for(contender, case, return_sequences=True)
        prepared = framework.prepare(layer, case, case.options(), case.cotangent())
        prepared = replace(prepared, engine=engine_of(contender, layer))
    return prepared


def library_of(contender: Contender) -> Any:
    """The module that holds Sequential, layers and losses: `keras`, or `tf_keras`."""
    return importlib.import_module("tf_keras" if contender.library == "tf_keras" else "keras")


def layer_for(contender: Contender, case: Case, *, return_sequences: bool) -> Any:
    """The contender's layer, with a Keras layer's defaults but for `return_sequences`."""
    if contender.library == "ostinato":
        layers = importlib.import_module("ostinato.layers")
    else:
        layers = library_of(contender).layers
    B, T, D, U = case.shape
    dtype = {} if contender.dtype == "float32" else {"dtype": contender.dtype}
    layer = getattr(layers, case.kind)(U, return_sequences=return_sequences, **dtype)
    layer.build((B, T, D))
    layer.set_weights(case.weights())
    return layer


def engine_of(contender: Contender, layer: Any) -> str:
    """Which of our engines runs a layer, and on which instruction set; "" of other libraries'."""
    if contender.library != "ostinato":
        return ""
    row = next(iter(importlib.import_module("ostinato").explain(layer)))
    threads = f", {row.threads} threads" if row.threads else ""
    precision = f" in {row.precision}" if row.precision else ""
    return f"{row.engine} ({row.target}{threads}){precision}"
