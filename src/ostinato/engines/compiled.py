"""The native engine for cells of one's own: each is made into a program, which the core runs.

What it takes from a cell is its `call`, once (programs/tracing); what can't be traced has its
reason. The loop over time, masks and the order of time are the core's, as for built-in cells.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from keras import ops

from ostinato import native
from ostinato.checkpoints import timesteps_between
from ostinato.doors import door, remembered
from ostinato.engines.interface import IN_BFLOAT16, Answer, Loop, Question, Task
from ostinato.engines.loop import (
    FlatResets,
    Recurrence,
    chosen,
    flat_resets,
    loop_flags,
    moved,
    run_over_time,
    time_major,
)
from ostinato.engines.obstacles import FLOATS
from ostinato.engines.of_programs import answer_of, with_masks, with_rows
from ostinato.programs.compiling import Compiled, run_dtype
from ostinato.programs.evaluation import evaluate
from ostinato.programs.graph import Program
from ostinato.routines import RoutineSpec
from ostinato.structure import leaves
from ostinato.tensors import Tensors, size_of, to_dtype

# A loop is left the cell where it's estimated to take less than this part of our time: most
# estimates are within a half of what's measured.
SURELY = 0.7


class Recipe(NamedTuple):
    """What follows from the question about a cell and a call.

    Attributes:
        compiled: The cell's program.
        spec: The run in the core's terms.
        held: How many states it has beside the cell's: outputs that masked timesteps repeat.
        dtype: What it's computed in.
        checkpoints: What the user asks for with `use_checkpoints`, or None.
    """

    compiled: Compiled
    spec: RoutineSpec
    held: int
    dtype: str
    checkpoints: str | None = None


class CompiledEngine:
    """Cells of one's own on the core; see `ostinato.engines.interface.Engine`."""

    name = "compiled"
    runs_together = False
    on_kernels = True
    device: str | None = "cpu"

    def obstacles(self, question: Question) -> tuple[str, ...]:
        """Why a cell can't be compiled and run so."""
        if question.native is not None:
            return (question.native,)
        found = []
        # Where another engine is asked for, no program is looked for, which is no reason.
        if question.program is None and question.forced in (None, self.name):
            found.append(question.no_program or "it isn't traced")
        if question.loop.truncate and question.resets == native.TO_FRESH_STATES:
            found.append("with truncate it would cut the gradients of fresh states, too")
        if question.dtype not in FLOATS:
            found.append(f"the cell computes in {question.dtype}, the core in floats")
        if question.framework is not None:
            found.append(question.framework)
        if question.program is not None and question.rows and question.forced != self.name:
            found += _why_the_loop(question.program, question.rows, question.trains)
        return tuple(found)

    def computes_in(self, question: Question) -> str:
        """Products from bfloat16s, where the processor multiplies those; else it's converted."""
        if question.bfloat16:
            return IN_BFLOAT16
        dtype = run_dtype(question.dtype)
        return "" if dtype == question.dtype else dtype

    def recipe(self, question: Question) -> Recipe:
        """The run in the core's terms."""
        loop, program = question.loop, question.program
        assert program is not None
        spec, held = program.spec(question.resets, question.has_mask, *loop_flags(loop))
        if question.bfloat16:
            spec = replace(spec, precision=native.BFLOAT16_PRODUCTS)
        if loop.truncate:
            spec = replace(spec, truncate=loop.truncate)
        return Recipe(program, spec, held, question.dtype, question.checkpoints)

    def run(
        self, tasks: Sequence[Task], recipes: Sequence[Recipe], joined: bool = False
    ) -> list[Answer]:
        """Runs the cells one after the other, each on all threads."""
        return [_run(task, recipe) for task, recipe in zip(tasks, recipes, strict=True)]


ENGINE = CompiledEngine()


def _why_the_loop(compiled: Compiled, rows: int, trains: bool) -> list[str]:
    """What speaks for the backend's own loop, where it's as fast for so few rows."""
    ours, loop = compiled.step_ns(rows, trains)
    if loop > SURELY * ours:
        return []
    batch = "a batch of one" if rows == 1 else f"a batch of {rows}"
    told = f"about {loop / 1e3:.1f} us a timestep, here {ours / 1e3:.1f}"
    return [f"the backend's own loop is as fast for so small a cell and {batch}: {told}"]


def _run(task: Task, recipe: Recipe) -> Answer:
    compiled = recipe.compiled
    dtype = run_dtype(recipe.dtype)
    xs, states = leaves(task.xs), leaves(task.states)
    batch_size = size_of(xs[0], 0)
    rows = tuple(with_rows(state, batch_size) for state in states)
    before = tuple(
        door.zeros((batch_size, *shape), dtype, xs[0])
        for shape in compiled.program.output_shapes[: recipe.held]
    )
    back, constants = task.loop.go_backwards, task.context.constants
    begins: Tensors = ()
    fresh: Tensors = ()
    if (resets := flat_resets(task)) is not None:
        fresh = tuple(with_rows(state, batch_size) for state in resets.fresh or ())
        begins = (moved(resets.flags, later=back),)  # the program is told of the timestep to come
        first = ops.any(resets.flags[:, -1:] if back else resets.flags[:, :1], axis=1)
        rows = chosen(first, fresh or tuple(map(ops.zeros_like, rows)), rows)
    with with_masks(task):
        operands = list(
            compiled.operands(
                task.cell, tuple(xs), (*rows, *before), constants, back, begins, fresh
            )
        )
    operands = [to_dtype(tensor, dtype) for tensor in operands]
    if task.mask is not None:
        operands.append(task.mask)
    twin = Twin(compiled.program, recipe.held, len(begins), len(fresh))
    spec = _training(recipe.spec) if task.context.training else recipe.spec
    if recipe.checkpoints is not None or spec.truncate:
        batch, timesteps = xs[0].shape[0], xs[0].shape[1]
        spec = _with_checkpoints(spec, recipe.checkpoints, batch, timesteps, dtype)
    results = list(door.native_run((spec,), tuple(operands), twin))
    count = len(compiled.program.outputs)
    return answer_of(task, compiled, results[:count], results[count:])


@remembered
def _training(spec: RoutineSpec) -> RoutineSpec:
    return replace(spec, training=1)


@remembered
def _with_checkpoints(
    spec: RoutineSpec, asked: str | None, batch: Any, timesteps: Any, dtype: str
) -> RoutineSpec:
    size, routines = 8 if dtype == "float64" else 4, spec.routines
    kept, states = routines.saved * size, routines.carried * size
    every = timesteps_between(asked, spec.truncate, (batch, timesteps), kept, states)
    return replace(spec, checkpoint=every) if every else spec


class Twin(NamedTuple):
    """The same run of a program on the portable engine; see `engines/twin.py`.

    Attributes:
        program: The program.
        held: How many states there are beside its own.
        begins: 1 where rows may begin anew, else 0.
        fresh: How many fresh states are given.
    """

    program: Program
    held: int
    begins: int = 0
    fresh: int = 0

    def __call__(self, specs: Sequence[Any], operands: Tensors) -> Tensors:
        """What `door.native_run(specs, operands)` gives."""
        (spec,) = specs
        program = self.program
        rest = iter(operands)
        xs = tuple(islice(rest, len(program.input_shapes)))
        begins = tuple(islice(rest, self.begins))
        states = tuple(islice(rest, len(program.state_shapes)))
        before = tuple(islice(rest, self.held))
        constants = tuple(islice(rest, len(program.constant_shapes)))
        fresh = tuple(islice(rest, self.fresh))
        weights = tuple(islice(rest, len(program.weight_shapes)))
        mask = next(rest, None)
        loop = Loop(
            return_sequences=bool(spec.return_sequences),
            go_backwards=bool(spec.go_backwards),
            zero_output_for_mask=mask is not None and not self.held,
            flip_outputs=bool(spec.flip_outputs),
            truncate=spec.truncate,
        )

        batch_size = size_of(xs[0], 0)
        dtype = str(xs[0].dtype)

        def step(x: Tensors, h: Tensors) -> tuple[Tensors, Tensors]:
            outputs, new = evaluate(program, x, h, constants, weights)
            # Of float64 Keras's functions make float32, on JAX.
            cast = [tuple(to_dtype(value, dtype) for value in values) for values in (outputs, new)]
            return cast[0], cast[1]

        zeros = tuple(
            ops.zeros((batch_size, *shape), dtype=dtype) for shape in program.output_shapes
        )
        resets = None
        if begins:
            flags = moved(begins[0] != 0, later=not loop.go_backwards)
            resets = FlatResets(flags, fresh or None)
        major = tuple(time_major(x, loop) for x in xs)
        outputs, final = run_over_time(Recurrence(step, major, states, zeros), mask, loop, resets)
        last = outputs[: self.held] if not loop.return_sequences else before
        return (*outputs, *final, *last)
