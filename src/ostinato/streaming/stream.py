"""What users hold: a stream, or several side by side, that takes one timestep at a time."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np

from ostinato.nests import Nest, fill, flatten, match
from ostinato.streaming import checks, files, rtneural
from ostinato.streaming.c99 import writer as c99
from ostinato.streaming.compiled import Compiled
from ostinato.streaming.program import Port, Program, State
from ostinato.streaming.quantizing import quantized

StateDict = dict[str, list[np.ndarray]]


class Runner(Protocol):
    """What runs timesteps, and keeps the states of N streams."""

    @property
    def inputs(self) -> Nest:
        """A nest of ports."""

    @property
    def outputs(self) -> Nest:
        """A nest of ports."""

    @property
    def states(self) -> tuple[State, ...]:
        """What is kept."""

    @property
    def program(self) -> Program | None:
        """What a file can hold."""

    @property
    def why_not_native(self) -> str:
        """Why the native engine doesn't run it, or ""."""

    @property
    def run(self) -> Callable[[tuple[np.ndarray, ...], tuple[np.ndarray, ...], int], bool]:
        """Runs timesteps on dense arrays; False where one doesn't fit."""

    def read_states(self) -> list[np.ndarray]:
        """The states, (N, *shape) each."""

    def write_states(self, arrays: Sequence[np.ndarray]) -> None:
        """Sets all states."""


class Stream:
    """A model that takes one timestep at a time and keeps its state; made by `ostinato.stream`.

    Whatever a sequence is cut into, the outputs are those of the model on the whole of it. A stream
    begins with the layers' initial states, and has no dropout.

    With `streams=N` arrays have an axis of N streams in front, else none. Objects are separate:
    each may be used by a thread of its own; one that is in use in one thread refuses another.

    Attributes:
        name: The model's name.
        streams: N, or None.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        streams: int | None,
        reread: Callable[[Any], None] | None = None,
    ) -> None:
        self.name, self.streams = name, streams
        self._runner, self._reread = runner, reread
        self._inputs: list[Port] = flatten(runner.inputs)
        self._outputs: list[Port] = flatten(runner.outputs)
        self._lead = () if streams is None else (streams,)
        # The common case, made ready: one input of floats, one output.
        first, last = self._inputs[0], self._outputs[0]
        plain = isinstance(runner.inputs, Port) and isinstance(runner.outputs, Port)
        self._x_shape = (*self._lead, *first.shape) if plain and first.shape else None
        self._y_shape, self._y_dtype = (*self._lead, *last.shape), np.dtype(last.dtype)
        self._run = runner.run
        self.reset()

    @property
    def why_not_native(self) -> str:
        """Why Keras runs it timestep by timestep, and not the native engine; "" where that does."""
        return self._runner.why_not_native

    @property
    def precision(self) -> str:
        """What cells' and dense layers' weights are kept in: "float32", "float64" or "int8"."""
        program = self._runner.program
        if program is not None and program.has_int8:
            return "int8"
        return self._outputs[0].dtype if program is None else program.dtype

    def _quantized(self) -> "Stream":
        """The stream that `ostinato.quantize` gives, at the same states."""
        owner = f"quantize: {self._owner}"
        program = self._program(owner)
        try:
            runner = Compiled(quantized(program), self.streams or 1)
        except ValueError as error:
            raise ValueError(f"{owner}: {error}") from error
        made = Stream(self.name, runner, self.streams, self._reread)
        runner.write_states(self._runner.read_states())
        return made

    def step(self, x: Nest) -> Nest:
        """Runs one timestep.

        Args:
            x: The model's inputs of one timestep, (D,) or (N, D); ids for an Embedding are
                integers, () or (N,). A nest of such arrays where the model has several inputs.

        Returns:
            The model's outputs of this timestep, (units,) or (N, units), as new NumPy arrays in the
            model's nest. A layer without `return_sequences` gives what it would give if the
            sequence ended here.

        Raises:
            ValueError: if x isn't what the model takes; no state has changed then.
            RuntimeError: if another thread is using the stream.
        """
        if getattr(x, "shape", None) == self._x_shape and self._x_shape is not None:
            y = np.empty(self._y_shape, self._y_dtype)
            try:
                if self._run((x,), (y,), 1):
                    return y
            except RuntimeError as error:
                self._raise_named(error)
        leaves = self._read(x, ())
        return self._results(leaves, 1, ())

    def run(self, chunk: Nest) -> Nest:
        """Runs some timesteps.

        Args:
            chunk: As for `step`, with an axis of time: (T, D) or (N, T, D).

        Returns:
            The outputs of all T timesteps, (T, units) or (N, T, units).

        Raises:
            ValueError: if the chunk isn't what the model takes; no state has changed then.
            RuntimeError: if another thread is using the stream.
        """
        leaves = self._read(chunk, ("T",))
        timesteps = leaves[0].shape[len(self._lead)]
        return self._results(leaves, timesteps, (timesteps,))

    def reset(self, rows: Iterable[int] | int | None = None) -> None:
        """Begins anew: the layers' initial states.

        Args:
            rows: The numbers of the streams that begin anew; by default all.

        Raises:
            ValueError: if there's no such stream.
        """
        states = self._runner.states
        fresh = [
            # astype's own order would be that of the broadcast, which the engine doesn't take.
            np.broadcast_to(s.initial, (self.streams or 1, *s.shape)).astype(s.dtype, order="C")
            for s in states
        ]
        if rows is not None:
            chosen = checks.numbers_of_rows(self._owner, rows, self.streams or 1)
            kept = self._runner.read_states()
            for new, old in zip(fresh, kept, strict=True):
                old[chosen] = new[chosen]
            fresh = kept
        self._runner.write_states(fresh)

    @property
    def state(self) -> StateDict:
        """Copies of the states, a list for each layer by name, (units,) or (N, units) each.

        Where layers of several models in the model have one name, each goes by its path:
        "inner/lstm". A layer that is called twice has the states of both calls in its list.

        Under a mask each cell has one more array behind its own: of booleans, whether a stream has
        had a valid timestep yet (its outputs are zero until then); a cell of one's own, and a layer
        that Keras runs, the output that it holds, if it holds one. May be set, also of some layers
        alone, and without what is more, which is as at the beginning then.
        """
        arrays = self._runner.read_states()
        found: StateDict = {}
        for state, array in zip(self._runner.states, arrays, strict=True):
            found.setdefault(state.layer, []).append(
                array if self._lead else array.reshape(state.shape)
            )
        return found

    @state.setter
    def state(self, values: dict[str, Sequence[Any]]) -> None:
        """Sets the states of some layers, or of all.

        Raises:
            ValueError: if there's no such layer, or an array's shape isn't that of its state, or
                its numbers are of another kind; nothing has changed then.
        """
        places: dict[str, list[int]] = {}
        for index, state in enumerate(self._runner.states):
            places.setdefault(state.layer, []).append(index)
        if not isinstance(values, dict) or not set(values) <= set(places):
            got = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
            raise ValueError(
                f"{self._owner}: state: expected a dict by layer of {sorted(places)}, got {got}."
            )
        arrays = self._runner.read_states()
        for layer, parts in values.items():
            self._write_layer(layer, places[layer], parts, arrays)
        self._runner.write_states(arrays)

    def _write_layer(
        self, layer: str, places: list[int], parts: Sequence[Any], arrays: list[np.ndarray]
    ) -> None:
        states, owner = self._runner.states, f"{self._owner}: state of {layer}"
        own = [index for index in places if not states[index].is_extra]
        parts = parts if isinstance(parts, (list, tuple)) else [parts]
        if len(parts) not in (len(places), len(own)):
            raise ValueError(f"{owner}: expected {len(own)} arrays, got {len(parts)}.")
        if len(parts) < len(places):
            for index in set(places) - set(own):
                arrays[index] = np.zeros_like(arrays[index])
            places = own
        for index, part in zip(places, parts, strict=True):
            expected = (*self._lead, *states[index].shape)
            value = checks.state(owner, part, expected, states[index].dtype)
            arrays[index] = value if self._lead else value[None]

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Writes the states to a file (NumPy's .npz)."""
        files.write_state(path, self._runner.states, self._runner.read_states())

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Takes the states that `save_state` wrote.

        Raises:
            ValueError: if they're those of another model, or of another number of streams.
        """
        states = files.read_state(path, self._runner.states, self.streams or 1, self._owner)
        self._runner.write_states(states)

    def refresh(self) -> None:
        """Takes the weights that the model has now; the states stay.

        Raises:
            ValueError: if the stream was loaded from a file, and has no model, or the model's
                layers aren't those that it had.
        """
        if self._reread is None:
            raise ValueError(
                f"{self._owner}: refresh: it was loaded from a file, and has no model to read."
            )
        self._reread(self._runner)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the stream, weights and states, to one file, for `Stream.load`.

        Raises:
            ValueError: if Keras runs it, which a file can't hold.
        """
        if self._runner.program is None:
            raise ValueError(
                f"{self._owner}: save: only a stream on the native engine can be saved, and this "
                f"one isn't: {self.why_not_native}."
            )
        files.write(path, self._runner.program, self.streams, self._runner.read_states())

    def save_c(self, path: str | os.PathLike[str]) -> None:
        """Writes the stream as C99: NAME.c, with the weights in it, and NAME.h beside it.

        It needs no library but libm, and allocates nothing: a stream is a struct NAME_stream, of
        which there may be any number. NAME_reset begins anew, NAME_step takes a timestep.

        Args:
            path: NAME.c; all names in it begin with NAME.

        Raises:
            ValueError: if the path isn't such a one, Keras runs the stream, its weights are in
                int8, or a cell of one's own does what isn't written in C.
        """
        self._write(c99.write, "save_c", path)

    def save_rtneural(self, path: str | os.PathLike[str]) -> None:
        """Writes the JSON that RTNeural reads, which runs models in audio plugins.

        Args:
            path: The file.

        Raises:
            ValueError: if the model isn't a row of what RTNeural has: Dense, Conv1D, LSTM and GRU
                (with reset_after) at their own activations, PReLU, BatchNormalization, tanh, relu,
                sigmoid, softmax and elu.
        """
        self._write(rtneural.write, "save_rtneural", path)

    def _write(
        self,
        write: Callable[[str | os.PathLike[str], Program], None],
        name: str,
        path: str | os.PathLike[str],
    ) -> None:
        """Writes the program in another form, with errors that begin with the method's name."""
        owner = f"{self._owner}: {name}"
        program = self._program(owner)
        try:
            write(path, program)
        except ValueError as error:
            raise ValueError(f"{owner}: {error}") from error

    def _program(self, owner: str) -> Program:
        """What the native engine runs; an error that begins with `owner` where Keras runs it."""
        program = self._runner.program
        if program is None:
            raise ValueError(
                f"{owner}: expected a stream on the native engine, and this one isn't: "
                f"{self.why_not_native}."
            )
        return program

    @classmethod
    def load(cls, path: str | os.PathLike[str], streams: int | None = None) -> "Stream":
        """A stream from a file; needs NumPy and Ostinato alone, no Keras.

        Args:
            path: What `save` wrote.
            streams: Another number of streams, which all begin anew; by default they're the
                saved ones, and go on where they were.

        Raises:
            ValueError: if the file isn't a stream's.
            RuntimeError: if the native engine can't run here.
        """
        streams = checks.number_of_streams(streams)
        program, saved_streams, states = files.read(path)
        count = saved_streams if streams is None else streams
        try:
            stream = cls(program.name, Compiled(program, count or 1), count)
            if streams is None:
                stream._runner.write_states(states)
        except ValueError as error:
            raise ValueError(
                f"{path}: expected a stream that the native engine takes, got one with this: "
                f"{error}"
            ) from error
        return stream

    def __reduce__(self) -> NoReturn:
        """Refuses pickle and copy: weights and states are the engine's."""
        raise TypeError(
            f"{self._owner}: can't be copied or pickled; write it with `save` and read it with "
            "`Stream.load`, or make another with `ostinato.stream` and set its `state`."
        )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{port.name} {port.shape}" for port in self._inputs)
        results = ", ".join(str(port.shape) for port in self._outputs)
        why = self.why_not_native
        engine = f"on Keras, timestep by timestep: {why}" if why else "on the native engine"
        many = "" if self.streams is None else f", {self.streams} streams"
        return f"<Stream of {self.name}: {sizes} -> {results}{many}; {engine}>"

    @property
    def _owner(self) -> str:
        return f"stream of {self.name}"

    # --- arrays ---

    def _read(self, values: Nest, time: tuple[str, ...]) -> list[np.ndarray]:
        """The inputs as dense arrays of the right dtypes, checked."""
        leaves = match(self._runner.inputs, values)
        if leaves is None:
            raise ValueError(
                f"{self._owner}: expected inputs nested like "
                f"{fill(self._runner.inputs, [port.name for port in self._inputs])}, got "
                f"{type(values).__name__}."
            )
        arrays = [
            checks.timestep(
                self._owner, port.name, leaf, (*self._lead, *time, *port.shape), port.dtype
            )
            for port, leaf in zip(self._inputs, leaves, strict=True)
        ]
        at = len(self._lead)
        lengths = {array.shape[at] for array in arrays} if time else set()
        if len(lengths) > 1:
            raise ValueError(
                f"{self._owner}: expected inputs of the same number of timesteps, got "
                f"{sorted(lengths)}."
            )
        return arrays

    def _results(self, inputs: list[np.ndarray], count: int, time: tuple[int, ...]) -> Nest:
        results = [
            np.empty((*self._lead, *time, *port.shape), port.dtype) for port in self._outputs
        ]
        try:
            done = self._run(tuple(inputs), tuple(results), count)
        except (RuntimeError, ValueError) as error:
            self._raise_named(error)
        if not done:
            raise RuntimeError(f"{self._owner}: the engine refused arrays that were checked.")
        return fill(self._runner.outputs, results)

    def _raise_named(self, error: RuntimeError | ValueError) -> NoReturn:
        """Raises what the runner raised; where that's the native engine's, with names to it."""
        if self.why_not_native:
            raise error
        if isinstance(error, RuntimeError):
            raise RuntimeError(f"{self._owner}: {error}.") from error
        ids = " or ".join(port.name for port in self._inputs if not port.shape)
        raise ValueError(f"{self._owner}: input {ids}: {error}.") from error
