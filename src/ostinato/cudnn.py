"""What one call of cuDNN's recurrent layers takes and gives; no framework.

    x (B, T, D), h (directions, B, U), LSTM's c likewise, parameters in one tensor
    -> ys (B, T, directions U), h and c of the last timestep of each direction

Gates are cuDNN's: LSTM's input, forget, candidate, output; GRU's reset, update, candidate. Each
product has a bias of its own.
"""

from typing import NamedTuple

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


class CudnnSpec(NamedTuple):
    """One call.

    Attributes:
        mode: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        directions: 1, or 2: from the first timestep to the last, and from the last to the first.
        features: D.
        units: U.
    """

    mode: str
    directions: int
    features: int
    units: int

    @property
    def parameters(self) -> list[tuple[int, ...]]:
        """The shapes of the parameters, in the order in which they lie in one tensor.

        All kernels, (G U, D) and (G U, U) of each direction; then the biases of either product.
        """
        columns = GATES[self.mode] * self.units
        kernels = [(columns, self.features), (columns, self.units)] * self.directions
        return kernels + [(columns,)] * (2 * self.directions)
