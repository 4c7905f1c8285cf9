"""Which engine runs a cell, and why not a faster one.

Decided from plain values: no tensor, no framework and no state of the process is looked at here.
"""

import functools
from dataclasses import dataclass

ENGINES = ("fused", "scan")  # fastest first; the last runs anything

FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Activation:
    """A function that a cell applies.

    Attributes:
        argument: The cell's argument, "activation" or "recurrent_activation".
        name: Its name in keras.activations, if the kernel has it, else None.
        shown: How to call it in a reason.
    """

    argument: str
    name: str | None
    shown: str


@dataclass(frozen=True)
class Question:
    """What is asked of an engine: one cell over one sequence.

    Attributes:
        kind: The kernel's name of the cell's mathematics, or None where it has none.
        not_builtin: Why it has none, where it hasn't.
        activations: The functions that the cell applies.
        dtype: The dtype that the cell computes in.
        rank: The number of dimensions of the inputs; None where they're several tensors.
        native: Why the native engine can't run in this process, or None.
        framework: Why the framework can't call it on such tensors, or None.
        forced: The engine that the user forces, or None.
    """

    kind: str | None
    not_builtin: str | None = None
    activations: tuple[Activation, ...] = ()
    dtype: str = "float32"
    rank: int | None = 3
    native: str | None = None
    framework: str | None = None
    forced: str | None = None


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        engine: One of `ENGINES`; None where the one that the user forces can't run this.
        passed_over: The faster engines with the reasons why they don't, each a clause that
            needs no context; an engine comes as often as it has reasons.
    """

    engine: str | None
    passed_over: tuple[tuple[str, str], ...] = ()

    def why_not(self, engine: str = "fused") -> str:
        """The reasons why not an engine, as one text; "" where it runs."""
        return "; ".join(reason for name, reason in self.passed_over if name == engine)


@functools.lru_cache(maxsize=1024)
def plan(question: Question) -> Plan:
    """Chooses the fastest engine that can do what is asked, or the one that the user forces."""
    obstacles = tuple(("fused", reason) for reason in obstacles_to_fused(question))
    if question.forced == "scan":
        forced = ("fused", "`use_engine` or OSTINATO_ENGINE asks for the engine 'scan'")
        return Plan("scan", (forced, *obstacles))
    if not obstacles:
        return Plan("fused")
    return Plan(None if question.forced == "fused" else "scan", obstacles)


def obstacles_to_fused(question: Question) -> tuple[str, ...]:
    """Why the fused kernels can't do what is asked; empty where they can."""
    if question.kind is None:
        return (question.not_builtin or "the cell is not a built-in one",)
    found = []
    if question.native is not None:
        found.append(question.native)
    else:
        found += [
            f"{activation.argument} is a function that the kernel doesn't have: {activation.shown}"
            for activation in question.activations
            if activation.name is None
        ]
    if question.dtype not in FLOATS:
        found.append(f"the cell computes in {question.dtype}, the kernel in floats")
    if question.rank != 3:
        inputs = "a nest of tensors" if question.rank is None else f"of {question.rank} dimensions"
        found.append(f"the inputs are {inputs}, not one tensor (batch, timesteps, features)")
    if question.framework is not None:
        found.append(question.framework)
    return tuple(found)
