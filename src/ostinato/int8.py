"""Weights in int8: whole numbers of -127 to 127, times a scale for each output."""

import numpy as np

LARGEST = 127


def rounded(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A kernel in int8.

    Args:
        kernel: (depth, columns), of floats.

    Returns:
        The whole numbers, (depth, columns) of int8, and the columns' scales, (columns,) of float32:
        each column's largest magnitude is 127 of its scale.

    Raises:
        ValueError: if it holds what is no number.
    """
    largest = np.abs(kernel).max(axis=0, initial=0).astype("float32")
    if not np.isfinite(largest).all():
        raise ValueError("expected weights that are numbers, got NaN or an infinity.")
    scales = (largest / LARGEST).astype("float32")
    whole = np.rint(kernel / np.where(scales > 0, scales, 1)).clip(-LARGEST, LARGEST)
    return whole.astype("int8"), scales
