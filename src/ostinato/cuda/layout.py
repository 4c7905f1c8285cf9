"""How many blocks hold a pass, and with how much shared memory: sizes alone, no GPU."""

from typing import NamedTuple

from ostinato.cuda.passes import Pass
from ostinato.cuda.units import Product

BLOCK, CLUSTER, GRID = range(3)  # what has to meet, as in kernel.cuh
THREADS = 256
# Each thread's rows and units are in registers: of seven NVRTC puts some into memory.
_MOST_OF_A_THREAD = 4
_MOST_ROWS = 64
_WIDEST_BLOCK = 64
# Of a left side that is fetched in parts.
_WIDEST_CHUNK = 256
_CLUSTERS = (2, 4, 8)  # what every card with clusters can have


class Card(NamedTuple):
    """What a layout has to know of a card.

    Attributes:
        arch: Its compute capability: 80, 90, 100.
        processors: Its multiprocessors.
        shared: The bytes of shared memory that a block may have.
    """

    arch: int
    processors: int
    shared: int


class Layout(NamedTuple):
    """A pass on a card.

    Attributes:
        rows: Rows of the batch that a group of blocks runs.
        units: Units of a block.
        blocks: Blocks of a group.
        chunk: Elements of a product's left side that are in shared memory at once.
        barrier: What has to meet.
        splits: Of each product how many warps share a tile of its result.
        pieces: Scalars of a unit that are shared before a meeting, at most.
        shared: Bytes of shared memory of a block.
        threads: Threads of a block.
    """

    rows: int
    units: int
    blocks: int
    chunk: int
    barrier: int
    splits: tuple[int, ...]
    pieces: int
    shared: int
    threads: int = THREADS

    def groups(self, batch: int) -> int:
        """Groups for so many rows."""
        return -(-batch // self.rows)

    def groups_at_once(self, batch: int, card: Card) -> int:
        """Groups of one launch: those that wait for one another across the grid must all run."""
        groups = self.groups(batch)
        return min(groups, card.processors // self.blocks) if self.barrier == GRID else groups

    @property
    def padded(self) -> int:
        """Units of all blocks, with those that aren't there."""
        return self.blocks * self.units

    def workspace(self, batch: int) -> int:
        """Zeros of 4 bytes that a call needs: what blocks share, then a counter for each group."""
        shared = 0
        if self.barrier != BLOCK:
            shared = 2 * self.groups(batch) * self.rows * self.pieces * self.padded
        return shared + self.groups(batch)


def layout(passed: Pass, batch: int, card: Card, threads: int = THREADS) -> Layout | str:
    """The layout of a pass for so many rows, or why it can't be held."""
    smallest = None
    for barrier, units in _splits(passed, card):
        wanted = None
        for rows in range(16, _MOST_ROWS + 1, 16):
            found = made(passed, rows, units, barrier, threads)
            if smallest is None or found.shared < smallest:
                smallest = found.shared
            too_many = rows * units > _MOST_OF_A_THREAD * threads
            if found.shared > card.shared or (too_many and wanted is not None):
                break
            wanted = found
            if found.groups(batch) * found.blocks <= card.processors:
                break
        if wanted is not None:
            return wanted
    if smallest is None:
        return "it takes more blocks than the card has multiprocessors"
    return (
        f"its weights take {smallest // 1024} KB of shared memory in each block, and the card has "
        f"{card.shared // 1024}"
    )


def made(passed: Pass, rows: int, units: int, barrier: int, threads: int = THREADS) -> Layout:
    """A layout with all that follows from some of its sizes."""
    blocks = -(-passed.step.units // units)
    padded, pieces = blocks * units, pieces_of(passed)
    chunk = padded if barrier == BLOCK else _chunk(padded)
    splits = tuple(_split(rows, units, product, threads // 32) for product in passed.step.products)
    floats = 0
    for product, split in zip(passed.step.products, splits, strict=True):
        columns = len(product.columns) * units
        floats += len(product.pieces) * padded * columns + split * rows * (columns + 4)
    floats += (pieces if barrier == BLOCK else min(pieces, 1)) * rows * (chunk + 4)
    return Layout(rows, units, blocks, chunk, barrier, splits, pieces, 4 * floats, threads)


def pieces_of(passed: Pass) -> int:
    """The scalars of a unit that are shared before a meeting, at most."""
    found: dict[int, set[str]] = {}
    for product in passed.step.products:
        found.setdefault(product.section, set()).update(product.pieces)
    return max(map(len, found.values()), default=0)


def _splits(passed: Pass, card: Card) -> list[tuple[int, int]]:
    """Barriers, and units of a block, with fewer blocks first: they wait less for one another."""
    units = passed.step.units
    if not passed.step.products:
        return [(BLOCK, min(_eights(units), 32))]
    found = [(BLOCK, _eights(units))]
    if card.arch >= 90:
        found += [(CLUSTER, _eights(-(-units // blocks))) for blocks in _CLUSTERS]
    for size in range(_eights(units), 7, -8):
        if -(-units // size) <= card.processors:
            found.append((GRID, size))
    return [
        (barrier, size)
        for barrier, size in found
        if size <= _WIDEST_BLOCK and (barrier != CLUSTER or -(-units // size) in _CLUSTERS)
    ]


def _eights(size: int) -> int:
    return -(-size // 8) * 8


def _chunk(padded: int) -> int:
    sizes = range(min(padded, _WIDEST_CHUNK) // 8 * 8, 0, -8)
    return next(size for size in sizes if padded % size == 0)


def _split(rows: int, units: int, product: Product, warps: int) -> int:
    tiles = rows // 16 * (len(product.columns) * units // 8)
    return next((split for split in (8, 4, 2) if tiles * split <= warps), 1)
