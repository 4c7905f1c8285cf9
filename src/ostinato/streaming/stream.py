"""What users hold: a stream, or several side by side, that takes one timestep at a time."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from ostinato.nests import Nest, fill, flatten
from ostinato.streaming import checks, files, rtneural
from ostinato.streaming.c99 import writer as c99
from ostinato.streaming.compiled import Compiled
from ostinato.streaming.naming import described, named
from ostinato.streaming.program import Port, Program
from ostinato.streaming.quantizing import quantized
from ostinato.streaming.rows import Rows
from ostinato.streaming.runner import Runner
from ostinato.streaming.states import StateDict, set_states, state_dict
from ostinato.streaming.turns import Turns


class Stream:
    """A model that takes one timestep at a time and keeps its state; made by `ostinato.stream`.

    Whatever a sequence is cut into, the outputs are those of the model on the whole of it. A stream
    begins with the layers' initial states, and has no dropout.

    With `streams=N` arrays have an axis of N streams in front, else none. Objects are separate, but
    for the weights, which those of one model share: each may be used by a thread of its own; one
    that is in use in one thread refuses another, but for `open` and `close`, which wait.

    Attributes:
        name: The model's name.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        streams: int | None,
        reread: Callable[[Any], None] | None = None,
    ) -> None:
        self.name, self._rows = name, Rows(streams)
        self._runner, self._reread = runner, reread
        self._inputs: list[Port] = flatten(runner.inputs)
        self._outputs: list[Port] = flatten(runner.outputs)
        self._run = runner.run
        self._turns = Turns(self._owner)
        self._make_ready()
        self.reset()

    def _make_ready(self) -> None:
        """The common case of a step: one input of floats, one output, all streams open."""
        rows, runner = self._rows, self._runner
        first, last = self._inputs[0], self._outputs[0]
        plain = isinstance(runner.inputs, Port) and isinstance(runner.outputs, Port)
        plain = plain and bool(first.shape) and rows.open is None
        self._x_shape = (*rows.lead, *first.shape) if plain else None
        self._y_shape, self._y_dtype = (*rows.lead, *last.shape), np.dtype(last.dtype)

    @property
    def streams(self) -> int | None:
        """How many streams are open; None where arrays have no axis of streams."""
        return None if self._rows.is_single else self._rows.count

    @property
    def rows(self) -> np.ndarray:
        """The numbers of the open streams in order, which is that of arrays' first axis."""
        return self._many("rows").numbers

    def another(self, streams: int | None = None) -> "Stream":
        """Another stream of the same model, at its beginning; the weights are shared.

        It costs what its states do, and nothing is read of the model.

        Args:
            streams: How many sequences go side by side, as for `ostinato.stream`.

        Raises:
            ValueError: if `streams` isn't a positive int, or more than 2^24.
        """
        streams = checks.number_of_streams(f"{self._owner}: another", streams)
        return Stream(self.name, self._runner.another(streams or 1), streams, self._reread)

    def open(self, count: int = 1) -> list[int]:
        """Opens more streams while the others go on where they are.

        It waits for a call that another thread has under way.

        Args:
            count: How many.

        Returns:
            Their numbers, those of closed streams first. They're at their beginning.

        Raises:
            ValueError: if `count` isn't a positive int, or too many for one object, or the stream
                was made without `streams=`.
        """
        rows = self._many("open")
        with self._turns.change():
            chosen = rows.next(f"{self._owner}: open", count)
            self._runner.reset(chosen[chosen < rows.room])  # once closed; new ones begin so
            if chosen[-1] >= rows.room:
                self._runner.resize(int(chosen[-1]) + 1)
            rows.add(chosen)
            self._make_ready()
        return [int(row) for row in chosen]

    def close(self, rows: Iterable[int] | int) -> None:
        """Closes some streams: arrays have no place for them then, and the others' numbers stay.

        It waits for a call that another thread has under way.

        Raises:
            ValueError: if there's no such stream, or the stream was made without `streams=`.
        """
        open_rows = self._many("close")
        with self._turns.change():
            open_rows.remove(open_rows.named(f"{self._owner}: close", rows))
            self._make_ready()

    def _many(self, what: str) -> Rows:
        if self._rows.is_single:
            raise ValueError(
                f"{self._owner}: {what}: expected a stream that was made with streams=N; this one "
                "is a single one."
            )
        return self._rows

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
        program, rows = self._program(owner), self._rows
        try:
            runner = Compiled(quantized(program), rows.room)
        except ValueError as error:
            raise ValueError(f"{owner}: {error}") from error
        made = Stream(self.name, runner, None if rows.is_single else rows.room, self._reread)
        with self._turns:
            runner.write_states(self._runner.read_states())
            made._rows = rows.copy()
        made._make_ready()
        return made

    def step(self, x: Nest, *, rows: Any = None, resets: Any = None) -> Nest:
        """Runs one timestep.

        Args:
            x: The model's inputs of one timestep, (D,) or (N, D); ids for an Embedding are
                integers, () or (N,). A nest of such arrays where the model has several inputs.
            rows: The numbers of the streams that take part, (n,), in any order; by default all.
                Arrays are of these alone, (n, D), and the others stay where they are.
            resets: Booleans, () or (N,): where they hold a stream begins anew before this timestep.

        Returns:
            The model's outputs of this timestep, (units,) or (N, units), as new NumPy arrays in the
            model's nest. A layer without `return_sequences` gives what it would give if the
            sequence ended here.

        Raises:
            ValueError: if x isn't what the model takes, or there's no such stream; no state has
                changed then.
            RuntimeError: if another thread is using the stream.
        """
        shape = self._x_shape if rows is None and resets is None else None
        if shape is not None and getattr(x, "shape", None) == shape:
            if not self._rows.is_single:  # of which others may be opened and closed
                return self._step_of_all(x)
            y = np.empty(self._y_shape, self._y_dtype)
            try:
                if self._run((x,), (y,), 1):
                    return y
            except RuntimeError as error:
                self._raise_named(error)
        return self._go(x, (), rows, resets)

    def _step_of_all(self, x: Any) -> Nest:
        turns = self._turns
        # What `with turns` does, in 0.2 us less.
        if turns.is_wanted or not turns.use.acquire(blocking=False):
            turns.begin_after_changes()
        try:
            y = np.empty(self._y_shape, self._y_dtype)
            if self._run((x,), (y,), 1):
                return y
        except RuntimeError as error:
            self._raise_named(error)
        finally:
            turns.use.release()
        return self._go(x, (), None, None)

    def run(self, chunk: Nest, *, rows: Any = None, resets: Any = None) -> Nest:
        """Runs some timesteps.

        Args:
            chunk: As for `step`, with an axis of time: (T, D) or (N, T, D).
            rows: As for `step`.
            resets: As for `step`, (T,) or (N, T).

        Returns:
            The outputs of all T timesteps, (T, units) or (N, T, units).

        Raises:
            ValueError: if the chunk isn't what the model takes; no state has changed then.
            RuntimeError: if another thread is using the stream.
        """
        return self._go(chunk, ("T",), rows, resets)

    def reset(self, rows: Iterable[int] | int | None = None) -> None:
        """Begins anew: the layers' initial states.

        Args:
            rows: The numbers of the streams that begin anew; by default all.

        Raises:
            ValueError: if there's no such stream.
        """
        with self._turns:
            self._runner.reset(self._rows.chosen(f"{self._owner}: reset", rows))

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
        with self._turns:
            arrays = self._runner.read_states(self._rows.open)
            return state_dict(self._runner.states, arrays, self._rows.lead)

    @state.setter
    def state(self, values: dict[str, Sequence[Any]]) -> None:
        """Sets the states of some layers, or of all.

        Raises:
            ValueError: if there's no such layer, or an array's shape isn't that of its state, or
                its numbers are of another kind; nothing has changed then.
        """
        with self._turns:
            arrays = self._runner.read_states(self._rows.open)
            set_states(self._owner, self._runner.states, arrays, values, self._rows.lead)
            self._runner.write_states(arrays, self._rows.open)

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Writes the states to a file (NumPy's .npz)."""
        with self._turns:
            states = self._runner.read_states(self._rows.open)
        files.write_state(path, self._runner.states, states)

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Takes the states that `save_state` wrote.

        Raises:
            ValueError: if they're those of another model, or of another number of streams.
        """
        with self._turns:
            states = files.read_state(path, self._runner.states, self._rows.count, self._owner)
            self._runner.write_states(states, self._rows.open)

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

        Where some streams are closed, the open ones are numbered anew in the file.

        Raises:
            ValueError: if Keras runs it, which a file can't hold, none is open, or it's no path.
        """
        if self._runner.program is None:
            raise ValueError(
                f"{self._owner}: save: only a stream on the native engine can be saved, and this "
                f"one isn't: {self.why_not_native}."
            )
        with self._turns:
            if not self._rows.count:
                raise ValueError(
                    f"{self._owner}: save: expected an open stream, and all are closed."
                )
            states, streams = self._runner.read_states(self._rows.open), self.streams
        files.write(path, self._runner.program, streams, states)

    def save_c(self, path: str | os.PathLike[str]) -> None:
        """Writes the stream as C99: NAME.c, with the weights in it, and NAME.h beside it.

        It needs no library but libm, and allocates nothing: a stream is a struct NAME_stream, of
        which there may be any number. NAME_reset begins anew, NAME_step takes a timestep.

        Args:
            path: NAME.c; all names in it begin with NAME.

        Raises:
            ValueError: if the path isn't such a one, Keras runs the stream, or a cell of one's own
                does what isn't written in C.
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
        streams = checks.number_of_streams(f"stream of {path}", streams)
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
        ports = self._inputs, self._outputs
        return described(self.name, *ports, self.streams, self.why_not_native)

    @property
    def _owner(self) -> str:
        return f"stream of {self.name}"

    # --- arrays ---

    def _go(self, values: Nest, time: tuple[str, ...], rows: Any, resets: Any) -> Nest:
        """Runs a timestep, or with `time` ("T",) some, of some streams or of all."""
        checks.in_an_order(self._owner, rows)
        with self._turns:
            chosen = self._rows.chosen(self._owner, rows)
            lead = self._rows.lead
            if rows is not None and chosen is not None:
                checks.each_once(self._owner, chosen)
                lead = (len(chosen),)
            nest = self._runner.inputs
            inputs = checks.inputs(self._owner, nest, self._inputs, values, lead, time)
            count = inputs[0].shape[len(lead)] if time else 1
            sizes = (*lead, count) if time else lead
            flags = None
            if resets is not None:
                flags = checks.timestep(self._owner, "resets", resets, sizes, "bool")
            return self._results(inputs, count, sizes, chosen, flags)

    def _results(
        self,
        inputs: list[np.ndarray],
        count: int,
        sizes: tuple[int, ...],
        rows: np.ndarray | None,
        resets: np.ndarray | None,
    ) -> Nest:
        results = [np.empty((*sizes, *port.shape), port.dtype) for port in self._outputs]
        try:
            done = self._run(tuple(inputs), tuple(results), count, rows, resets)
        except (RuntimeError, ValueError) as error:
            self._raise_named(error)
        if not done:
            raise RuntimeError(f"{self._owner}: the engine refused arrays that were checked.")
        return fill(self._runner.outputs, results)

    def _raise_named(self, error: RuntimeError | ValueError) -> NoReturn:
        """Raises what the runner raised; where that's the native engine's, with names to it."""
        if self.why_not_native:
            raise error
        raise named(self._owner, error, self._inputs) from error
