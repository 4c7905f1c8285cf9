"""What a run of a built-in cell takes and gives: the names of its tensors and their shapes.

The framework-free statement of what native/core/ostinato.h says in words and signature.cpp to the
core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ostinato.native import BFLOAT16_TENSORS, INT8_WEIGHTS, TO_FRESH_STATES, RunSpec

Names = tuple[str, ...]
Sizes = tuple[Any, ...]  # a shape; sizes may be a framework's symbols, or None where unknown

# The axes of every tensor; a gradient, named as what it's of after `d_`, has those of what it's of.
# B, T, D and U are the sizes; the others are made of these and the spec in `_sizes`.
_AXES = {
    "x": ("B", "T", "D"),
    "h": ("B", "U"),
    "c": ("B", "U"),
    "kernel": ("D", "gates U"),
    "kernel_scales": ("gates U",),
    "recurrent_kernel": ("U", "gates U"),
    "recurrent_scales": ("gates U",),
    "bias": ("bias rows", "gates U"),
    "fresh_h": ("B", "U"),
    "fresh_c": ("B", "U"),
    "mask": ("B", "T"),
    "resets": ("B", "T"),
    "input_masks": ("input masks", "B", "D"),
    "recurrent_masks": ("recurrent masks", "B", "U"),
    "ys": ("B", "T", "U of ys"),
    "saved": ("saved times", "B", "saved"),
}
# Which of them is the batch; the weights have none.
BATCH_AXES = {name: axes.index("B") for name, axes in _AXES.items() if "B" in axes}


@dataclass(frozen=True)
class RunLayout:
    """One run in one operation; see `ostinato.signatures.Layout`."""

    operation: str
    spec: RunSpec

    inputs = ("x",)
    anchors = ("x", "recurrent_kernel")  # they have all sizes

    @cached_property
    def operands(self) -> Names:
        """The names of what the run reads, in order."""
        spec = self.spec
        states = ("h", "c")[: spec.cell.states]
        weights: Names = ("kernel", "recurrent_kernel")
        if spec.precision == INT8_WEIGHTS:
            weights = ("kernel", "kernel_scales", "recurrent_kernel", "recurrent_scales")
        counts = (spec.has_mask, spec.resets, spec.input_masks, spec.recurrent_masks)
        names = ("mask", "resets", "input_masks", "recurrent_masks")
        masks = tuple(name for name, count in zip(names, counts, strict=True) if count)
        taken = ("x", *states, *weights, *("bias",) * bool(spec.has_bias), *self._fresh, *masks)
        if self.operation == "forward":
            return taken
        # What is computed once more takes what it took.
        known = taken if spec.checkpoint else ("x", *weights, *masks)
        gradients = (*("ys",) * spec.owns_ys, *states)
        return (*known, "saved", *(f"d_{name}" for name in gradients))

    @cached_property
    def results(self) -> Names:
        """The names of what the run writes, in order."""
        spec = self.spec
        states = ("h", "c")[: spec.cell.states]
        if self.operation == "forward":
            return (*("ys",) * spec.owns_ys, *states, *("saved",) * bool(spec.training))
        of = (*("x",) * bool(spec.wants_dx), *states, "kernel", "recurrent_kernel")
        of = (*of, *("bias",) * bool(spec.has_bias), *self._fresh)
        return tuple(f"d_{name}" for name in of)

    @property
    def _fresh(self) -> Names:
        states = ("fresh_h", "fresh_c")[: self.spec.cell.states]
        return states if self.spec.resets == TO_FRESH_STATES else ()

    @cached_property
    def differentiable(self) -> tuple[bool, ...]:
        """Nothing learns flags, nor the masks that dropout draws."""
        return tuple("mask" not in name and name != "resets" for name in self.operands)

    def shapes(self, anchors: Sequence[Sizes]) -> list[Sizes]:
        """The shapes of the results, given those of the anchors."""
        x, recurrent = anchors
        if len(x) != 3 or len(recurrent) != 2:
            raise ValueError(
                f"[ostinato::{self.operation}] expected x (batch, time, features) and "
                f"recurrent_kernel (units, gates x units), got {tuple(x)} and "
                f"{tuple(recurrent)}."
            )
        sizes = _sizes(self.spec, x[0], x[1], x[2], recurrent[0])
        return [_shape(name, sizes) for name in self.results]


def _sizes(spec: RunSpec, B: Any, T: Any, D: Any, U: Any) -> dict[str, Any]:  # noqa: N803
    """What `_AXES` speaks of. Only sums, products and whole quotients: symbols have no others."""
    cell, unknown, every = spec.cell, U is None, spec.checkpoint
    # float32s, in two columns each where the tensor is one of bfloat16s
    saved = cell.states if every else cell.saved_columns
    saved *= 2 if spec.precision == BFLOAT16_TENSORS else 1
    times = None if T is None else (T + every - 1) // every if every else T + 1
    return {
        "B": B,
        "T": T,
        "D": D,
        "U": U,
        "gates U": None if unknown else cell.gates * U,
        "bias rows": cell.bias_rows,
        "input masks": spec.input_masks,
        "recurrent masks": spec.recurrent_masks,
        "U of ys": None if unknown else U + spec.ys_after,
        "saved times": times,
        "saved": None if unknown else saved * ((U + 15) // 16 * 16),
    }


def _shape(name: str, sizes: dict[str, Any]) -> Sizes:
    axes = _AXES[name.removeprefix("d_")]
    if axes[0] == "bias rows" and sizes["bias rows"] == 1:
        axes = axes[1:]
    return tuple(sizes[axis] for axis in axes)
