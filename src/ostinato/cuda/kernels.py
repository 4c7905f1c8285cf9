"""Kernels of passes, compiled and loaded when a call first needs them, and the calls themselves."""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

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


class Addresses(NamedTuple):
    """Where the tensors of a call are.

    Attributes:
        operands: Streams (T, B, ...), constants (B, ...), initial states (B, ...), weights, and
            the mask (T, B) if there is one.
        results: Of what is given, in the order of `Kernels.shapes`.
        workspace: As many zeros as `Kernels.workspace` says.
        grads: On the way back the gradients of outputs and final states.
        kept: Likewise what training kept.
    """

    operands: Sequence[int]
    results: Sequence[int]
    workspace: int
    grads: Sequence[int] = ()
    kept: int = 0


class Run(NamedTuple):
    """What else a call has to know.

    Attributes:
        sizes: Timesteps, and rows of the batch.
        every: Whether outputs are of every timestep.
        three_products: Whether products have float32's precision, not TF32's.
        device: The card.
        stream: The stream's handle.
    """

    sizes: tuple[int, int]
    every: bool
    three_products: bool
    device: int
    stream: int


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
    """

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self._loaded: dict[tuple[str, Layout, bool, int], driver.Kernel] = {}

    def of(self, way: str) -> Pass:
        """One of the passes."""
        found: Pass = getattr(self.passes, way)
        return found

    def why_not(self, card: Card, trains: bool) -> str | None:
        """Why a card can't hold the passes, or None."""
        for way in ("train", "backward") if trains else ("infer",):
            try:
                found = layout(self.of(way), 1, card)
            except ProgramError as refusal:
                return str(refusal)
            if isinstance(found, str):
                return found
        return None

    def workspace(self, way: str, batch: int, device: int) -> int:
        """The zeros of 4 bytes that a call needs."""
        return self._layout(way, batch, device).workspace(batch)

    def _layout(self, way: str, batch: int, device: int) -> Layout:
        found = layout(self.of(way), batch, _TOOLCHAIN.card(device))
        if isinstance(found, str):
            raise ProgramError(found)
        return found

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

    def shapes(self, way: str, sizes: tuple[int, int], every: bool) -> list[tuple[int, ...]]:
        """The shapes of what a pass gives; what training keeps is one, the last."""
        timesteps, batch = sizes
        passes = self.passes
        states = [(batch, *shape) for shape in passes.program.state_shapes]
        if way == "backward":
            values = [passes.nodes[value].shape for value in passes.written]
            return [*states, *((timesteps, batch, *shape) for shape in values)]
        lead = (timesteps, batch) if every else (batch,)
        outputs = [(*lead, *shape) for shape in passes.program.output_shapes]
        kept = [(len(passes.kept), timesteps, batch, passes.units)] if way == "train" else []
        return [*outputs, *states, *kept]

    def run(self, way: str, at: "Addresses", how: "Run") -> None:
        """Runs a pass, on a card whose context is current."""
        timesteps, batch = how.sizes
        laid = self._layout(way, batch, how.device)
        kernel = self._kernel(way, laid, how.three_products, how.device)
        groups, passed = laid.groups(batch), self.of(way)
        pitch = 4 * timesteps * batch * self.passes.units
        takes = self._taken(at, pitch)
        gives = list(at.results)
        if way == "train":
            first = gives.pop()
            gives += [first + pitch * i for i in range(len(self.passes.kept))]
        mask = takes.get(Operand(MASK, 0), 0)
        counters = at.workspace + 4 * (laid.workspace(batch) - groups)
        pointers = [*(takes[operand] for operand in passed.takes), *gives]
        at_once = laid.groups_at_once(batch, _TOOLCHAIN.card(how.device))
        for first in range(0, groups, at_once):
            call = _call(
                (*pointers, mask, at.workspace, counters),
                (timesteps, batch, first, groups, int(how.every)),
            )
            _TOOLCHAIN.launch(kernel, min(at_once, groups - first), how.stream, call)

    def _taken(self, at: "Addresses", pitch: int) -> dict[Operand, int]:
        """The address of each thing that a pass may take."""
        kinds = [(kind, i) for kind, count in self.counts.items() for i in range(count)]
        program = self.passes.program
        kinds += [(D_OUTPUT, i) for i in range(len(program.outputs))]
        kinds += [(D_STATE, i) for i in range(len(program.states))]
        found = {
            Operand(*kind): address
            for kind, address in zip(kinds, (*at.operands, *at.grads), strict=False)
        }
        for i in range(len(self.passes.kept) if at.grads else 0):
            found[Operand(KEPT, i)] = at.kept + pitch * i
        return found

    def _kernel(self, way: str, laid: Layout, three_products: bool, device: int) -> driver.Kernel:
        key = (way, laid, three_products, device)
        if key not in self._loaded:
            text = source(self.of(way), laid, three_products)
            image = _TOOLCHAIN.cubin(text, _TOOLCHAIN.card(device).arch)
            self._loaded[key] = _TOOLCHAIN.load(image, laid)
        return self._loaded[key]


def _call(addresses: Sequence[int], numbers: Sequence[int]) -> bytes:
    """`Call` in kernel.cuh; it ends where its last number does, and pads to its pointers' size."""
    packed = struct.pack(f"{len(addresses)}Q{len(numbers)}i", *addresses, *numbers)
    return packed + bytes(-len(packed) % 8)
