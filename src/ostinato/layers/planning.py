"""Has an engine chosen, by the question about a layer's cell and its inputs; keeps the answers."""

from typing import Any

from ostinato import native
from ostinato.cells.builtin import BuiltinCell, why_not_builtin
from ostinato.doors import door, opaque, remembered
from ostinato.engines.activations import activation_name
from ostinato.engines.interface import Activation, Loop, Question
from ostinato.forced import forced as forced_in_process
from ostinato.plan import Plan, plan
from ostinato.structure import Structure, is_tensor_like

_DEFAULT = Loop()

# torch.compile isn't to look into what is asked of the process: an answer holds for a whole trace.
_forced = opaque(forced_in_process)
answer_to = remembered(plan)


@opaque
def _native_why_not() -> str | None:
    return native.why_not()


def plan_for(
    cell: Any, xs: Structure, owner: str, loop: Loop = _DEFAULT, has_mask: bool = False
) -> Plan:
    """The plan for running a cell over inputs (B, T, ...).

    Raises:
        ValueError: if the engine that the user forces can't; it says why.
    """
    found = answer_to(question_about(cell, xs, loop, has_mask))
    if found.engine is None:
        name = _forced()
        raise ValueError(
            f"{owner}: the engine {name!r} is asked for, by `use_engine` or OSTINATO_ENGINE, but "
            f"can't run {type(cell).__name__}: {found.why_not(name)}."
        )
    return found


def question_about(
    cell: Any, xs: Structure, loop: Loop = _DEFAULT, has_mask: bool = False
) -> Question:
    """What `plan` has to know of a cell, its inputs (B, T, ...) and the process."""
    not_builtin = why_not_builtin(cell)
    if not_builtin is not None:
        return Question(None, not_builtin, forced=_forced(), loop=loop, has_mask=has_mask)
    is_tensor = is_tensor_like(xs)
    reason = _native_why_not()
    return Question(
        cell._cell_kind,
        None,
        () if reason else _activations(cell),
        cell.bias is not None if cell.built else cell.use_bias,
        cell.compute_dtype,
        len(xs.shape) if is_tensor else None,
        reason,
        door.native_why_not(xs) if is_tensor and not reason else None,
        _forced(),
        loop,
        has_mask,
    )


def _activations(cell: BuiltinCell) -> tuple[Activation, ...]:
    return tuple(_activation(*named) for named in cell._cell_activations().items())


def _activation(argument: str, function: Any) -> Activation:
    name = activation_name(function)
    shown = name or str(getattr(function, "__name__", type(function).__name__))
    return Activation(argument, name, shown)
