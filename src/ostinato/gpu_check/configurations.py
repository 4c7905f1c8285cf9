"""What is tried on a card: every kind of cell, each way that blocks meet, every option."""

from collections.abc import Iterator
from typing import NamedTuple

LSTM, GRU, SIMPLE, OWN = "LSTM", "GRU", "SimpleRNN", "a cell of one's own"


class Configuration(NamedTuple):
    """One layer and one call.

    Attributes:
        kind: One of the above.
        units: Its units.
        options: The layer's arguments, beside those and what makes it give everything.
        products: What its products are computed from.
        has_mask: Whether timesteps are masked, with holes and rows without a valid one.
        has_states: Whether initial states are given.
        resets: "" or where rows begin anew with "zeros" or "fresh states".
        rows: Rows of the batch.
        is_for_all: Whether it's tried with every framework; others with one that is quick to trace.
    """

    kind: str
    units: int
    options: tuple[tuple[str, object], ...] = ()
    products: str = "float32"
    has_mask: bool = False
    has_states: bool = False
    resets: str = ""
    rows: int = 19
    is_for_all: bool = False

    @property
    def draws(self) -> bool:
        """Whether it draws dropout masks."""
        return any(name.endswith("dropout") for name, _ in self.options)

    def __str__(self) -> str:
        said = [f"{name}={value}" for name, value in self.options]
        said += ["masked"] * self.has_mask + ["initial states"] * self.has_states
        said += [f"resets to {self.resets}"] * bool(self.resets)
        said += [f"{self.rows} rows"] * (self.rows != Configuration(LSTM, 1).rows)
        told = f": {', '.join(said)}" if said else ""
        return f"{self.kind}, {self.units} units, {self.products}{told}"


# On cards of today blocks of 64 units need no others; of 128 units they meet in a cluster where
# there are clusters (compute capability 9.0), of 512 in the grid.
UNITS = (64, 128, 512)
_DROPPED = (("dropout", 0.3), ("recurrent_dropout", 0.3), ("implementation", 1))
_ODD = (("activation", "gelu"), ("use_bias", False), ("zero_output_for_mask", True))
# (No function with a bend, which would make of a rounding error another gradient.)
_LAST = (
    *(("activation", "softsign"), ("recurrent_activation", "tanh")),
    ("return_sequences", False),
)
_BACK = (("go_backwards", True),)
_BEFORE = (("reset_after", False),)
_CUT = (("truncate", 7),)


def configurations(units: tuple[int, ...] = UNITS) -> Iterator[Configuration]:
    """All of them, the plainest first."""
    for size in units:
        yield from _of_size(size)


def _of_size(units: int) -> Iterator[Configuration]:
    yield Configuration(LSTM, units, is_for_all=True)
    yield Configuration(LSTM, units, _BACK, has_mask=True, has_states=True, is_for_all=True)
    yield Configuration(LSTM, units - 3, _ODD, has_mask=True)
    yield Configuration(LSTM, units, _DROPPED, has_mask=True)
    yield Configuration(LSTM, units, _LAST, has_states=True, rows=70)
    yield Configuration(LSTM, units, _CUT, has_mask=True, resets="fresh states", is_for_all=True)
    for products in ("tf32", "bfloat16"):
        yield Configuration(LSTM, units, products=products, has_mask=True, has_states=True)
    yield Configuration(GRU, units, has_mask=True, has_states=True)
    yield Configuration(GRU, units, _BEFORE, has_states=True, is_for_all=True)
    yield Configuration(GRU, units - 3, (*_BEFORE, *_DROPPED), has_mask=True, resets="zeros")
    yield Configuration(SIMPLE, units, _ODD, has_mask=True, rows=70)
    yield Configuration(SIMPLE, units, products="bfloat16", has_states=True)
    yield Configuration(OWN, units, has_mask=True, has_states=True, is_for_all=True)
    yield Configuration(OWN, units - 3, (*_CUT, *_BACK), resets="fresh states")
