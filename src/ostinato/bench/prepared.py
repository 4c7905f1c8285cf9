"""What a contender makes of a case."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prepared:
    """A case ready to run.

    Attributes:
        run: Computes it once, and returns when all is computed.
        values: NumPy arrays of what `run` returned, in an order common to all contenders: outputs,
            then gradients to inputs, kernel, recurrent kernel and bias.
        engine: Which engine computes, in words.
    """

    run: Callable[[], Any]
    values: Callable[[Any], list[np.ndarray]]
    engine: str = ""

    def seconds(self) -> float:
        """Runs it once: how long it took."""
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start
