"""Ostinato's own CUDA kernel for any cell that is made into a program; PyTorch and JAX call it.

It's taken where it has been seen to be right on the card (`ostinato.cuda.stamp`), or is asked for.
"""

import functools
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from keras import ops

from ostinato import native
from ostinato.cuda.apart import Apart, apart
from ostinato.cuda.around import afterwards, beforehand
from ostinato.cuda.kernels import How, Kernels, card_of
from ostinato.cuda.layout import BFLOAT16, FLOAT32
from ostinato.cuda.passes import Passes
from ostinato.doors import door, opaque
from ostinato.engines.interface import IN_BFLOAT16, Answer, Loop, Question, Task
from ostinato.engines.loop import (
    FlatResets,
    Recurrence,
    chosen,
    flat_resets,
    moved,
    run_over_time,
)
from ostinato.engines.obstacles import FLOATS
from ostinato.engines.of_programs import answer_of, with_masks, with_rows
from ostinato.programs.compiling import Compiled, named
from ostinato.programs.evaluation import evaluate
from ostinato.programs.graph import Program
from ostinato.programs.node import ProgramError
from ostinato.structure import leaves
from ostinato.tensors import Tensor, Tensors, size_of, to_dtype

NOT_CHECKED = "Ostinato's CUDA kernel isn't checked on this card: run `ostinato check-gpu`"


class Form(NamedTuple):
    """What kernels of a program depend on beside it.

    Attributes:
        has_mask: Whether there's a mask of timesteps.
        zero_output: Whether masked outputs are zero.
        resets: What rows become where they begin anew, as in `Question`.
        truncate: Between so many timesteps gradients of states stop; 0: nowhere.
    """

    has_mask: bool
    zero_output: bool
    resets: int
    truncate: int

    def fresh(self, step: Program) -> int | None:
        """How many fresh states are given; None where no row begins anew."""
        if self.resets == native.NO_RESETS:
            return None
        return len(step.state_shapes) if self.resets == native.TO_FRESH_STATES else 0


class Recipe(NamedTuple):
    """What follows from the question.

    Attributes:
        compiled: The cell's program.
        apart: The same in two.
        kernels: The name under which the door finds the step's kernels.
        form: What they depend on beside the program.
        held: How many states it has beside the cell's: outputs that masked timesteps repeat.
        products: What products are computed from.
    """

    compiled: Compiled
    apart: Apart
    kernels: str
    form: Form
    held: int
    products: str


class Cuda:
    """Programs on Ostinato's CUDA kernel; see `ostinato.engines.interface.Engine`."""

    name = "cuda"
    runs_together = False
    on_kernels = False
    device: str | None = "cuda"

    def obstacles(self, question: Question) -> tuple[str, ...]:
        """Why it can't do what is asked."""
        found = [] if question.cuda is None else [question.cuda]
        if question.forced != self.name and not question.checked:
            return tuple(found) or (NOT_CHECKED,)
        if question.dtype not in FLOATS or question.dtype == "float64":
            found.append(f"the cell computes in {question.dtype}, the kernel in float32")
        if question.program is None and not found:
            found.append(question.no_program or "it isn't traced")
        elif not found:
            sizes = question.card, question.trains, question.products
            held = _why_not_held(question.program.name, sizes, *_form(question))
            found += [] if held is None else [held]
        return tuple(found)

    def computes_in(self, question: Question) -> str:
        """Float32, whatever the layer's dtype is, but for the products."""
        if question.products != FLOAT32:
            return IN_BFLOAT16 if question.products == BFLOAT16 else question.products
        return "" if question.dtype == FLOAT32 else FLOAT32

    def recipe(self, question: Question) -> Recipe:
        """The kernels."""
        compiled, form = question.program, _form(question)
        parts, kernels, held = _made(compiled.name, *form)
        return Recipe(compiled, parts, kernels, form, held, question.products)

    def run(
        self, tasks: Sequence[Task], recipes: Sequence[Recipe], joined: bool = False
    ) -> list[Answer]:
        """Runs the cells one after the other."""
        return [_run(task, recipe) for task, recipe in zip(tasks, recipes, strict=True)]


ENGINE = Cuda()


def _form(question: Question) -> Form:
    loop = question.loop
    return Form(question.has_mask, loop.zero_output_for_mask, question.resets, loop.truncate)


@functools.lru_cache(maxsize=256)
def _kernels(name: str, form: Form) -> tuple[Apart, Kernels, str]:
    parts = apart(named(name).program)
    flags = form.has_mask, form.zero_output, form.fresh(parts.step), form.truncate > 0
    kernels = Kernels(Passes(parts.step, *flags))
    plain = Plain(parts.step, kernels.passes.held, form)
    return parts, kernels, door.register_kernels(kernels, How, afterwards, plain)


# (torch.compile hands plain values on to what it doesn't look into, and no NamedTuples.)
@opaque
def _why_not_held(name: str, sizes: tuple[int, bool, str], *form: Any) -> str | None:
    """Why the kernel can't have a program, or the card can't hold it; else None."""
    card, trains, products = sizes
    try:
        _, kernels, _ = _kernels(name, Form(*form))
    except ProgramError as refusal:
        return str(refusal)
    return kernels.why_not(card_of(card), trains, products)


@opaque
def _made(name: str, *form: Any) -> tuple[Apart, str, int]:
    parts, kernels, registered = _kernels(name, Form(*form))
    return parts, registered, kernels.passes.held


def _run(task: Task, recipe: Recipe) -> Answer:
    compiled, program = recipe.compiled, recipe.compiled.program
    xs, states = leaves(task.xs), leaves(task.states)
    batch, count = size_of(xs[0], 0), len(program.input_shapes)
    rows = tuple(with_rows(state, batch) for state in states)
    constants = task.context.constants
    with with_masks(task):
        back = task.loop.go_backwards
        given = compiled.operands(task.cell, tuple(xs), rows, constants, back)
    given = tuple(to_dtype(tensor, "float32") for tensor in given)
    inputs = tuple(ops.flip(x, axis=1) if back else x for x in given[:count])
    operands = _operands(recipe, inputs, given[count:], _begun(task, recipe.form, batch, inputs))
    if task.mask is not None:
        operands = (*operands, ops.flip(task.mask, axis=1) if back else task.mask)
    every = task.loop.return_sequences
    results = door.cuda_recurrence(recipe.kernels, operands, every, recipe.products)
    outputs, final = results[: len(program.outputs)], results[len(program.outputs) :]
    if every and task.loop.flip_outputs:
        outputs = [ops.flip(each, axis=1) for each in outputs]
    return answer_of(task, compiled, outputs, final)


class _Begun(NamedTuple):
    """What timesteps begin.

    Attributes:
        flags: What the kernel takes, (B, T) each: whether the next timestep of the run begins a
            stretch of truncated gradients, and whether a row begins anew there.
        fresh: The states with which it does, as far as they're given.
        first: Whether rows begin anew with the first timestep, (B,); None where none ever does.
    """

    flags: Tensors = ()
    fresh: Tensors = ()
    first: Tensor | None = None


def _begun(task: Task, form: Form, batch: int, inputs: Tensors) -> _Begun:
    found, timesteps = _Begun(), inputs[0].shape[1]
    if form.truncate:
        following = ops.arange(1, timesteps + 1)
        begins = ops.cast(following % form.truncate == 0, "float32")
        found = _Begun((ops.broadcast_to(begins, (batch, timesteps)),))
    if (resets := flat_resets(task)) is None:
        return found
    flags = ops.flip(resets.flags, axis=1) if task.loop.go_backwards else resets.flags
    begins = ops.cast(moved(flags, later=False), "float32")
    states = (with_rows(to_dtype(state, "float32"), batch) for state in resets.fresh or ())
    return _Begun((*found.flags, begins), tuple(states), ops.any(flags[:, :1], axis=1))


def _operands(recipe: Recipe, inputs: Tensors, rest: Tensors, begun: _Begun) -> Tensors:
    """What the kernels take, but for the mask, of what the program takes."""
    program, parts = recipe.compiled.program, recipe.apart
    first, last = (
        len(program.state_shapes),
        len(program.state_shapes) + len(program.constant_shapes),
    )
    states, constants, weights = rest[:first], rest[first:last], rest[last:]
    if begun.first is not None:
        fresh = begun.fresh or tuple(map(ops.zeros_like, states))
        states = chosen(begun.first, fresh, states)
    streams = beforehand(program.nodes, parts.streams, inputs, constants, weights)
    one = tuple(x[:, :1] for x in inputs)
    rows = beforehand(program.nodes, parts.rows, one, constants, weights)
    held = tuple(_zeros(states[0], shape) for shape in program.output_shapes[: recipe.held])
    of_weights = (weights[number] for number in parts.weights)
    constant = (*(row[:, 0] for row in rows), *begun.fresh)
    return (*streams, *begun.flags, *constant, *states, *held, *of_weights)


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return door.zeros((like.shape[0], *shape), "float32", like)


class Plain(NamedTuple):
    """What the kernels give, on the portable engine: for what they can't do.

    Attributes:
        step: The step, without a mask.
        held: How many states there are beside its own: outputs that masked timesteps repeat.
        form: What the kernels depend on beside it.
    """

    step: Program
    held: int
    form: Form

    def __call__(self, operands: Tensors, every: bool) -> Tensors:
        """The results of the kernels' operands."""
        step, form, rest = self.step, self.form, iter(operands)
        xs = tuple(ops.swapaxes(x, 0, 1) for x in islice(rest, len(step.input_shapes)))
        next(islice(rest, int(form.truncate > 0)), None)  # which the loop knows
        fresh = form.fresh(step)
        begins = None if fresh is None else next(rest)
        constants = tuple(islice(rest, len(step.constant_shapes)))
        given = tuple(islice(rest, fresh or 0))
        states = tuple(islice(rest, len(step.state_shapes)))
        before = tuple(islice(rest, self.held))
        weights = tuple(islice(rest, len(step.weight_shapes)))
        mask = next(rest, None)
        zeros = before or tuple(_zeros(states[0], shape) for shape in step.output_shapes)
        resets = None
        if begins is not None:
            resets = FlatResets(moved(begins != 0, later=True), given or None)

        def run(x: Tensors, h: Tensors) -> tuple[Tensors, Tensors]:
            return evaluate(step, x, h, constants, weights)

        loop = Loop(
            return_sequences=every,
            zero_output_for_mask=mask is not None and not self.held,
            truncate=form.truncate,
        )
        outputs, final = run_over_time(Recurrence(run, xs, states, zeros), mask, loop, resets)
        last = tuple(each[:, -1] if every else each for each in outputs)
        return (*outputs, *final, *last[: self.held])
