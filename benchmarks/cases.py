"""What is timed."""

from dataclasses import dataclass

import keras
import numpy as np

import ostinato.layers


@dataclass(frozen=True)
class Case:
    """One kind of layer at one size: B batch, T timesteps, D input features, U units."""

    kind: str
    size: str
    B: int
    T: int
    D: int
    U: int

    def inputs(self) -> np.ndarray:
        """Random inputs (B, T, D)."""
        return np.random.default_rng(0).normal(size=(self.B, self.T, self.D)).astype("float32")

    def layers(self) -> dict[str, keras.layers.Layer]:
        """Keras's layer and ours, with the same weights."""
        pair = {
            "keras": getattr(keras.layers, self.kind)(self.U),
            "ostinato": getattr(ostinato.layers, self.kind)(self.U),
        }
        for layer in pair.values():
            layer.build((self.B, self.T, self.D))
        pair["ostinato"].set_weights(pair["keras"].get_weights())
        return pair

    def __str__(self) -> str:
        return f"{self.kind} {self.size} (B{self.B} T{self.T} D{self.D} U{self.U})"


SIZES = {"S": (64, 28, 28, 64), "M": (32, 100, 64, 128)}
CASES = [
    Case(kind, size, *dimensions)
    for kind in ("LSTM", "GRU", "SimpleRNN")
    for size, dimensions in SIZES.items()
]
