"""`python -m benchmarks.streams`: thousands of streams of a voice detector, on one core.

Two causal Conv1D of 64, two GRU or LSTM layers, Dense. A frame is 32 ms: what all streams together
take longer is late. Beside it onnxruntime and torch.nn, on the same core: called for each stream,
whose states are its own, as a server does; and for all at once, where all come at the same time.
"""

import os

os.environ.setdefault("OSTINATO_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

FEATURES, CHANNELS, TAPS = 40, 64, 3
FRAME = 32.0  # milliseconds
WARM, FEW = 3, 100  # frames that don't count; streams that stand for all where each is called

Step = Callable[[np.ndarray], np.ndarray]


def detector(kind: str, units: int) -> Any:
    """The model, of sequences."""
    import keras

    from ostinato import layers

    recurrent = getattr(layers, kind)
    return keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            keras.layers.Conv1D(CHANNELS, TAPS, padding="causal", activation="relu"),
            keras.layers.Conv1D(CHANNELS, TAPS, padding="causal", activation="relu"),
            recurrent(units, return_sequences=True),
            recurrent(units, return_sequences=True),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def multiplications(model: Any) -> int:
    """Of a timestep of one stream."""
    return sum(int(np.prod(w.shape)) for w in model.weights if len(w.shape) > 1 and w.shape[0] > 2)


# --- torch.nn -------------------------------------------------------------------------------------


def torch_step(model: Any, streams: int) -> Step:
    """All of some streams in one call of torch.nn's modules, states kept between."""
    import torch

    import ostinato

    torch.set_num_threads(1)
    *convolutions, first, second, dense = model.layers
    weights = [[torch.tensor(np.array(w)) for w in c.get_weights()] for c in convolutions]
    kernels = [(w.permute(2, 1, 0).contiguous(), b) for w, b in weights]
    cells = [ostinato.to_torch(layer).eval() for layer in (first, second)]
    out, bias = (torch.tensor(np.array(w)) for w in dense.get_weights())
    held = [torch.zeros(streams, w.shape[1], TAPS - 1) for w, _ in kernels]
    states: list[Any] = [None, None]

    @torch.inference_mode()
    def step(x: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(x)[:, :, None]
        for i, (w, b) in enumerate(kernels):
            seen = torch.cat([held[i], y], 2)
            held[i] = seen[:, :, 1:]
            y = torch.relu(torch.nn.functional.conv1d(seen, w, b))
        y = y.transpose(1, 2)
        for i, cell in enumerate(cells):
            y, states[i] = cell(y, states[i])
        return torch.sigmoid(y[:, 0] @ out + bias).numpy()

    return step


# --- onnxruntime ----------------------------------------------------------------------------------


class _Graph:
    """A timestep as an ONNX graph whose states are inputs and outputs."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.states: list[tuple[str, str, list[Any]]] = []

    def add(self, kind: str, inputs: list[str], outputs: int = 1, **options: Any) -> list[str]:
        from onnx import helper

        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **options))
        return names

    def weight(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def state(self, shape: list[Any]) -> str:
        self.states.append((f"s{len(self.states)}", "", shape))
        return self.states[-1][0]

    def keep(self, name: str, new: str) -> None:
        at = [state[0] for state in self.states].index(name)
        self.states[at] = (name, new, self.states[at][2])

    def convolve(self, y: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        state = self.state(["n", kernel.shape[1], TAPS - 1])
        (seen,) = self.add("Concat", [state, y], axis=2)
        ends = [self.weight(np.array([end], "int64")) for end in (1, TAPS, 2)]
        self.keep(state, self.add("Slice", [seen, *ends])[0])
        weights = [self.weight(kernel.transpose(2, 1, 0)), self.weight(bias)]
        return self.add("Relu", self.add("Conv", [seen, *weights]))[0]

    def recur(self, y: str, layer: Any) -> str:
        kernel, recurrent, bias = layer.get_weights()
        units, is_lstm = layer.units, len(kernel[0]) == 4 * layer.units
        order = (0, 3, 1, 2) if is_lstm else (0, 1, 2)

        def gates(value: np.ndarray) -> np.ndarray:
            parts = np.split(value, len(order), axis=-1)
            return np.concatenate([parts[i] for i in order], axis=-1)

        both = np.stack([bias, 0 * bias]) if is_lstm else bias
        weights = [gates(kernel).T[None], gates(recurrent).T[None], gates(both).reshape(1, -1)]
        states = [self.state([1, "n", units]) for _ in range(2 if is_lstm else 1)]
        options: dict[str, Any] = {} if is_lstm else {"linear_before_reset": 1}
        made = self.add(
            "LSTM" if is_lstm else "GRU",
            [y, *map(self.weight, weights), "", *states],
            1 + len(states),
            hidden_size=units,
            **options,
        )
        for state, new in zip(states, made[1:], strict=True):
            self.keep(state, new)
        return self.add("Squeeze", [made[0], self.weight(np.array([1], "int64"))])[0]


def onnx_step(model: Any, streams: int) -> Step:
    """All of some streams in one call of onnxruntime, states kept between."""
    import onnxruntime
    from onnx import TensorProto, helper

    graph = _Graph()
    *convolutions, first, second, dense = model.layers
    y = graph.add("Unsqueeze", ["x", graph.weight(np.array([2], "int64"))])[0]
    for layer in convolutions:
        y = graph.convolve(y, *layer.get_weights())
    y = graph.add("Transpose", [y], perm=[2, 0, 1])[0]
    for layer in (first, second):
        y = graph.recur(y, layer)
    y = graph.add("Squeeze", [y, graph.weight(np.array([0], "int64"))])[0]
    y = graph.add("Gemm", [y, *map(graph.weight, dense.get_weights())])[0]
    y = graph.add("Sigmoid", [y])[0]

    def info(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    names, new, shapes = zip(*graph.states, strict=True)
    made = helper.make_graph(
        graph.nodes,
        "detector",
        [info("x", ["n", FEATURES]), *map(info, names, shapes)],
        [info(y, ["n", 1]), *map(info, new, shapes)],
        graph.weights,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    sizes = [[streams if size == "n" else size for size in shape] for shape in shapes]
    states = dict(zip(names, (np.zeros(size, "float32") for size in sizes), strict=True))

    def step(x: np.ndarray) -> np.ndarray:
        nonlocal states
        result, *values = session.run(None, {"x": x, **states})
        states = dict(zip(names, values, strict=True))
        return np.asarray(result)

    return step


# --- all ------------------------------------------------------------------------------------------


def each(make: Callable[[Any, int], Step], model: Any, streams: int) -> tuple[Step, float]:
    """A few streams that are called one by one, and what a frame of all takes as many times."""
    few = [make(model, 1) for _ in range(min(FEW, streams))]
    return lambda x: np.concatenate(
        [one(x[i : i + 1]) for i, one in enumerate(few)]
    ), streams / len(few)


def contenders(model: Any, streams: int, int8: bool) -> dict[str, tuple[Step, float]]:
    """By name: a frame of all streams, and how many times that is."""
    import ostinato

    ours = ostinato.stream(model, streams=streams)
    if ours.why_not_native:
        raise SystemExit(f"benchmarks.streams: {ours.why_not_native}")
    if int8:
        quantized = ostinato.quantize(ostinato.stream(model, streams=streams))
        return {"ostinato.stream": (ours.step, 1.0), "ostinato.stream, int8": (quantized.step, 1.0)}
    return {
        "ostinato.stream": (ours.step, 1.0),
        "onnxruntime, each": each(onnx_step, model, streams),
        "onnxruntime, all at once": (onnx_step(model, streams), 1.0),
        "torch.nn, each": each(torch_step, model, streams),
        "torch.nn, all at once": (torch_step(model, streams), 1.0),
    }


def measure(
    kind: str, units: int, streams: int, frames: int, others: int, int8: bool = False
) -> list[str]:
    """A row of the table for each: milliseconds a frame, median and 99th of a hundred.

    Raises:
        RuntimeError: if their outputs don't agree.
    """
    model = detector(kind, units)
    xs = np.random.default_rng(0).standard_normal((WARM, streams, FEATURES), dtype="float32")
    steps, rows, expected = contenders(model, streams, int8), [], None
    for name, (step, times) in steps.items():
        count = frames if name.startswith("ostinato.stream") else others
        for x in xs:
            y = step(x)
        expected = y if expected is None else expected
        if not np.allclose(y, expected[: len(y)], atol=2e-2 if name.endswith("int8") else 1e-4):
            raise RuntimeError(f"{name} gives other outputs at {kind} {units}.")
        spent = []
        for i in range(count):
            begin = time.perf_counter()
            step(xs[i % WARM])
            spent.append((time.perf_counter() - begin) * 1e3 * times)
        median, late = np.median(spent), np.percentile(spent, 99)
        flops = 2 * multiplications(model) * streams / median / 1e6
        rows.append(f"| {kind} {units} | {name} | {median:.1f} | {late:.1f} | {flops:.0f} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=["GRU", "LSTM"], choices=["GRU", "LSTM"])
    parser.add_argument("--units", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=200, help="of ours; p99 wants 100 or more")
    parser.add_argument("--others", type=int, default=8, help="frames of the others")
    parser.add_argument("--int8", action="store_true", help="ours alone, in float32 and in int8")
    asked = parser.parse_args()
    print(f"{asked.streams} streams, ms a frame of all on one core; a frame is {FRAME:.0f} ms")
    print("| layers | | median | p99 | GFLOP/s |\n|---|---|---|---|---|", flush=True)
    for kind in asked.kinds:
        for units in asked.units:
            measure(kind, units, asked.streams, asked.frames, asked.others, asked.int8)


if __name__ == "__main__":
    main()
