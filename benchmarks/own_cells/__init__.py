"""Two dozen cells as people write them, in `keras.ops`: what `python -m benchmarks cells` times."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.own_cells import gated, others

Random = np.random.Generator
Arrays = Any  # one array or a dict of them


def normal(rng: Random, B: int, T: int, U: int) -> Arrays:
    """As many features as units."""
    return rng.standard_normal((B, T, U), "float32")


def positive(rng: Random, B: int, T: int, U: int) -> Arrays:
    """One feature: a load, a current."""
    return rng.uniform(0.1, 1.5, (B, T, 1)).astype("float32")


def observed(rng: Random, B: int, T: int, U: int) -> Arrays:
    """Values, which of them were observed, six of ten, and the time."""
    is_observed = rng.random((B, T, U)) < 0.6
    time = np.cumsum(rng.uniform(0.1, 1, (B, T, 1)), axis=1)
    values = rng.standard_normal((B, T, U)) * is_observed
    return np.concatenate([values, is_observed, time], axis=-1).astype("float32")


def pictures(rng: Random, B: int, T: int, U: int) -> Arrays:
    """Pictures of 8 x 8."""
    return rng.standard_normal((B, T, 8, 8, max(1, U // 16)), "float32")


def vector_and_matrix(rng: Random, B: int, T: int, U: int) -> Arrays:
    """Two inputs."""
    return {"flat": normal(rng, B, T, U), "grid": rng.standard_normal((B, T, 3, 5), "float32")}


@dataclass(frozen=True)
class Own:
    """A cell, and what it reads.

    Attributes:
        make: The cell of a number of units.
        inputs: The layer's inputs, of a random generator and B, T, U.
        memory: How many vectors of U numbers the layer takes as its constants.
        is_gated: Whether it counts among the gated cells.
        is_vast: Whether the portable engine needs very much memory and time for it.
        spikes: Whether a rounding error may become another spike, so that runs can't be compared.
        tolerance: How far apart two runs in float32 may be, of the largest number in a tensor:
            rounding grows over a hundred timesteps.
    """

    make: Callable[[int], Any]
    inputs: Callable[[Random, int, int, int], Arrays] = normal
    memory: int = 0
    is_gated: bool = False
    is_vast: bool = False
    spikes: bool = False
    tolerance: float = 1e-3


CELLS: dict[str, Own] = {
    "PlainLSTM": Own(gated.PlainLSTM, is_gated=True),
    "PeepholeLSTM": Own(gated.PeepholeLSTM, is_gated=True),
    # At M either run is 4e-4 to 2.3e-3 from one in float64: it normalizes states of hardly any
    # size.
    "LayerNormLSTM": Own(gated.LayerNormLSTM, is_gated=True, tolerance=5e-3),
    "NAS": Own(gated.NAS, is_gated=True),
    "MultiplicativeLSTM": Own(gated.MultiplicativeLSTM, is_gated=True),
    "ONLSTM": Own(gated.ONLSTM, is_gated=True),
    "GRUD": Own(gated.GRUD, observed, is_gated=True),
    "SRU": Own(gated.SRU, is_gated=True),
    "AttentionGRU": Own(gated.AttentionGRU, memory=10, is_gated=True),
    "ConvGRU": Own(gated.ConvGRU, pictures, is_vast=True),
    "HyperRNN": Own(gated.HyperRNN),
    "Elman": Own(others.Elman),
    "IndRNN": Own(others.IndRNN),
    "Antisymmetric": Own(others.Antisymmetric),
    # Its capacity's gradient is what's left of large sums: of 4 rows at M the portable engine's is
    # 1.3e-4 from float64's and ours 6.5e-4; all others are within 1e-6.
    "LTC": Own(others.LTC, is_vast=True, tolerance=1e-2),
    "LMU": Own(others.LMU),
    "LIF": Own(others.LIF, spikes=True),
    "LIFCustomGradient": Own(others.LIFCustomGradient, spikes=True),
    "ESN": Own(others.ESN),
    "TwoInputs": Own(others.TwoInputs, vector_and_matrix),
    "CRFForward": Own(others.CRFForward, is_vast=True),
    "CrackGrowth": Own(others.CrackGrowth, positive),
    "Battery": Own(others.Battery, positive),
    "RunningMax": Own(others.RunningMax),
}
