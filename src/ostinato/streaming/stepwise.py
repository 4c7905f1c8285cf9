"""Timesteps run by Keras, for what the native engine can't run; compiled where the backend does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from ostinato.cells.checks import name_of
from ostinato.engines.interface import CallContext, Loop, Task
from ostinato.layers import RNN
from ostinato.layers.dispatch import run as run_cells
from ostinato.layers.masks import shared_mask
from ostinato.nests import Nest, fill, flatten, map_leaves
from ostinato.streaming.graph import Graph, LayerCall
from ostinato.streaming.looking_back import initial_states, look_back, pool
from ostinato.streaming.lowering import dtype_of, ports_of
from ostinato.streaming.program import Port, State
from ostinato.streaming.turns import BUSY
from ostinato.streaming.windows import GLOBAL_POOLS, WINDOWS

Tensor = Any


class Stepwise:
    """What runs a graph for N streams through a Keras model of one timestep.

    It has copies of the weights: those that the graph's layers had when it was made or refreshed.

    Attributes:
        inputs: A nest of ports.
        outputs: A nest of ports.
        states: What is kept.
        program: None: there's none.
        why_not_native: Why Keras has to do it.
    """

    program = None

    def __init__(
        self, graph: Graph, streams: int, why_not_native: str, model: "_Timestep | None" = None
    ) -> None:
        self.why_not_native = why_not_native
        self._streams, self._graph = streams, graph
        self.inputs, self.outputs, self.states = _interface(graph)
        self._model = _Timestep(graph, model.copies if model else None)
        self._turn = Lock()
        self._values = self._fresh(streams)

    def another(self, streams: int) -> "Stepwise":
        """The same for other streams, which begin anew; the copies of the weights are shared."""
        made = Stepwise(self._graph, streams, self.why_not_native, self._model)
        made.states = self.states
        return made

    def _fresh(self, count: int) -> list[np.ndarray]:
        return [np.broadcast_to(s.initial, (count, *s.shape)).astype(s.dtype) for s in self.states]

    def resize(self, streams: int) -> None:
        """More streams, the new ones at their beginning."""
        with self._alone():
            new = self._fresh(streams - self._streams)
            pairs = zip(self._values, new, strict=True)
            self._values = [np.concatenate(pair) for pair in pairs]
            self._streams = streams

    def run(
        self,
        inputs: tuple[np.ndarray, ...],
        outputs: tuple[np.ndarray, ...],
        timesteps: int,
        rows: np.ndarray | None = None,
        resets: np.ndarray | None = None,
    ) -> bool:
        """Runs timesteps; arrays (n, T, ...), or (n, ...) where T is 1, of all streams or `rows`.

        Where `resets` (n, T) hold a stream begins anew before the timestep.

        Returns:
            False where an array isn't a dense one of its port's dtype, and nothing is done.

        Raises:
            RuntimeError: if another thread is using it.
        """
        ports = [*flatten(self.inputs), *flatten(self.outputs)]
        if not all(map(_is_dense, (*inputs, *outputs), ports)):
            return False
        count = self._streams if rows is None else len(rows)
        if not count:
            return True
        lead = (count, timesteps)
        given = [
            array.reshape(*lead, *port.shape)
            for array, port in zip((*inputs, *outputs), ports, strict=True)
        ]
        xs, ys = given[: len(inputs)], given[len(inputs) :]
        with self._alone():
            states = self._values if rows is None else [value[rows] for value in self._values]
            flags = None if resets is None else resets.reshape(lead)
            states = self._run(xs, ys, states, flags)
            # Only now: where a timestep fails, nothing has changed.
            self._put(states, rows)
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(f"stream of {self._graph.name}: {BUSY}.")
        try:
            yield
        finally:
            self._turn.release()

    def _run(
        self,
        xs: list[np.ndarray],
        ys: list[np.ndarray],
        states: list[np.ndarray],
        resets: np.ndarray | None,
    ) -> list[np.ndarray]:
        """Runs timesteps of some rows, and returns their states.

        Some rows of many are made a power of two by what is thrown away: the framework compiles
        the timestep for each number of rows.
        """
        count = len(xs[0])
        padded = count if count == self._streams else 1 << (count - 1).bit_length()
        filler = np.minimum(np.arange(padded), count - 1)
        for t in range(xs[0].shape[1]):
            if resets is not None and resets[:, t].any():
                states = [
                    _reset(*pair, resets[:, t]) for pair in zip(states, self.states, strict=True)
                ]
            data = {
                "x": [x[filler, t : t + 1] for x in xs],
                "states": [state[filler] for state in states],
            }
            made = self._model.predict_on_batch(data)
            for y, value in zip(ys, made["y"], strict=True):
                y[:, t] = value[:count]
            states = [
                np.asarray(value, state.dtype)[:count]
                for value, state in zip(made["states"], self.states, strict=True)
            ]
        return states

    def reset(self, rows: np.ndarray | None = None) -> None:
        """Begins anew, all streams or those rows."""
        self.write_states(self._fresh(self._streams if rows is None else len(rows)), rows)

    def read_states(self, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """The states, (N, *shape) each, or of some rows."""
        with self._alone():
            return [value.copy() if rows is None else value[rows] for value in self._values]

    def write_states(self, arrays: Sequence[np.ndarray], rows: np.ndarray | None = None) -> None:
        """Sets all states, or those of some rows."""
        with self._alone():
            self._put(arrays, rows)

    def _put(self, arrays: Sequence[np.ndarray], rows: np.ndarray | None) -> None:
        if rows is None:
            self._values = [array.copy() for array in arrays]  # the framework's can't be written to
            return
        for value, array in zip(self._values, arrays, strict=True):
            value[rows] = array

    def refresh(self, graph: Graph) -> bool:
        """Takes weights and initial states of a graph's layers, and what else they are by now.

        Returns:
            False where they're other layers, or otherwise connected, and nothing is done.
        """
        found = _interface(graph)
        known = (self.inputs, self.outputs, self.states)
        if _connections(graph) != _connections(self._graph) or found != known:
            return False
        with self._alone():
            self._model, self._graph, self.states = _Timestep(graph), graph, found[2]
        return True


def _reset(value: np.ndarray, state: State, resets: np.ndarray) -> np.ndarray:
    """A state (rows, *shape) that begins anew in the rows where `resets` hold."""
    value = value.copy()
    value[resets] = state.initial
    return value


def _is_dense(array: Any, port: Port) -> bool:
    """Whether it's an array of NumPy that can be read as it lies in memory."""
    if type(array) is not np.ndarray or array.dtype != port.dtype:
        return False
    return array.flags.c_contiguous and array.flags.aligned


def _interface(graph: Graph) -> tuple[Nest, Nest, tuple[State, ...]]:
    """The inputs and outputs of a graph, as nests of ports, and its states."""
    states = [state for call in graph.calls for state in _states_of(call, graph)]
    return (*ports_of(graph), tuple(states))


def _connections(graph: Graph) -> list[Any]:
    """Which layers are called, in order, and which tensors, by number, each reads and gives."""
    refs = [*flatten(graph.inputs), *(r for c in graph.calls for r in flatten(c.output))]
    numbers = {id(ref): number for number, ref in enumerate(refs)}

    def numbered(nest: Nest) -> Nest:
        return map_leaves(lambda ref: numbers[id(ref)], nest)

    calls = [
        (id(call.layer), numbered(call.inputs), numbered(call.output), call.is_masked)
        for call in graph.calls
    ]
    return [*calls, numbered(graph.outputs), [ref.shape for ref in refs]]


def _holds(call: LayerCall) -> bool:
    """Whether a recurrent layer repeats its last output at a masked timestep."""
    return call.is_masked and not call.layer.zero_output_for_mask


def _states_of(call: LayerCall, graph: Graph) -> list[State]:
    dtype, owner = dtype_of(graph), graph.owner_of_states(call)
    if not isinstance(call.layer, RNN):
        made = [array.astype(dtype) for array in initial_states(call)]
        return [State(owner, array.shape, dtype, False, array) for array in made]
    initial = [ops.convert_to_numpy(s) for s in tree.flatten(call.layer.get_initial_state(1))]
    found = []
    for array in initial:
        own = dtype if np.issubdtype(array.dtype, np.floating) else str(array.dtype)
        own = dtype if array.dtype.name == "bfloat16" else own
        found.append(State(owner, array.shape[1:], own, False, array[0].astype(own)))
    outputs = flatten(call.output) if _holds(call) else []
    found += [State(owner, ref.shape, dtype, True, np.zeros(ref.shape, dtype)) for ref in outputs]
    return found


class _Timestep(keras.Model):
    """One timestep of a graph: inputs (N, 1, ...) and states to outputs (N, ...) and states.

    The layers run on copies of their weights, so that training the model changes nothing here, and
    neither does it matter that Keras takes the model's own away during `fit` on JAX.
    """

    def __init__(self, graph: Graph, copies: list[Any] | None = None) -> None:
        super().__init__(name="timestep", autocast=False)  # of float64, too
        own = {id(v): v for call in graph.calls for v in call.layer.variables}
        # Not attributes that Keras tracks.
        self._graph: Callable[[], Graph] = lambda: graph
        self._originals: Callable[[], list[Any]] = lambda: list(own.values())
        self._carrier = _Masked()
        self.copies = copies or [_copy(variable) for variable in own.values()]
        self.jit_compile = _jit_compile(graph)

    def call(self, inputs: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Runs the graph's calls in order."""
        pairs = list(zip(self._originals(), self.copies, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return self._call(inputs)

    def _call(self, inputs: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        graph, states = self._graph(), list(inputs["states"])
        kept: list[Tensor] = []
        values = dict(zip(map(id, flatten(graph.inputs)), inputs["x"], strict=True))
        masks: dict[int, Tensor | None] = dict.fromkeys(values)
        for call in graph.calls:
            given = fill(call.inputs, [values[id(ref)] for ref in flatten(call.inputs)])
            mask = fill(call.inputs, [masks[id(ref)] for ref in flatten(call.inputs)])
            if isinstance(call.layer, RNN):
                made = self._recurrent(call, given, mask, states, kept)
            elif isinstance(call.layer, GLOBAL_POOLS):
                made = pool(call, given, mask, states, kept)
            elif isinstance(call.layer, WINDOWS):
                made = look_back(call, given, states, kept)
            elif isinstance(call.layer, layers.ZeroPadding1D):
                made = given  # the window of the next layer begins with zeros
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
        outputs = [
            values[id(ref)][:, 0] if ref.has_time else values[id(ref)]
            for ref in flatten(graph.outputs)
        ]
        return {"y": outputs, "states": kept}

    def _masked(self, tensor: Tensor, mask: Tensor | None) -> Tensor:
        return tensor if mask is None else self._carrier(tensor, mask=mask)

    def _recurrent(
        self, call: LayerCall, x: Any, masks: Any, states: list[Tensor], kept: list[Tensor]
    ) -> Any:
        """A recurrent layer's timestep, as a sequence of one; takes its states off `states`."""
        layer = call.layer
        mask = shared_mask(masks)
        like = layer.get_initial_state(ops.shape(tree.flatten(x)[0])[0])
        initial = [ops.cast(states.pop(0), leaf.dtype) for leaf in tree.flatten(like)]
        loop = Loop(zero_output_for_mask=layer.zero_output_for_mask)
        context = CallContext(False, None, name_of(layer), layer.compute_dtype)
        starting = tree.pack_sequence_as(like, initial)
        ((output, new),) = run_cells(Task(layer.cell, x, starting, mask, loop, context))
        kept += tree.flatten(new)
        outputs = tree.flatten(output)
        if _holds(call):
            held = [ops.cast(states.pop(0), value.dtype) for value in outputs]
            outputs = [_where(mask, *pair) for pair in zip(outputs, held, strict=True)]
            kept += outputs
        if layer.return_sequences:
            outputs = [value[:, None] for value in outputs]
        return tree.pack_sequence_as(output, outputs)


def _copy(variable: Any) -> Any:
    value = np.array(ops.convert_to_numpy(variable))
    return keras.Variable(value, dtype=variable.dtype, trainable=False, name=variable.name)


def _jit_compile(graph: Graph) -> bool:
    """Whether Keras would have XLA compile a model of these layers."""
    model = keras.Model()
    model.steps = [call.layer for call in graph.calls]
    return bool(model.jit_compile)


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
