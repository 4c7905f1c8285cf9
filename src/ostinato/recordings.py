"""Recordings of different lengths as batches of chunks, for layers that carry their states on.

Shape letters: B rows of a batch, T timesteps of a chunk.
"""

import heapq
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np


class _Piece(NamedTuple):
    """Where a recording lies: in which row of all batches, and from which timestep on."""

    recording: int
    row: int
    first: int


class Chunks(keras.utils.PyDataset):
    """Batches for `fit(..., shuffle=False)`, `evaluate` and `predict`; made by `ostinato.chunks`.

    A batch's inputs are a dict of "x" (B, T, ...), and "resets" (B, T): booleans, True where a
    recording begins. Row r of a batch goes on in row r of the next.
    """

    def __init__(
        self,
        recordings: Sequence[Any],
        targets: Sequence[Any] | None,
        timesteps: int,
        batch_size: int,
        seed: int | None,
    ) -> None:
        super().__init__(workers=1)
        self._recordings, self._targets = recordings, targets
        self._like = _one_like("recordings", recordings)
        self._target_like = None if targets is None else _one_like("targets", targets)
        self._timesteps, self._batch_size = timesteps, batch_size
        self._lengths = [len(recording) for recording in recordings]
        self._rows = _dealt(self._lengths, batch_size)
        longest = max(sum(self._lengths[i] for i in row) for row in self._rows)
        self._batches = -(-longest // timesteps)
        self._random = None if seed is None else np.random.default_rng(seed)
        self._next = 0  # the batch that comes after the last that was asked for
        self._lay_out()
        self._given = self._pieces  # the layout of the batches that were given last

    def _lay_out(self) -> None:
        self._pieces: list[list[_Piece]] = []
        for number, row in enumerate(self._rows):
            order = row if self._random is None else list(self._random.permutation(row))
            firsts = np.cumsum([0, *(self._lengths[i] for i in order)])
            pieces = zip(order, firsts, strict=False)
            self._pieces.append([_Piece(int(i), number, int(first)) for i, first in pieces])

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """The batch of a number: inputs; and with targets these, and weights (B, T).

        Raises:
            IndexError: if there's no such batch.
            ValueError: if it's neither the first batch, nor the last again, nor the one after it:
                states are carried on from each to the next.
        """
        if not 0 <= index < self._batches:
            raise IndexError(f"ostinato.chunks: expected batch 0 to {self._batches - 1}: {index}")
        if index not in (0, self._next - 1, self._next):
            raise ValueError(
                f"ostinato.chunks: expected batches in their order, got batch {index} after batch "
                f"{self._next - 1}. Call `fit` with shuffle=False, and without a `steps_per_epoch` "
                "that ends an epoch in between: states go on from each to the next."
            )
        self._next = index + 1
        if index == 0:
            self._given = self._pieces
        first = index * self._timesteps
        x = self._filled(self._recordings, self._like, first)
        inputs = {"x": x, "resets": self._resets(first)}
        if self._targets is None:
            return (inputs,)
        ones = [np.broadcast_to(np.float32(1), (length,)) for length in self._lengths]
        y = self._filled(self._targets, self._target_like, first)
        return inputs, y, self._filled(ones, ones[0][:1], first)

    def on_epoch_end(self) -> None:
        """Puts the recordings of each row in another order, where a seed was given."""
        self._next = 0
        if self._random is not None:
            self._lay_out()

    def _within(self, first: int) -> Any:
        """The pieces that have timesteps in [first, first + T) of their row, and which: slices."""
        last = first + self._timesteps
        for piece in (piece for row in self._pieces for piece in row):
            begin, end = piece.first, piece.first + self._lengths[piece.recording]
            if begin < last and end > first:
                begin, end = max(begin, first), min(end, last)
                in_recording = slice(begin - piece.first, end - piece.first)
                yield piece, in_recording, slice(begin - first, end - first)

    def _filled(self, arrays: Sequence[Any], like: Any, first: int) -> Any:
        """The chunk of some arrays that begins at a timestep of the rows; zeros where none is."""
        batch = np.zeros((self._batch_size, self._timesteps, *like.shape[1:]), like.dtype)
        for piece, in_recording, in_chunk in self._within(first):
            batch[piece.row, in_chunk] = arrays[piece.recording][in_recording]
        return batch

    def _resets(self, first: int) -> Any:
        resets = np.zeros((self._batch_size, self._timesteps), bool)
        for piece, in_recording, in_chunk in self._within(first):
            resets[piece.row, in_chunk.start] = in_recording.start == 0
        if first == 0:  # of rows without a recording, too: another epoch's states are in them
            resets[:, 0] = True
        return resets

    def apart(self, outputs: Any) -> list[Any]:
        """What a model gave for all batches, one after another, as an array for each recording.

        Args:
            outputs: (batches x B, T, ...), as `predict` gives them.

        Raises:
            ValueError: if it has other sizes.
        """
        outputs = np.asarray(outputs)
        expected = (self._batches * self._batch_size, self._timesteps)
        if outputs.shape[:2] != expected:
            raise ValueError(
                f"ostinato.chunks: expected outputs ({expected[0]}, {expected[1]}, ...) of all "
                f"batches, got {outputs.shape}."
            )
        by_batch = outputs.reshape(self._batches, self._batch_size, *outputs.shape[1:])
        whole: list[Any] = [None] * len(self._recordings)
        for piece in (piece for row in self._given for piece in row):
            row = by_batch[:, piece.row].reshape(-1, *outputs.shape[2:])
            whole[piece.recording] = row[piece.first :][: self._lengths[piece.recording]]
        return whole


def _one_like(name: str, arrays: Sequence[Any]) -> Any:
    """A timestep of the shape that all have, and of a dtype that takes any of them.

    Raises:
        ValueError: if their shapes differ in more than the length.
    """
    firsts = [np.asarray(array[:1]) for array in arrays]
    shapes = {first.shape[1:] for first in firsts}
    if len(shapes) > 1:
        raise ValueError(
            f"ostinato.chunks: expected {name} alike but in their length, got timesteps of shapes "
            f"{', '.join(map(str, sorted(shapes)))}."
        )
    return firsts[0].astype(np.result_type(*{first.dtype for first in firsts}))


def _lengths(name: str, arrays: Any) -> list[int]:
    """How long each of some arrays is.

    Raises:
        ValueError: if they aren't a sequence of what has a length.
    """
    if isinstance(arrays, dict) or not all(hasattr(arrays, n) for n in ("__len__", "__getitem__")):
        raise ValueError(
            f"ostinato.chunks: expected {name} in a list, got {type(arrays).__name__}."
        )
    for index, array in enumerate(arrays):
        shape = getattr(array, "shape", None)
        if shape == () or (shape is None and not hasattr(array, "__len__")):
            raise ValueError(
                f"ostinato.chunks: expected {name} with an axis of timesteps each, got "
                f"{type(array).__name__} for {index}."
            )
    return [len(array) for array in arrays]


def _dealt(lengths: Sequence[int], rows: int) -> list[list[int]]:
    """Which recordings go to each row, so that the longest row is short: the longest first."""
    filled = [(0, row) for row in range(rows)]
    dealt: list[list[int]] = [[] for _ in range(rows)]
    for recording in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length, row = heapq.heappop(filled)
        dealt[row].append(recording)
        heapq.heappush(filled, (length + lengths[recording], row))
    return dealt


def chunks(
    recordings: Sequence[Any],
    targets: Sequence[Any] | None = None,
    *,
    timesteps: int,
    batch_size: int,
    seed: int | None = None,
) -> Chunks:
    """Recordings of different lengths as batches of chunks, in which stateful layers go on.

    The recordings are laid end to end in `batch_size` rows, and these are cut every `timesteps`:
    little is padded, only after a row's last recording. Where one begins, `resets` is True. For a
    model whose recurrent layers are `stateful` and are called with `resets`.

    Args:
        recordings: Arrays (timesteps, ...) alike but in their length, at least one long; anything
            that has a length and can be sliced, as memory-mapped files.
        targets: For each an array (timesteps, ...) as long, or None where there are none.
        timesteps: How many a chunk has.
        batch_size: How many rows a batch has.
        seed: Where one is given, each epoch has the recordings of a row in another random order.

    Returns:
        A `keras.utils.PyDataset` whose batches are inputs, {"x": (B, T, ...), "resets": (B, T)},
        and with targets these (B, T, ...), and weights (B, T) that are 0 where a row is padded.

    Raises:
        ValueError: if lengths or sizes don't fit.
    """
    for name, value in (("timesteps", timesteps), ("batch_size", batch_size)):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"ostinato.chunks: expected {name} of at least 1, got {value!r}.")
    if seed is not None and (
        not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or seed < 0
    ):
        raise ValueError(
            f"ostinato.chunks: expected seed to be an int from 0 on or None, got {seed!r}."
        )
    lengths = _lengths("recordings", recordings)
    if not lengths or not all(lengths):
        raise ValueError("ostinato.chunks: expected recordings of at least one timestep.")
    if targets is not None and _lengths("targets", targets) != lengths:
        raise ValueError(
            "ostinato.chunks: expected a target for each recording, with as many timesteps, got "
            f"lengths {_lengths('targets', targets)} for {lengths}."
        )
    return Chunks(recordings, targets, int(timesteps), int(batch_size), seed)
