"""How many blocks hold a pass, and with how much shared memory: sizes alone, no GPU."""

from typing import NamedTuple

from ostinato.cuda.passes import Pass
from ostinato.cuda.units import Product

BLOCK, CLUSTER, GRID = range(3)  # what has to meet, as in kernel.cuh
# What products of float32 are computed from: by three of TF32 each they have float32's precision.
FLOAT32, TF32, BFLOAT16 = "float32", "tf32", "bfloat16"
THREADS = 256
# Elements that a thread may have, all of them in registers: of seven, of more scalars than that,
# and of three that keep 28 scalars each (a layer-normalized LSTM's), NVRTC puts some into memory.
_OF_A_THREAD, _MOST_SCALARS = (4, 2), 88
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
        products: What products are computed from.
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
    products: str = FLOAT32

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


def layout(passed: Pass, batch: int, card: Card, products: str = FLOAT32) -> Layout | str:
    """The layout of a pass for so many rows, or why it can't be held."""
    smallest = None
    for barrier, units in _splits(passed, card, depth_of(products)):
        wanted = None
        for rows in range(16, _MOST_ROWS + 1, 16):
            found = made(passed, rows, units, barrier, products)
            if smallest is None or found.shared < smallest:
                smallest = found.shared
            too_many = rows * units > _most_of_a_thread(passed) * THREADS
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


def made(
    passed: Pass,
    rows: int,
    units: int,
    barrier: int,
    products: str = FLOAT32,
    threads: int = THREADS,
) -> Layout:
    """A layout with all that follows from some of its sizes."""
    blocks = -(-passed.step.units // units)
    padded, pieces, depth = blocks * units, pieces_of(passed), depth_of(products)
    chunk = padded if barrier == BLOCK else _chunk(padded, depth)
    splits = tuple(_split(rows, units, product, threads // 32) for product in passed.step.products)
    floats = 0
    for product, split in zip(passed.step.products, splits, strict=True):
        columns = len(product.columns) * units
        floats += len(product.pieces) * padded * columns * 8 // depth
        floats += split * rows * (columns + 4)
    floats += len(passed.step.reductions) * rows * parts_of(rows, threads)
    floats += (pieces if barrier == BLOCK else min(pieces, 1)) * rows * (chunk + depth // 2)
    sizes = rows, units, blocks, chunk, barrier
    return Layout(*sizes, splits, pieces, 4 * floats, threads, products)


def parts_of(rows: int, threads: int) -> int:
    """How many threads share a row of a reduction."""
    return min(threads // rows, 8)


def depth_of(products: str) -> int:
    """How deep a tile of a product is: 32 bytes of what it's computed from."""
    return 16 if products == BFLOAT16 else 8


def pieces_of(passed: Pass) -> int:
    """The scalars of a unit that are shared before a meeting, at most."""
    found: dict[int, set[str]] = {}
    for each in passed.step.across:
        found.setdefault(each.section, set()).update(each.pieces)
    return max(map(len, found.values()), default=0)


def _splits(passed: Pass, card: Card, depth: int) -> list[tuple[int, int]]:
    """Barriers, and units of a block, with fewer blocks first: they wait less for one another."""
    units, widest = passed.step.units, min(_WIDEST_BLOCK, 16 * _most_of_a_thread(passed))
    if not passed.step.across:
        return [(BLOCK, min(_multiple(units, depth), 32, widest))]
    found = [(BLOCK, _multiple(units, depth))]
    if card.arch >= 90:
        found += [(CLUSTER, _multiple(-(-units // blocks), depth)) for blocks in _CLUSTERS]
    for size in range(_multiple(units, depth), depth - 1, -depth):
        if -(-units // size) <= card.processors:
            found.append((GRID, size))
    return [
        (barrier, size)
        for barrier, size in found
        if size <= widest and (barrier != CLUSTER or -(-units // size) in _CLUSTERS)
    ]


def _most_of_a_thread(passed: Pass) -> int:
    """Elements of a thread, by what each keeps while units meet."""
    scalars = len(passed.step.carries) + len(passed.step.lasting)
    return next((count for count in _OF_A_THREAD if count * scalars <= _MOST_SCALARS), 1)


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of


def _chunk(padded: int, depth: int) -> int:
    sizes = range(min(padded, _WIDEST_CHUNK) // depth * depth, 0, -depth)
    return next(size for size in sizes if padded % size == 0)


def _split(rows: int, units: int, product: Product, warps: int) -> int:
    tiles = rows // 16 * (len(product.columns) * units // 8)
    return next((split for split in (8, 4, 2) if tiles * split <= warps), 1)
