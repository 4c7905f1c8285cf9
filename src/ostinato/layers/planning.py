"""Has an engine chosen, by the question about a layer's cell and its inputs; keeps the answers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ostinato import native
from ostinato.cells.builtin import BuiltinCell, is_int8, why_not_builtin
from ostinato.cuda import driver, nvrtc, stamp
from ostinato.doors import door, opaque, remembered
from ostinato.engines.activations import activation_name
from ostinato.engines.interface import Activation, Loop, Question, Resets, Task
from ostinato.engines.loop import loop_flags
from ostinato.engines.table import OF_BUILTIN, OF_CARDS, OF_PROGRAMS, PORTABLE
from ostinato.plan import Plan, plan
from ostinato.programs.compiling import compiled, described, named, shapes_are_known
from ostinato.settings import asked_checkpoints, asked_precision, forced_engine
from ostinato.structure import Structure, is_tensor_like, leaves, map_leaves
from ostinato.tensors import dtype_name

_DEFAULT = Loop()

# torch.compile isn't to look into what is asked of the process: an answer holds for a whole trace.
_forced = opaque(forced_engine)
_checkpoints = opaque(asked_checkpoints)
answer_to = remembered(plan)


@opaque
def _native_why_not() -> str | None:
    return native.why_not()


@opaque
def _in_bfloat16(dtype: str) -> bool:
    """Whether the kernels compute products of a layer of a dtype from bfloat16s."""
    if dtype == "float32":
        dtype = asked_precision() or door.product_precision()
    return dtype == "bfloat16" and native.computes_bfloat16()


@opaque
def _products_on_cards(dtype: str) -> str:
    """What the kernels for a card compute products of a layer of a dtype from."""
    if dtype == "bfloat16":
        return dtype
    found: str = asked_precision() or door.cuda_products()
    return found


@opaque
def why_no_cuda() -> str | None:
    """What the process lacks for the kernels for a card, or None."""
    return driver.why_not() or nvrtc.why_not()


@opaque
def is_checked(card: int) -> bool:
    """Whether these kernels have been seen to be right on a card."""
    return stamp.is_there(card, door.cuda_launcher())


class EngineError(ValueError):
    """What the engine that is asked for can't run."""

    # TensorFlow's AutoGraph makes another error of one whose type it doesn't know, so that nobody
    # who catches ValueError has it; such a one it lets through.
    ag_pass_through = True


class Call(NamedTuple):
    """What else a cell is called with than its inputs: a program is made for that.

    Attributes:
        states: Its states, each (B, ...).
        constants: The constants, each (B, ...), or None.
        training: Whether dropout is applied.
    """

    states: Structure
    constants: Sequence[Any] | None = None
    training: bool = False


def plan_for(task: Task) -> Plan:
    """The plan for running a cell over its inputs.

    Raises:
        EngineError: if the engine that the user forces can't; it says why.
    """
    cell, owner, training = task.cell, task.context.owner, bool(task.context.training)
    call = Call(task.states, task.context.constants, training)
    question = question_about(
        cell, task.xs, task.loop, task.mask is not None, call, training, _kind_of(task.resets)
    )
    found = answer_to(question)
    if found.engine is None:
        name = _forced()
        reason = (
            f"{owner}: the engine {name!r} is asked for, by `use_engine` or OSTINATO_ENGINE, but "
            f"can't run {type(cell).__name__}: {found.why_not(name)}."
        )
        door.refused_while_compiling(reason)
        raise EngineError(reason)
    return found


def devices_for(task: Task) -> tuple[str, ...]:
    """The kinds of device that a task may come to run on; empty where there's one.

    An engine that is asked for is asked for wherever it runs.
    """
    if _forced() is not None:
        return ()
    found: tuple[str, ...] = door.may_be_lowered_for(leaves(task.xs)[0])
    return found


def question_about(
    cell: Any,
    xs: Structure,
    loop: Loop = _DEFAULT,
    has_mask: bool = False,
    call: Call | None = None,
    training: bool = False,
    resets: int = native.NO_RESETS,
) -> Question:
    """What `plan` has to know of a cell, its inputs (B, T, ...) and the process.

    Without a `call` no program is looked for: the engine for cells of one's own isn't chosen then.
    `training` says whether built-in cells draw their dropout.
    """
    not_builtin = why_not_builtin(cell)
    if not_builtin is not None:
        question = Question(
            None, not_builtin, forced=_forced(), loop=loop, has_mask=has_mask, resets=resets
        )
        return question if call is None else _with_program(question, cell, xs, call)
    question = _about_builtin(cell, xs, loop, has_mask, training, resets)
    if call is None or question.int8:
        return question
    own = any(each.name is None for each in question.activations)
    own = own or question.forced == OF_CARDS or _falls_to_cards(question)
    return _with_program(question, cell, xs, call) if own else question


def _falls_to_cards(question: Question) -> bool:
    """Whether the kernels for a card may be taken for a built-in cell, as no faster engine can."""
    if not question.checked:  # on the CPU always: it's asked in every call
        return False
    engine = answer_to(question).engine
    return engine is not None and engine.name == PORTABLE


def _kind_of(resets: Resets | None) -> int:
    if resets is None:
        return native.NO_RESETS
    return native.TO_ZEROS if resets.fresh is None else native.TO_FRESH_STATES


# Of built-in cells; all the same for every question, as text.
_NO_PROGRAM = f"the kernels of a built-in cell are those of the engine {OF_BUILTIN!r}"
_NONE_OF_INT8 = f"its weights are in int8, and {_NO_PROGRAM}"


def _about_builtin(
    cell: Any, xs: Structure, loop: Loop, has_mask: bool, training: bool, resets: int
) -> Question:
    """Of a built-in cell, as one for which no program is looked for."""
    is_tensor = is_tensor_like(xs)
    reason, dtype, int8 = _native_why_not(), cell.compute_dtype, is_int8(cell)
    # All at once, as `_replace` takes 2 us.
    question = Question(
        cell._cell_kind,
        None,
        _activations(cell),
        cell.bias is not None if cell.built else cell.use_bias,
        dtype,
        not reason and _in_bfloat16(dtype),
        int8,
        len(xs.shape) if is_tensor else None,
        reason,
        door.native_why_not(xs) if is_tensor and not reason else None,
        _forced(),
        loop,
        has_mask,
        resets,
        no_program=_NONE_OF_INT8 if int8 else _NO_PROGRAM,
        recurrent_dropout=training and bool(cell.recurrent_dropout),
        checkpoints=_checkpoints(),
    )
    return _with_device(question, xs) if is_tensor else question


def _with_device(question: Question, x: Any) -> Question:
    """A question with where a tensor like x is, and what can be called on it there.

    What native kernels can take is on the CPU: that is known then, and nothing else is asked.
    """
    if question.native is None and question.framework is None and question.forced is None:
        return question
    device = door.device_of(x)
    question = question._replace(device=device, cudnn=door.cudnn_why_not(x))
    # What another engine is asked for needs none of this, nor what is on the CPU.
    if question.forced != OF_CARDS and (question.forced is not None or device == "cpu"):
        return question
    reason = door.cuda_why_not(x) or why_no_cuda()
    if reason is not None:
        return question._replace(cuda=reason)
    card, products = door.cuda_number(x), _products_on_cards(question.dtype)
    checked = question.forced is None and is_checked(card)
    return question._replace(card=card, products=products, checked=checked)


def _with_program(question: Question, cell: Any, xs: Structure, call: Call) -> Question:
    """A question with the program that the cell is made into."""
    flat = leaves(xs)
    native_reason = _native_why_not()
    dtype = _dtype_of(cell, flat[0])
    question = question._replace(
        no_program=None,
        native=native_reason,
        framework=None if native_reason else door.native_why_not(flat[0]),
        dtype=dtype,
        bfloat16=not native_reason and _in_bfloat16(dtype),
        checkpoints=_checkpoints(),
    )
    question = _with_device(question, flat[0])
    # Kernels for a card are made of the program itself, not of the core's routines.
    on_core = question.forced != OF_CARDS and not question.checked
    if not on_core and question.cuda:
        return question
    if on_core and (
        native_reason or question.framework or question.forced not in (None, OF_PROGRAMS)
    ):
        return question
    run = (question.resets, question.has_mask, *loop_flags(question.loop))
    flags = run if on_core else None
    name, reason = _program_of(cell, xs, call, flags)
    if name is None:
        return question._replace(no_program=reason)
    rows = flat[0].shape[0] if door.COMPILES_LOOPS else None
    rows = rows if isinstance(rows, int) else None  # unknown while a function is exported
    return question._replace(program=named(name), rows=rows, trains=call.training)


def _program_of(
    cell: Any, xs: Structure, call: Call, flags: tuple[Any, ...] | None
) -> tuple[str | None, str | None]:
    tensors = [(x, 2) for x in leaves(xs)]
    tensors += [(x, 1) for x in (*leaves(call.states), *leaves(list(call.constants or [])))]
    if call.constants is not None and not all(map(is_tensor_like, call.constants)):
        return None, "its constants are nested"
    if any(len(tensor.shape) < axes for tensor, axes in tensors):
        return None, "one of its states has no rows"
    if not shapes_are_known([tensor.shape[axes:] for tensor, axes in tensors]):
        return None, "sizes of its inputs are unknown"
    return _compiled(
        cell,
        map_leaves(lambda x: described(x, 2), xs),
        map_leaves(lambda x: described(x, 1), call.states),
        None if call.constants is None else [described(x, 1) for x in call.constants],
        call.training,
        _dtype_of(cell, leaves(xs)[0]),
        flags,
    )


@opaque
def _compiled(
    cell: Any,
    xs: Structure,
    states: Structure,
    constants: Sequence[str] | None,
    training: bool,
    dtype: str,
    flags: tuple[Any, ...] | None,
) -> tuple[str | None, str | None]:
    """The name of a cell's program, or why it has none.

    Made, and the run that will be asked of it, where torch.compile doesn't look.
    """
    found = compiled(cell, xs, states, constants, training, dtype)
    if isinstance(found, str):
        return None, found
    if flags is not None:
        found.spec(*flags)
    return found.name, None


def _dtype_of(cell: Any, x: Any) -> str:
    declared = getattr(cell, "compute_dtype", None)
    return declared if isinstance(declared, str) else dtype_name(x.dtype)


def _activations(cell: BuiltinCell) -> tuple[Activation, ...]:
    return tuple(_activation(*named) for named in cell._cell_activations().items())


def _activation(argument: str, function: Any) -> Activation:
    name = activation_name(function)
    shown = name or str(getattr(function, "__name__", type(function).__name__))
    return Activation(argument, name, shown)
