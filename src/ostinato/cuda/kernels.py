"""Kernels of passes, compiled and loaded when a call first needs them, and the calls themselves."""

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ostinato.cuda import driver, nvrtc
from ostinato.cuda.layout import Card, Layout, layout
from ostinato.cuda.passes import KEPT, Operand, Pass, Passes
from ostinato.cuda.source import source
from ostinato.programs.node import (
    CONSTANT,
    D_OUTPUT,
    D_STATE,
    INPUT,
    MASK,
    STATE,
    WEIGHT,
    ProgramError,
)


class How(NamedTuple):
    """What a call has to know beside its tensors.

    Attributes:
        sizes: Timesteps, and rows of the batch.
        every: Whether outputs are of every timestep.
        products: What products are computed from: FLOAT32, TF32 or BFLOAT16 of `layout`.
        device: The card.
    """

    sizes: tuple[int, int]
    every: bool
    products: str
    device: int


class Prepared(NamedTuple):
    """A call, but for where its tensors are.

    Tensors are counted as they come: the operands (streams (B, T, ...), constants (B, ...), initial
    states (B, ...), weights, and the mask (B, T) if there is one); on the way back what training
    kept, and the gradients of outputs and final states; then the results, in the order of
    `Kernels.shapes`; last the workspace.

    Attributes:
        layout: How the kernel is laid out.
        image: Its machine code.
        pointers: Of each of the kernel's pointers which tensor it's of (NOTHING: null), and how
            many bytes into it.
        groups: How many groups of blocks there are.
        at_once: How many of them a launch may have.
        workspace: How many zeros of 4 bytes it needs.
    """

    layout: Layout
    image: bytes
    pointers: tuple[tuple[int, int], ...]
    groups: int
    at_once: int
    workspace: int


NOTHING = -1


class Toolchain(NamedTuple):
    """What kernels are made and run with: the driver and NVRTC, or a test's."""

    card: Callable[[int], Card]
    cubin: Callable[[str, int], bytes]
    load: Callable[[bytes, Layout], driver.Kernel]
    launch: Callable[[driver.Kernel, int, int, bytes], None]


_TOOLCHAIN = Toolchain(driver.card, nvrtc.cubin, driver.load, driver.launch)


def card_of(device: int) -> Card:
    """What a layout has to know of a card."""
    return _TOOLCHAIN.card(device)


class Kernels:
    """The kernels of a program's passes.

    Attributes:
        passes: The passes.
        prepared: A call of a pass ("infer", "train" or "backward"), compiled when it's first asked
            for, of that and `How`.
    """

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self.prepared = functools.lru_cache(maxsize=256)(self._made)
        self._images: dict[tuple[str, Layout, int], bytes] = {}
        self._loaded: dict[tuple[bytes, int], driver.Kernel] = {}

    def of(self, way: str) -> Pass:
        """One of the passes."""
        found: Pass = getattr(self.passes, way)
        return found

    def why_not(self, card: Card, trains: bool, products: str) -> str | None:
        """Why a card can't hold the passes, or None."""
        if not self.counts[INPUT] and not self.counts[MASK]:
            return "its step reads no inputs"
        for way in ("train", "backward") if trains else ("infer",):
            try:
                found = layout(self.of(way), 1, card, products)
            except ProgramError as refusal:
                return str(refusal)
            if isinstance(found, str):
                return found
        return None

    @property
    def counts(self) -> dict[str, int]:
        """How many operands there are of each kind, in their order; the mask is the last."""
        program = self.passes.program
        return {
            INPUT: len(program.input_shapes),
            CONSTANT: len(program.constant_shapes),
            STATE: len(program.state_shapes),
            WEIGHT: len(program.weight_shapes),
            MASK: int(self.passes.has_mask),
        }

    @property
    def axes(self) -> tuple[int | None, ...]:
        """Which axis of each operand is the batch; None of weights, which have none."""
        return tuple(
            None if kind == WEIGHT else 0
            for kind, count in self.counts.items()
            for _ in range(count)
        )

    @property
    def differentiable(self) -> tuple[bool, ...]:
        """Of each operand whether results have a derivative in it."""
        fixed = self.passes.program.fixed
        return tuple(
            kind != MASK and (kind, number) not in fixed
            for kind, count in self.counts.items()
            for number in range(count)
        )

    def sizes(self, operands: Sequence[Any]) -> tuple[int, int]:
        """Timesteps, and rows of the batch, of operands."""
        rows, timesteps = operands[
            0 if self.counts[INPUT] else sum(self.counts.values()) - 1
        ].shape[:2]
        return timesteps, rows

    def shapes(self, way: str, sizes: tuple[int, int], every: bool) -> list[tuple[int, ...]]:
        """The shapes of what a pass gives; what training keeps is one, the last."""
        timesteps, batch = sizes
        passes = self.passes
        states = [(batch, *shape) for shape in passes.program.state_shapes]
        if way == "backward":
            values = [passes.nodes[value].shape for value in passes.written]
            return [*states, *((batch, timesteps, *shape) for shape in values)]
        lead = (batch, timesteps) if every else (batch,)
        outputs = [(*lead, *shape) for shape in passes.program.output_shapes]
        kept = [(len(passes.kept), batch, timesteps, passes.units)] if way == "train" else []
        return [*outputs, *states, *kept]

    def result_axes(self, way: str) -> tuple[int, ...]:
        """Which axis of each of these is the batch."""
        states, passes = len(self.passes.program.state_shapes), self.passes
        if way == "backward":
            return (0,) * (states + len(passes.written))
        results = (0,) * (len(passes.program.output_shapes) + states)
        return (*results, 1) if way == "train" else results

    def _made(self, way: str, how: How) -> Prepared:
        batch, card = how.sizes[1], _TOOLCHAIN.card(how.device)
        laid = layout(self.of(way), batch, card, how.products)
        if isinstance(laid, str):
            raise ProgramError(laid)
        key = (way, laid, how.device)
        if key not in self._images:
            text = source(self.of(way), laid)
            self._images[key] = _TOOLCHAIN.cubin(text, card.arch)
        groups, workspace = laid.groups(batch), laid.workspace(batch)
        pointers = self._pointers(way, how.sizes, 4 * (workspace - groups))
        at_once = laid.groups_at_once(batch, card)
        return Prepared(laid, self._images[key], tuple(pointers), groups, at_once, workspace)

    def _pointers(self, way: str, sizes: tuple[int, int], counters: int) -> list[tuple[int, int]]:
        """The kernel's pointers; the counters are so many bytes into the workspace."""
        passes, program, passed = self.passes, self.passes.program, self.of(way)
        pitch = 4 * sizes[0] * sizes[1] * passes.units
        kinds = [(kind, i) for kind, count in self.counts.items() for i in range(count)]
        places = {Operand(*kind): (place, 0) for place, kind in enumerate(kinds)}
        count = len(kinds)
        if way == "backward":
            places |= {Operand(KEPT, i): (count, pitch * i) for i in range(len(passes.kept))}
            kinds = [(D_OUTPUT, i) for i in range(len(program.outputs))]
            kinds += [(D_STATE, i) for i in range(len(program.states))]
            places |= {Operand(*kind): (count + 1 + i, 0) for i, kind in enumerate(kinds)}
            count += 1 + len(kinds)
        results = len(self.shapes(way, sizes, every=True))
        gives = [(count + i, 0) for i in range(results)]
        if way == "train":
            first, _ = gives.pop()
            gives += [(first, pitch * i) for i in range(len(passes.kept))]
        mask, workspace = places.get(Operand(MASK, 0), (NOTHING, 0)), count + results
        takes = [places[operand] for operand in passed.takes]
        return [*takes, *gives, mask, (workspace, 0), (workspace, counters)]

    def run(self, way: str, how: How, addresses: Sequence[int], stream: int) -> None:
        """Runs a pass, on a card whose context is current.

        Args:
            way: Which.
            how: The call.
            addresses: Of the tensors that `Prepared` counts.
            stream: The stream's handle.
        """
        call, (timesteps, batch) = self.prepared(way, how), how.sizes
        kernel = self._kernel(call, how.device)
        pointers = [0 if i == NOTHING else addresses[i] + offset for i, offset in call.pointers]
        for first in range(0, call.groups, call.at_once):
            packed = _call(pointers, (timesteps, batch, first, call.groups, int(how.every)))
            at_once = min(call.at_once, call.groups - first)
            _TOOLCHAIN.launch(kernel, at_once, stream, packed)

    def _kernel(self, call: Prepared, device: int) -> driver.Kernel:
        key = (call.image, device)
        if key not in self._loaded:
            self._loaded[key] = _TOOLCHAIN.load(call.image, call.layout)
        return self._loaded[key]


def _call(addresses: Sequence[int], numbers: Sequence[int]) -> bytes:
    """`Call` in kernel.cuh; it ends where its last number does, and pads to its pointers' size."""
    packed = struct.pack(f"{len(addresses)}Q{len(numbers)}i", *addresses, *numbers)
    return packed + bytes(-len(packed) % 8)
