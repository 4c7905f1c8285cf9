"""What is computed: sizes, and the data and weights that all contenders get."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("LSTM", "GRU", "SimpleRNN")
MODES = {
    "infer": "inference",
    "train": "training step",  # the forward pass in training, and all gradients
    "fit": "a step of fit",
}
# B batch, T timesteps, D features, U units, and what else is particular
SIZES: dict[str, tuple[int, int, int, int]] = {
    "S": (64, 28, 28, 64),
    "M": (32, 100, 64, 128),
    "L": (64, 100, 128, 512),
    "XL": (16, 200, 256, 1024),
    "B8": (8, 100, 128, 512),
    "odd": (32, 50, 300, 300),
    "M-padded": (32, 100, 64, 128),
    "guide": (64, 28, 28, 64),
    "B1": (1, 100, 64, 128),
    "B1-long": (1, 1000, 64, 256),
    "B2": (2, 100, 64, 128),
    "B4": (4, 100, 64, 128),
}
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


@dataclass(frozen=True)
class Case:
    """One kind of layer, at one size, in one mode.

    Attributes:
        kind: One of `KINDS`.
        size: A name in `SIZES`. "M-padded" is M with rows of different lengths, padded: half
            of all timesteps are valid; "guide" is the guide's model, which only `fit` runs.
        mode: One of `MODES`.
    """

    kind: str
    size: str
    mode: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """B, T, D, U."""
        return SIZES[self.size]

    @property
    def gates(self) -> int:
        """How many columns of the kernels each unit has."""
        return GATES[self.kind]

    def inputs(self) -> np.ndarray:
        """Random inputs (B, T, D)."""
        B, T, D, _ = self.shape
        return _normal(1, (B, T, D))

    def lengths(self) -> np.ndarray | None:
        """Valid timesteps of each row (B,), where rows are padded: 1 to T - 1, T / 2 on average."""
        if self.size != "M-padded":
            return None
        B, T, _, _ = self.shape
        lengths = np.rint(np.linspace(1, T - 1, B)).astype("int64")
        return np.random.default_rng(2).permutation(lengths)

    def mask(self) -> np.ndarray | None:
        """The mask (B, T) that says so: rows end early, which is padding on the right."""
        lengths = self.lengths()
        return None if lengths is None else np.arange(self.shape[1]) < lengths[:, None]

    def options(self) -> dict[str, Any]:
        """What a layer is called with beside x."""
        mask = self.mask()
        return {} if mask is None else {"mask": mask}

    def cotangent(self) -> np.ndarray:
        """The loss's gradient to the outputs (B, T, U); zero where they're padding."""
        B, T, _, U = self.shape
        mask = self.mask()
        gradient = _normal(3, (B, T, U))
        return gradient if mask is None else gradient * mask[..., None].astype("float32")

    def weights(self) -> list[np.ndarray]:
        """Kernel, recurrent kernel and bias, in Keras's layout; states stay far from chaos."""
        _, _, D, U = self.shape
        columns = self.gates * U
        bias = (2, columns) if self.kind == "GRU" else (columns,)
        return [
            _normal(4, (D, columns)) / np.float32(D**0.5),
            _normal(5, (U, columns)) * np.float32(0.7 / U**0.5),
            _normal(6, bias) * np.float32(0.1),
        ]

    def products(self) -> tuple[np.ndarray, np.ndarray, int]:
        """The case's matrix products: operands, weights (D + U, columns), how many products.

        The operands (4, B, D + U) are for use by turns, so that a compiler can't take the product
        out of its loop.
        """
        B, T, D, U = self.shape
        left, right = _normal(7, (4, B, D + U)), _normal(8, (D + U, self.gates * U))
        return left, right, T * (1 if self.mode == "infer" else 3)

    def comparable(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs without those of padding, which libraries fill in as they like."""
        mask = self.mask()
        return outputs if mask is None else outputs * mask[..., None]

    def __str__(self) -> str:
        B, T, D, U = self.shape
        return f"{self.kind} {self.size} (B{B} T{T} D{D} U{U}), {MODES[self.mode]}"


def select(kinds: Iterable[str], sizes: Iterable[str], modes: Iterable[str]) -> list[Case]:
    """The cases among these kinds, sizes and modes; only the guide's model runs `fit`."""
    kinds, sizes, modes = tuple(kinds), tuple(sizes), tuple(modes)
    return [
        Case(kind, size, mode)
        for size in sizes
        for kind in kinds
        for mode in modes
        if (size == "guide") == (mode == "fit")
    ]


def _normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")
