"""The native engine's operation again, of the same tensors, but on the portable engine.

A door takes it where kernels won't do: for derivatives that they haven't, and in programs that will
run elsewhere. Its cells are made from the spec, with the operands for weights, so a compiled
function that holds on to it holds on to no model.
"""

import inspect
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from keras import ops

from ostinato import native
from ostinato.cells.builtin import BuiltinCell
from ostinato.engines.interface import Loop
from ostinato.engines.loop import FlatResets, Recurrence, run_over_time, time_major
from ostinato.native import RunSpec
from ostinato.signatures import signature
from ostinato.tensors import Tensor, Tensors, dequantized


class Twin(NamedTuple):
    """Built-in cells of some classes over sequences, on the portable engine.

    Attributes:
        classes: The class of each run's cell; a subclass with its base's mathematics will do.
    """

    classes: tuple[type, ...]

    def __call__(self, specs: Sequence[RunSpec], operands: Tensors) -> Tensors:
        """What `door.native_run(specs, operands)` gives."""
        tensors = iter(operands)
        names = signature("forward", tuple(specs)).operands
        runs = [dict(zip(run, islice(tensors, len(run)), strict=True)) for run in names]
        answers = [
            _run(_built_in(cls), spec, run)
            for cls, spec, run in zip(self.classes, specs, runs, strict=True)
        ]
        results: list[Tensor] = []
        for place, (spec, (outputs, states)) in enumerate(zip(specs, answers, strict=True)):
            if spec.ys_after:
                outputs = (ops.concatenate((*outputs, *answers[place + 1][0]), axis=-1),)
            results += [*(outputs if spec.owns_ys else ()), *states]
        return tuple(results)


class _Masks(NamedTuple):
    inputs: Tensors
    recurrent: Tensors


def _built_in(cls: type) -> Any:
    package = __name__.partition(".")[0]
    return next(base for base in cls.__mro__ if base.__module__.partition(".")[0] == package)


def _run(cls: Any, spec: RunSpec, given: dict[str, Tensor]) -> tuple[Tensors, Tensors]:
    cell = _cell(cls, spec, given)
    loop = Loop(
        return_sequences=bool(spec.return_sequences),
        go_backwards=bool(spec.go_backwards),
        zero_output_for_mask=bool(spec.zero_output_for_mask),
        flip_outputs=bool(spec.flip_outputs),
        truncate=spec.truncate,
    )
    drawn = (given.get("input_masks"), given.get("recurrent_masks"))
    masks = _Masks(*(() if of_kind is None else tuple(ops.unstack(of_kind)) for of_kind in drawn))
    timestep = cell._cell_recurrence(masks)

    def step(x: Tensors, states: Tensors) -> tuple[Tensors, Tensors]:
        output, new = timestep(x[0], states)
        return (output,), new

    names = ("h", "c")[: spec.cell.states]
    states = tuple(given[name] for name in names)
    resets = None
    if spec.resets:
        keeps = spec.resets == native.TO_FRESH_STATES
        fresh = tuple(given[f"fresh_{name}"] for name in names) if keeps else None
        resets = FlatResets(given["resets"], fresh)
    xs = (time_major(given["x"], loop),)
    recurrence = Recurrence(step, xs, states, states[:1], cell._cell_projection(masks))
    return run_over_time(recurrence, given.get("mask"), loop, resets)


def _cell(cls: Any, spec: RunSpec, given: dict[str, Tensor]) -> BuiltinCell:
    """A cell whose weights are the operands. It's given a name and a seed, so as to draw none."""
    names = native.activation_names()
    options = {
        "activation": names[spec.activation],
        "recurrent_activation": names[spec.recurrent_activation],
        "reset_after": spec.cell.name == "gru",
    }
    taken = inspect.signature(cls).parameters
    cell: Any = cls(
        given["recurrent_kernel"].shape[0],
        use_bias=bool(spec.has_bias),
        name="twin",
        seed=0,
        dtype=str(given["x"].dtype),
        **{name: value for name, value in options.items() if name in taken},
    )
    cell.kernel, cell.recurrent_kernel = given["kernel"], given["recurrent_kernel"]
    if spec.precision == native.INT8_WEIGHTS:
        cell.kernel = dequantized(cell.kernel, given["kernel_scales"])
        cell.recurrent_kernel = dequantized(cell.recurrent_kernel, given["recurrent_scales"])
    cell.bias = given.get("bias")
    built: BuiltinCell = cell
    return built
