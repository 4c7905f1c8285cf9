"""What a layer asks of an engine, whichever it is."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Asked:
    """What is wanted of a run.

    Attributes:
        mask: (B, T) booleans in the order of time, or None. A masked timestep keeps every state
            and repeats the previous output (zeros before a row's first valid step).
        every_output: Whether the outputs of all timesteps are wanted, or the last only.
        zero_masked: Whether a masked timestep's output is zero instead.
        reverse: Whether to run from the last timestep to the first.
        flip_outputs: Whether the outputs come in the opposite order of the run's.
        unroll: Whether to unroll the loop, where there is one.
    """

    mask: Any = None
    every_output: bool = False
    zero_masked: bool = False
    reverse: bool = False
    flip_outputs: bool = False
    unroll: bool = False
