"""NVIDIA's cuDNN, which the framework calls: built-in cells, by what moving data can bring to it.

It has no masks, no order of time but both at once, and one choice of activations. Where timesteps
are masked, the valid ones are moved to the front, and the outputs back (`compaction`); dropout,
gates and weights are laid out as it has them (`cudnn_operands`). What's left is refused by name.
"""

from collections.abc import Sequence
from typing import NamedTuple

from keras import ops

from ostinato.cells.builtin import BuiltinCell, is_int8
from ostinato.doors import door
from ostinato.engines.compaction import Compaction, shown_else_zero
from ostinato.engines.cudnn_operands import Direction, Weights, operands
from ostinato.engines.interface import Answer, Loop, Question, Task
from ostinato.engines.obstacles import of_tensors
from ostinato.structure import leaves
from ostinato.tensors import Tensor, Tensors, dequantized, size_of, to_dtype

# What cuDNN calls a kind with these activations.
_MODES = {
    ("lstm", "tanh", "sigmoid"): "lstm",
    ("gru", "tanh", "sigmoid"): "gru",
    ("simple_rnn", "tanh"): "rnn_tanh",
    ("simple_rnn", "relu"): "rnn_relu",
}
_KINDS = {kind for kind, *_ in _MODES}


class Recipe(NamedTuple):
    """What follows from the question.

    Attributes:
        mode: cuDNN's name of the cell.
        dtype: The dtype that the cell computes in.
    """

    mode: str
    dtype: str


class Cudnn:
    """Built-in cells on cuDNN; see `ostinato.engines.interface.Engine`."""

    name = "cudnn"
    runs_together = True
    on_kernels = False
    device: str | None = "cuda"

    def obstacles(self, question: Question) -> tuple[str, ...]:
        """Why cuDNN can't do what is asked."""
        if question.kind is None:
            return (question.not_builtin or "the cell is not a built-in one",)
        found = [*_of_mathematics(question), *of_tensors(question, "cuDNN")]
        if question.recurrent_dropout:
            found.append("cuDNN has no dropout of the state (recurrent_dropout)")
        if question.resets:
            found.append("cuDNN doesn't reset rows inside a sequence (`resets`)")
        if question.loop.truncate:
            found.append("cuDNN's gradients cross all timesteps (truncate)")
        if question.cudnn is not None:
            found.append(question.cudnn)
        return tuple(found) or _of_the_backend(question)

    def computes_in(self, question: Question) -> str:
        """What products are computed from, which is the framework's setting."""
        on_gpu = question.device == self.device
        precision = door.cudnn_precision(question.dtype) if on_gpu else question.dtype
        if question.int8:
            return f"{precision}, weights from int8"
        return "" if precision == question.dtype else precision

    def recipe(self, question: Question) -> Recipe:
        """CuDNN's name of the cell."""
        return Recipe(_MODES[_mathematics(question)], question.dtype)

    def run(
        self, tasks: Sequence[Task], recipes: Sequence[Recipe], joined: bool = False
    ) -> list[Answer]:
        """Runs built-in cells over their sequences, two directions in one call where that fits."""
        runs = [_prepared(*pair) for pair in zip(tasks, recipes, strict=True)]
        if len(runs) == 2 and _fit_in_one_call(*runs):
            answers = _run_both(runs)
        else:
            answers = [_run_one(run) for run in runs]
        if joined:
            outputs = ops.concatenate([outputs for outputs, _ in answers], axis=-1)
            answers = [(outputs, states) for _, states in answers]
        return answers


ENGINE = Cudnn()


def _mathematics(question: Question) -> tuple[str, ...]:
    names = (question.kind, *(activation.name for activation in question.activations))
    return tuple(name or "" for name in names)


def _of_mathematics(question: Question) -> list[str]:
    """Why cuDNN hasn't got a cell's mathematics."""
    if _mathematics(question) in _MODES:
        return []
    if question.kind not in _KINDS:
        return [f"cuDNN has no {_SHOWN.get(question.kind or '', question.kind)}"]
    has = [functions for kind, *functions in _MODES if kind == question.kind]
    return [
        f"{activation.argument} is {activation.shown}, and cuDNN has "
        + " or ".join(functions[place] for functions in has)
        for place, activation in enumerate(question.activations)
        if activation.name not in {functions[place] for functions in has}
    ]


_SHOWN = {"gru_reset_before": "GRU with reset_after=False"}


def _of_the_backend(question: Question) -> tuple[str, ...]:
    """Why the backend can't call cuDNN for a cell that cuDNN has."""
    mode = _MODES[_mathematics(question)]
    found = []
    for asked, has in ((mode, door.CUDNN_MODES), (question.dtype, door.CUDNN_DTYPES)):
        if asked not in has:
            found.append(f"this backend calls cuDNN for {', '.join(has)}, not for {asked}")
    return tuple(found)


class _Run(NamedTuple):
    """A task made ready: its inputs in the dtype of the cell, its weights, and the masks drawn."""

    task: Task
    recipe: Recipe
    x: Tensor
    states: Tensors
    weights: Weights
    masks: Tensors


def _prepared(task: Task, recipe: Recipe) -> _Run:
    cell: BuiltinCell = task.cell
    x = to_dtype(task.xs, recipe.dtype)
    masks = cell._cell_masks(size_of(x, 0), x.shape[-1], task.context.training)
    weights = cell._cell_weights()
    if is_int8(cell):
        kernel, scale, recurrent, recurrent_scale, *bias = weights
        weights = (dequantized(kernel, scale), dequantized(recurrent, recurrent_scale), *bias)
    kernel, recurrent, bias = weights if len(weights) == 3 else (*weights, None)
    states = tuple(leaves(task.states))
    return _Run(task, recipe, x, states, Weights(kernel, recurrent, bias), masks.inputs)


def _fit_in_one_call(one: _Run, other: _Run) -> bool:
    """Whether two runs are the two directions of one call."""
    same = (
        one.recipe == other.recipe
        and one.task.mask is other.task.mask
        and one.x.shape[1] == other.x.shape[1]
        and one.weights.recurrent.shape == other.weights.recurrent.shape
        and one.task.loop.go_backwards != other.task.loop.go_backwards
    )
    return same and (one.task.mask is None or _tail_can_be_first(one, other))


def _tail_can_be_first(*runs: _Run) -> bool:
    """Whether the direction that begins with the timesteps to be passed over can.

    Only GRU can keep any state there. LSTM keeps its carry, and so an output of 0 if that's 0.
    SimpleRNN keeps none: its bias can't be taken off exactly in TF32.
    """
    mode = runs[0].recipe.mode
    return mode == "gru" or (mode == "lstm" and all(run.task.starts_from_zeros for run in runs))


def _run_one(run: _Run) -> Answer:
    """One direction; everything lies in the order of the run."""
    task, loop = run.task, run.task.loop
    x, mask = run.x, task.mask
    if loop.go_backwards:
        x = ops.flip(x, axis=1)
        mask = None if mask is None else ops.flip(mask, axis=1)
    moves = None if mask is None else Compaction(mask)
    x = x if moves is None else moves.moved(x)
    # LSTM alone has a state that it doesn't put out, and that has to stay until the end.
    stays = run.recipe.mode == "lstm" and task.wants_states
    passed_over = moves.tail if moves is not None and stays else None
    initial = tuple(ops.expand_dims(state, 0) for state in run.states)
    directions = [Direction(x, run.masks, run.weights)]
    ys, final = _call(run.recipe.mode, directions, passed_over, initial)
    states = tuple(state[0] for state in final)
    if moves is not None:
        states = (moves.last(ys, run.states[0]), *states[1:])
    outputs = _outputs(ys, states[0], moves, loop)
    return ops.flip(outputs, axis=1) if _turns(loop, loop.flip_outputs) else outputs, states


def _run_both(runs: Sequence[_Run]) -> list[Answer]:
    """Two directions in one call; everything lies in the order of time."""
    there, back = ways = sorted(runs, key=lambda run: run.task.loop.go_backwards)
    moves = None if there.task.mask is None else Compaction(there.task.mask)
    xs = [there.x] if there.task.xs is back.task.xs else [there.x, back.x]
    xs = xs if moves is None else [moves.moved(x) for x in xs]
    directions = [
        Direction(x, run.masks, run.weights) for x, run in zip((xs[0], xs[-1]), ways, strict=True)
    ]
    initial = tuple(ops.stack(pair) for pair in zip(there.states, back.states, strict=True))
    passed_over = None if moves is None else moves.tail
    ys, final = _call(there.recipe.mode, directions, passed_over, initial)
    answers = []
    for place, (run, own) in enumerate(zip(ways, ops.split(ys, 2, axis=-1), strict=True)):
        loop, states = run.task.loop, tuple(state[place] for state in final)
        if moves is not None and run is there:  # the other ends with a valid timestep
            states = (moves.last(own, run.states[0]), *states[1:])
        outputs = _outputs(own, states[0], moves, loop, backwards=run is back)
        turns = _turns(loop, loop.go_backwards != loop.flip_outputs)
        answers.append((ops.flip(outputs, axis=1) if turns else outputs, states))
    return answers if runs[0] is there else answers[::-1]


def _call(
    mode: str, directions: Sequence[Direction], passed_over: Tensor | None, initial: Tensors
) -> tuple[Tensor, Tensors]:
    """Outputs (B, T, directions U), and final states, each (directions, B, U) as the initial."""
    spec, x, parameters = operands(mode, directions, passed_over)
    ys, *final = door.cudnn(spec, x, initial, parameters)
    return ys, tuple(final)


def _outputs(
    ys: Tensor, h: Tensor, moves: Compaction | None, loop: Loop, backwards: bool = False
) -> Tensor:
    """What a run puts out: (B, T, U) of all timesteps, or of the last (B, U), which `h` is.

    Args:
        ys: The outputs of all timesteps, by the places that they were moved to.
        h: The last state, which is the output of each row's last valid timestep.
        moves: How timesteps were moved; None where there's no mask.
        loop: What is asked.
        backwards: Whether the run goes from the last to the first of these timesteps.
    """
    if moves is None:
        return ys if loop.return_sequences else h
    if loop.return_sequences:
        return moves.put_back(ys, loop.zero_output_for_mask, backwards)
    edge = moves.mask[:, :1] if backwards else moves.mask[:, -1:]
    shown = edge if loop.zero_output_for_mask else moves.total > 0
    return shown_else_zero(shown, h)


def _turns(loop: Loop, is_opposite: bool) -> bool:
    """Whether there are outputs of all timesteps, and they lie in the opposite order."""
    return loop.return_sequences and is_opposite
