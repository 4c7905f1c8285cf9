"""Data for streams, sequences cut into pieces, and what a model gives on the whole of them."""

import keras
import numpy as np
from keras import ops, tree

N, T, VOCABULARY = 4, 9, 11
# Which timesteps are padding: holes, everything, nothing, and at the end.
PADDED = np.zeros((N, T), bool)
PADDED[0, [0, 3]] = PADDED[1] = PADDED[3, 5:] = True


def floats(*shape, seed=0):
    """Random float32 values."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def data_for(model, padding=None, rows=N, timesteps=T, seed=1):
    """A batch of inputs for a model, in its nest."""
    rng = np.random.default_rng(seed)

    def draw(tensor):
        if "int" in keras.backend.standardize_dtype(tensor.dtype):
            made = rng.integers(1, VOCABULARY, (rows, timesteps)).astype("int32")
        else:
            # A model rounds its inputs to float32 even where its layers compute in float64.
            made = rng.normal(size=(rows, timesteps, *tensor.shape[2:])).astype("float32")
            made = made.astype("float64" if tensor.dtype == "float64" else "float32")
        if padding is not None:
            made[np.resize(PADDED, (rows, timesteps))] = padding
        return made

    given = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return tree.map_structure(draw, given)


def run_whole(model, data):
    """What a model gives on whole sequences, in NumPy."""
    outputs = model(tree.map_structure(ops.convert_to_tensor, data), training=False)
    return tree.map_structure(_numpy, outputs)


def _numpy(tensor):
    array = ops.convert_to_numpy(tensor)
    return array if array.dtype == "float64" else array.astype("float32")


def cut(nest, *index):
    """The same part of every array of a nest."""
    return tree.map_structure(lambda array: array[index], nest)


def run_in_pieces(stream, data, lengths):
    """Runs sequences, which are cut into these lengths; a length of None is one `step`."""
    lead, at, pieces = (() if stream.streams is None else (slice(None),)), 0, []
    for length in lengths:
        if length is None:
            made = stream.step(cut(data, *lead, at))
            pieces.append(tree.map_structure(lambda y: np.expand_dims(y, len(lead)), made))
        else:
            pieces.append(stream.run(cut(data, *lead, slice(at, at + length))))
        at += length or (length is None)
    return tree.map_structure(lambda *ys: np.concatenate(ys, len(lead)), *pieces)


def random_lengths(rng, timesteps=T):
    """Random lengths that make up a sequence; None for one `step`, some of them nothing."""
    lengths, left = [], timesteps
    while left:
        length = None if rng.random() < 0.4 else int(rng.integers(0, left + 1))
        lengths.append(length)
        left -= 1 if length is None else length
    return lengths


def assert_nests_close(got, expected, tolerance):
    """Asserts that nests are the same, and their arrays close."""
    tree.assert_same_structure(got, expected)
    for a, b in zip(tree.flatten(got), tree.flatten(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
