"""Runtimes of ONNX graphs: the case's layer as one operator, in inference.

Both take the very graph, from batch-first inputs to batch-first outputs. Keras's weights become the
operator's: transposed, LSTM's gates as i, o, f, c where Keras has i, f, c, o, GRU's as Keras has
them. A runtime for bfloat16 takes float32s and gives them, and rounds in between.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ostinato.bench.cases import Case
from ostinato.bench.prepared import Prepared

_OPERATORS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "SimpleRNN": (0,)}
# Keras's GRU multiplies the state before it resets it.
_ATTRIBUTES = {"GRU": {"linear_before_reset": 1}}
_OPSET, _IR = 17, 8  # what runtimes of the last years read


def prepare(library: str, case: Case, dtype: str) -> Prepared:
    """Inference by a runtime, "onnxruntime" or "openvino", in as many threads as it takes."""
    feeds = {"x": case.inputs()}
    lengths = case.lengths()
    if lengths is not None:
        feeds["lengths"] = lengths.astype("int32")
    run, engine = _RUNTIMES[library](graph(case), feeds, dtype)
    return Prepared(lambda: (run(),), lambda results: [case.comparable(results[0])], engine)


def graph(case: Case) -> bytes:
    """The case's layer: x (B, T, D), and "lengths" (B,) where rows are padded, to y (B, T, U)."""
    B, T, D, U = case.shape
    kernel, recurrent, bias = case.weights()
    both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
    weights = {
        "w": _reordered(case, kernel).T[None],
        "r": _reordered(case, recurrent).T[None],
        "b": np.concatenate([_reordered(case, b) for b in both])[None],
    }
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [B, T, D])]
    lengths = "" if case.lengths() is None else "lengths"
    if lengths:
        inputs.append(helper.make_tensor_value_info(lengths, TensorProto.INT32, [B]))
    names = ["steps", "w", "r", "b", *filter(None, [lengths])]
    attributes: dict[str, Any] = {"hidden_size": U, **_ATTRIBUTES.get(case.kind, {})}
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node(_OPERATORS[case.kind], names, ["ys"], **attributes),  # (T, 1, B, U)
        helper.make_node("Squeeze", ["ys", "one"], ["outputs"]),
        helper.make_node("Transpose", ["outputs"], ["y"], perm=[1, 0, 2]),
    ]
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in {**weights, "one": np.array([1], "int64")}.items()
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [B, T, U])]
    whole = helper.make_graph(nodes, case.kind, inputs, outputs, constants)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(whole, opset_imports=[opset], ir_version=_IR)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _onnxruntime(model: bytes, feeds: dict[str, np.ndarray], dtype: str) -> tuple[Any, str]:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)[0], "CPUExecutionProvider"


def _openvino(model: bytes, feeds: dict[str, np.ndarray], dtype: str) -> tuple[Any, str]:
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(model, b""), "CPU", options)
    request = compiled.create_infer_request()
    output = compiled.output(0)

    def run() -> Any:
        # Inputs aren't copied, nor outputs: what comes is overwritten by the next run.
        return request.infer(feeds, share_inputs=True, share_outputs=True)[output]

    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return run, f"CPU, {used}"


_RUNTIMES: dict[str, Callable[..., tuple[Any, str]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _reordered(case: Case, columns: np.ndarray) -> np.ndarray:
    """The operator's order of gates, of Keras's."""
    parts = np.split(columns, case.gates, axis=-1)
    return np.concatenate([parts[gate] for gate in _GATES[case.kind]], axis=-1)
