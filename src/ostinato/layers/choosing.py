"""What a layer has to say to get its cell onto the native engine: the question, and the tensors."""

import functools
from typing import Any

import keras

from ostinato import native
from ostinato.doors import door
from ostinato.engines.fused import Fused, activation_name
from ostinato.forced import forced
from ostinato.layers.calling import Call, check_constants, is_ours, size_of, to_dtype
from ostinato.layers.cell import Cell
from ostinato.plan import Activation, Plan, Question, plan
from ostinato.structure import Structure, is_tensor_like, leaves

Tensor = Any

# A subclass that changes none of these has the mathematics of its base.
_MATHEMATICS = ("call", "__call__", "projection", "recurrence", "kernel_weights")


def plan_for(cell: Any, xs: Structure, owner: str) -> Plan:
    """The plan for running a cell over inputs (B, T, ...).

    Raises:
        ValueError: if the engine that the user forces can't; it says why.
    """
    found = plan(question_about(cell, xs))
    if found.engine is None:
        raise ValueError(
            f"{owner}: the engine 'fused' is asked for, by `use_engine` or OSTINATO_ENGINE, but "
            f"can't run {type(cell).__name__}: {found.why_not()}."
        )
    return found


def question_about(cell: Any, xs: Structure) -> Question:
    """What `plan` has to know of a cell and its inputs (B, T, ...)."""
    cls: Any = type(cell)
    not_builtin = _why_not_builtin(cls) or _why_not_as_built_in(cell)
    if not_builtin is not None:
        return Question(None, not_builtin, forced=forced())
    is_tensor = is_tensor_like(xs)
    reason = native.why_not()
    return Question(
        cell.kind,
        activations=() if reason else _activations(cell),
        dtype=cell.compute_dtype,
        rank=len(xs.shape) if is_tensor else None,
        native=reason,
        framework=door.native_why_not(xs) if is_tensor and not reason else None,
        forced=forced(),
    )


@functools.lru_cache(maxsize=256)
def _why_not_builtin(cls: Any) -> str | None:
    if not issubclass(cls, Cell):
        owner = "Keras's own " if cls.__module__.partition(".")[0] == "keras" else ""
        return f"{owner}{cls.__name__} is not a built-in cell of ostinato.layers"
    plain = keras.layers.Layer.__call__
    methods = {name: getattr(cls, name) for name in _MATHEMATICS}
    own = [name for name, method in methods.items() if method is not plain and not is_ours(method)]
    return f"{cls.__name__} has its own {' and '.join(map(repr, own))}" if own else None


def _why_not_as_built_in(cell: Any) -> str | None:
    own = [name for name in _MATHEMATICS if name in vars(cell)]
    if not own:
        return None
    return f"this {type(cell).__name__} has been given its own {' and '.join(map(repr, own))}"


def _activations(cell: Cell) -> tuple[Activation, ...]:
    arguments = ("activation", "recurrent_activation")
    return tuple(
        _activation(name, getattr(cell, name)) for name in arguments if hasattr(cell, name)
    )


def _activation(argument: str, function: Any) -> Activation:
    name = activation_name(function)
    shown = name or str(getattr(function, "__name__", type(function).__name__))
    return Activation(argument, name, shown)


def make_fused(cell: Cell, x: Tensor, states: Structure, call: Call) -> Fused:
    """Makes a built-in cell ready for the native engine.

    Args:
        cell: The cell, built, for which `plan_for` says "fused".
        x: Its inputs (B, T, D), in the order of time.
        states: Its initial states, each (B, U).
        call: What the call gives.
    """
    check_constants(cell, call)
    # SimpleRNN has no gates.
    gate: Any = getattr(cell, "recurrent_activation", cell.activation)
    masks = cell.draw_masks(size_of(x, 0), x.shape[-1], call.training)
    return Fused(
        cell.kind,
        (activation_name(cell.activation) or "", activation_name(gate) or ""),
        cell.compute_dtype,
        to_dtype(x, cell.compute_dtype),
        tuple(leaves(states)),
        cell.kernel_weights(),
        masks.inputs,
        masks.recurrent,
        call.training,
    )
