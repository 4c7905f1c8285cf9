"""The native engine: a built-in cell over the whole sequence, in one kernel.

The kernel has the loop over time inside, with masks, held outputs, dropout and the order of time.
What is left for here is to say what is wanted in the core's terms (native/core/ostinato.h).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from keras import ops

from ostinato import native
from ostinato.cells.builtin import BuiltinCell
from ostinato.checkpoints import timesteps_between
from ostinato.doors import door, opaque, remembered
from ostinato.engines.interface import IN_BFLOAT16, Answer, Question, Task
from ostinato.engines.obstacles import of_tensors
from ostinato.engines.twin import Twin
from ostinato.native import RunSpec
from ostinato.structure import leaves
from ostinato.tensors import Tensor, Tensors, size_of, to_dtype

DTYPES = ("float32", "float64")  # every kernel's


class Recipe(NamedTuple):
    """What follows from the question about a cell and a call.

    Attributes:
        spec: The run in the core's terms, without dropout and training.
        dtype: The dtype that the cell computes in.
        tensors: That of the kernel's tensors: the same, or float32 where the kernel hasn't got it.
        checkpoints: What the user asks for with `use_checkpoints`, or None.
    """

    spec: RunSpec
    dtype: str
    tensors: str
    checkpoints: str | None


class Fused:
    """Built-in cells on the native kernels; see `ostinato.engines.interface.Engine`."""

    name = "fused"
    runs_together = True
    on_kernels = True
    device: str | None = "cpu"

    def obstacles(self, question: Question) -> tuple[str, ...]:
        """Why the kernels can't do what is asked."""
        if question.kind is None:
            return (question.not_builtin or "the cell is not a built-in one",)
        found = []
        if question.native is not None:
            found.append(question.native)
        else:
            found += [
                f"{argument} is a function that the kernel doesn't have: {shown}"
                for argument, name, shown in question.activations
                if name is None
            ]
        found += of_tensors(question, "the kernel")
        if question.framework is not None:
            found.append(question.framework)
        return tuple(found)

    def computes_in(self, question: Question) -> str:
        """bfloat16 where the processor multiplies it; else half precision is converted."""
        if question.int8:
            return "float32, weights in int8"
        if question.bfloat16:
            return IN_BFLOAT16
        return "" if question.dtype in DTYPES else "float32"

    def recipe(self, question: Question) -> Recipe:
        """The run in the core's terms, and what a run is done in."""
        known = _activation_names()
        functions = [known.index(activation.name or "") for activation in question.activations]
        loop = question.loop
        spec = RunSpec(
            kind=native.kinds()[question.kind or ""].number,
            activation=functions[0],
            recurrent_activation=functions[-1],  # of SimpleRNN, which has no gates, its own
            has_bias=int(question.use_bias),
            has_mask=int(question.has_mask),
            input_masks=0,
            recurrent_masks=0,
            go_backwards=int(loop.go_backwards),
            flip_outputs=int(loop.flip_outputs),
            return_sequences=int(loop.return_sequences),
            zero_output_for_mask=int(loop.zero_output_for_mask),
            training=0,
            wants_dx=1,  # which the door knows better
            precision=_precision(question),
            resets=question.resets,
            truncate=loop.truncate,
        )
        kept = question.dtype in DTYPES or spec.precision == native.BFLOAT16_TENSORS
        tensors = question.dtype if kept else "float32"
        return Recipe(spec, question.dtype, tensors, question.checkpoints)

    def run(
        self, tasks: Sequence[Task], recipes: Sequence[Recipe], joined: bool = False
    ) -> list[Answer]:
        """Runs built-in cells over their sequences, all at the same time, in one call."""
        runs = [_prepared(*pair) for pair in zip(tasks, recipes, strict=True)]
        twin = Twin(tuple([type(task.cell) for task in tasks]))
        if len(runs) == 1:
            results = list(door.native_run((runs[0].spec,), runs[0].operands, twin))
            return [_answer(results, tasks[0], recipes[0])]
        specs = tuple(run.spec for run in runs)
        if joined:
            specs = _side_by_side(specs[0], specs[1], *(run.units for run in runs))
        results = iter(door.native_run(specs, tuple(x for run in runs for x in run.operands), twin))
        by_run = [[next(results) for _ in range(spec.results)] for spec in specs]
        if joined:
            by_run[1].insert(0, by_run[0][0])
        return [
            _answer(of_run, task, recipe)
            for of_run, task, recipe in zip(by_run, tasks, recipes, strict=True)
        ]


ENGINE = Fused()
_activation_names = opaque(native.activation_names)


def _precision(question: Question) -> int:
    if question.int8:
        return native.INT8_WEIGHTS
    if not question.bfloat16:
        return native.OF_TENSORS
    if question.dtype == "bfloat16":
        return native.BFLOAT16_TENSORS
    return native.BFLOAT16_PRODUCTS


class _Run(NamedTuple):
    """A task in the core's terms: its spec, its tensors in the core's order, its units."""

    spec: RunSpec
    operands: Tensors
    units: int


def _prepared(task: Task, recipe: Recipe) -> _Run:
    """Draws a built-in cell's dropout masks and reads its weights, once for the whole sequence."""
    cell: BuiltinCell = task.cell
    spec, dtype, tensors, checkpoints = recipe
    x, states = to_dtype(task.xs, dtype), leaves(task.states)
    masks = cell._cell_masks(size_of(x, 0), x.shape[-1], task.context.training)
    if task.context.training or masks.inputs or masks.recurrent:
        training = int(task.context.training)
        spec = _with_dropout(spec, len(masks.inputs), len(masks.recurrent), training)
    units = states[0].shape[-1]
    if checkpoints is not None or spec.truncate:
        spec = _with_checkpoints(spec, checkpoints, x.shape[0], x.shape[1], units, tensors)
    operands = [x, *states, *cell._cell_weights()]
    if task.resets is not None and spec.resets == native.TO_FRESH_STATES:
        operands += leaves(task.resets.fresh)
    drawn = [_stack(of_kind) for of_kind in (masks.inputs, masks.recurrent) if of_kind]
    if tensors != dtype:
        operands = [ops.cast(tensor, tensors) for tensor in operands]
        drawn = [ops.cast(tensor, tensors) for tensor in drawn]
    if task.mask is not None:
        operands.append(task.mask)
    if task.resets is not None:
        operands.append(task.resets.flags)
    return _Run(spec, (*operands, *drawn), units)


@remembered
def _with_dropout(spec: RunSpec, inputs: int, recurrent: int, training: int) -> RunSpec:
    return replace(spec, input_masks=inputs, recurrent_masks=recurrent, training=training)


@remembered
def _with_checkpoints(
    spec: RunSpec, asked: str | None, batch: Any, timesteps: Any, units: int, dtype: str
) -> RunSpec:
    row = -(-units // 16) * 16 * (8 if dtype == "float64" else 4)
    kept, states = spec.cell.saved_columns * row, spec.cell.states * row
    every = timesteps_between(asked, spec.truncate, (batch, timesteps), kept, states)
    return replace(spec, checkpoint=every) if every else spec


@remembered
def _side_by_side(first: RunSpec, second: RunSpec, *units: int) -> tuple[RunSpec, ...]:
    return replace(first, ys_after=units[1]), replace(second, ys_before=units[0])


def _stack(masks: Tensors) -> Tensor:
    return ops.stack(masks) if len(masks) > 1 else ops.expand_dims(masks[0], 0)


def _answer(results: list[Tensor], task: Task, recipe: Recipe) -> Answer:
    """A run's results as the output and the final states."""
    if recipe.tensors != recipe.dtype:
        results = [ops.cast(result, recipe.dtype) for result in results]
    if task.loop.return_sequences:
        return results[0], tuple(results[1:])
    output = results[0]
    shows_states = not task.starts_from_zeros or recipe.spec.resets == native.TO_FRESH_STATES
    if task.mask is not None and (task.loop.zero_output_for_mask or shows_states):
        shown = ops.expand_dims(_last_is_shown(task), -1)
        output = ops.where(shown, output, ops.zeros_like(output))
    return output, tuple(results)


def _last_is_shown(task: Task) -> Tensor:
    """In which rows the last output isn't zero: those with a valid step.

    With `zero_output_for_mask` the last step itself has to be valid. (In a row without any valid
    step, or without one since it was last reset, the kernel's last state is the one that the row
    started from, and no output.)
    """
    mask: Any = task.mask
    if task.loop.zero_output_for_mask:
        mask = mask[:, :1] if task.loop.go_backwards else mask[:, -1:]
    if task.loop.zero_output_for_mask or task.resets is None:
        return ops.any(mask, axis=1)
    last, valid = (_last(flags, task.loop.go_backwards) for flags in (task.resets.flags, mask))
    return ops.logical_and(valid > 0, valid >= last)


def _last(flags: Tensor, go_backwards: bool) -> Tensor:
    """The last timestep of the run where a flag (B, T) is true, counted from 1; 0 where none is."""
    flags = ops.flip(flags, axis=1) if go_backwards else flags
    numbers = ops.cumsum(ops.ones_like(flags, dtype="int32"), axis=1)
    found = ops.where(flags, numbers, ops.zeros_like(numbers))
    return ops.max(ops.pad(found, ((0, 0), (1, 0))), axis=1)  # of no timesteps there's a 0, too
