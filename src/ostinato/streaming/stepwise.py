"""Timesteps run by Keras, for what the native engine can't run; compiled where the backend does."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from ostinato.engines.asked import Asked
from ostinato.layers import RNN
from ostinato.layers.calling import Call as CellCall
from ostinato.layers.checks import name_of
from ostinato.layers.running import Job
from ostinato.layers.running import run as run_cells
from ostinato.streaming.graph import Call, Graph
from ostinato.streaming.lowering import ports
from ostinato.streaming.nest import fill, flatten
from ostinato.streaming.program import State

Tensor = Any


class Stepwise:
    """What runs a graph for N streams through a Keras model of one timestep.

    Attributes:
        inputs: A nest of ports.
        outputs: A nest of ports.
        states: What is kept.
        program: None: there's none.
        why_not_native: Why Keras has to do it.
    """

    program = None

    def __init__(self, graph: Graph, streams: int, why_not_native: str) -> None:
        self.why_not_native = why_not_native
        ids = {
            id(ref)
            for call in graph.calls
            if isinstance(call.layer, layers.Embedding)
            for ref in flatten(call.inputs)
        }
        double = any(call.layer.compute_dtype == "float64" for call in graph.calls)
        dtype = "float64" if double else "float32"
        self.inputs = ports(graph.inputs, graph.names, dtype, ids)
        names = [f"y{i}" for i in range(len(flatten(graph.outputs)))]
        self.outputs = ports(graph.outputs, names, dtype, set())
        self.states = tuple(
            state
            for call in graph.calls
            if isinstance(call.layer, RNN)
            for state in _states_of(call, dtype)
        )
        self._model = _Timestep(graph)
        self._turn = Lock()
        self._values = [np.zeros((streams, *s.shape), s.dtype) for s in self.states]

    def run(
        self, inputs: tuple[np.ndarray, ...], outputs: tuple[np.ndarray, ...], timesteps: int
    ) -> bool:
        """Runs timesteps; arrays (N, T, ...), or (N, ...) where T is 1.

        Raises:
            RuntimeError: if another thread is running some.
        """
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(
                "a stream takes one call at a time; this one is in use in another thread"
            )
        try:
            self._run(inputs, outputs, timesteps)
        finally:
            self._turn.release()
        return True

    def _run(
        self, inputs: tuple[np.ndarray, ...], outputs: tuple[np.ndarray, ...], timesteps: int
    ) -> None:
        count = len(self._values[0]) if self._values else None
        ports = flatten(self.inputs)
        xs = [
            x.reshape(count or _streams(x, port.shape, timesteps), timesteps, *port.shape)
            for x, port in zip(inputs, ports, strict=True)
        ]
        ys = [
            y.reshape(len(xs[0]), timesteps, *port.shape)
            for y, port in zip(outputs, flatten(self.outputs), strict=True)
        ]
        states = self._values
        for t in range(timesteps):
            data = {"x": [x[:, t : t + 1] for x in xs], "states": states}
            made = self._model.predict_on_batch(data)
            for y, value in zip(ys, made["y"], strict=True):
                y[:, t] = value
            states = [
                np.asarray(value, state.dtype)
                for value, state in zip(made["states"], self.states, strict=True)
            ]
        self._values = states  # only now: where a timestep fails, nothing has changed

    def read_states(self) -> list[np.ndarray]:
        """The states, (N, *shape) each."""
        return [value.copy() for value in self._values]

    def write_states(self, arrays: Sequence[np.ndarray]) -> None:
        """Sets all states."""
        self._values = [array.copy() for array in arrays]

    def refresh(self) -> None:
        """Nothing to do: it runs the model's own layers."""


def _streams(x: np.ndarray, shape: tuple[int, ...], timesteps: int) -> int:
    return x.size // max(1, timesteps * int(np.prod(shape)))


def _holds(call: Call) -> bool:
    """Whether a recurrent layer repeats its last output at a masked timestep."""
    return call.is_masked and not call.layer.zero_output_for_mask


def _states_of(call: Call, dtype: str) -> list[State]:
    initial = [ops.convert_to_numpy(s) for s in tree.flatten(call.layer.get_initial_state(1))]
    found = []
    for array in initial:
        own = dtype if np.issubdtype(array.dtype, np.floating) else str(array.dtype)
        own = dtype if array.dtype.name == "bfloat16" else own
        found.append(State(call.layer.name, array.shape[1:], own, False, array[0].astype(own)))
    outputs = flatten(call.output) if _holds(call) else []
    found += [
        State(call.layer.name, ref.shape, dtype, True, np.zeros(ref.shape, dtype))
        for ref in outputs
    ]
    return found


class _Timestep(keras.Model):
    """One timestep of a graph: inputs (N, 1, ...) and states to outputs (N, ...) and states."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(name="timestep")
        self._graph: Callable[[], Graph] = lambda: graph  # not an attribute that Keras tracks
        self._carrier = _Masked()
        self.steps = [call.layer for call in graph.calls]  # so that Keras tracks their variables

    def call(self, inputs: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Runs the graph's calls in order."""
        graph, states = self._graph(), list(inputs["states"])
        kept: list[Tensor] = []
        values = dict(zip(map(id, flatten(graph.inputs)), inputs["x"], strict=True))
        masks: dict[int, Tensor | None] = dict.fromkeys(values)
        for call in graph.calls:
            given = fill(call.inputs, [values[id(ref)] for ref in flatten(call.inputs)])
            mask = fill(call.inputs, [masks[id(ref)] for ref in flatten(call.inputs)])
            if isinstance(call.layer, RNN):
                made = self._recurrent(call, given, mask, states, kept)
            else:
                # Keras gives masks to what a layer makes; a recurrent layer's cells ran without.
                given = fill(given, [self._masked(*pair) for pair in _pairs(given, mask)])
                made = (
                    call.layer(given, training=False) if _trains(call.layer) else call.layer(given)
                )
            has_mask = any(m is not None for m in flatten(mask))
            makes = has_mask or isinstance(call.layer, (layers.Embedding, layers.Masking))
            makes = makes and call.layer.supports_masking
            out = call.layer.compute_mask(given, mask) if makes else None
            for i, (ref, value) in enumerate(
                zip(flatten(call.output), tree.flatten(made), strict=True)
            ):
                values[id(ref)] = value
                masks[id(ref)] = flatten(out)[i] if isinstance(out, (list, tuple)) else out
        outputs = [values[id(ref)][:, 0] for ref in flatten(graph.outputs)]
        return {"y": outputs, "states": kept}

    def _masked(self, tensor: Tensor, mask: Tensor | None) -> Tensor:
        return tensor if mask is None else self._carrier(tensor, mask=mask)

    def _recurrent(
        self, call: Call, x: Any, masks: Any, states: list[Tensor], kept: list[Tensor]
    ) -> Any:
        """A recurrent layer's timestep, as a sequence of one; takes its states off `states`."""
        layer = call.layer
        mask = next((m for m in flatten(masks) if m is not None), None)
        like = layer.get_initial_state(ops.shape(tree.flatten(x)[0])[0])
        initial = [ops.cast(states.pop(0), leaf.dtype) for leaf in tree.flatten(like)]
        asked = Asked(mask, False, layer.zero_output_for_mask, False, False, False)
        about = CellCall(False, None, name_of(layer), layer.compute_dtype)
        job = Job(layer.cell, x, tree.pack_sequence_as(like, initial), asked, about)
        ((output, new),) = run_cells(job)
        kept += tree.flatten(new)
        outputs = tree.flatten(output)
        if _holds(call):
            held = [ops.cast(states.pop(0), value.dtype) for value in outputs]
            outputs = [_where(mask, *pair) for pair in zip(outputs, held, strict=True)]
            kept += outputs
        return tree.pack_sequence_as(output, [value[:, None] for value in outputs])


def _pairs(given: Any, masks: Any) -> list[tuple[Tensor, Tensor | None]]:
    return list(zip(flatten(given), flatten(masks), strict=True))


class _Masked(layers.Layer):
    """Puts a mask to a tensor, where the next layer looks for it."""

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.built = self.supports_masking = True

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """The tensor, another object."""
        return ops.multiply(inputs, 1)


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` in the rows where the mask (N, 1) holds, else `old`."""
    return ops.where(ops.reshape(mask, (-1, *[1] * (len(new.shape) - 1))), new, old)


def _trains(layer: Any) -> bool:
    return isinstance(layer, (layers.Dropout, layers.BatchNormalization))
