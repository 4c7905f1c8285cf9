"""Which engine runs a cell, and why not a faster one.

Decided from plain values: no tensor, no framework and no state of the process is looked at here.
"""

from typing import Any, NamedTuple

from ostinato.engines.interface import Engine, Question
from ostinato.engines.table import engines

_ENGINES = engines()  # here, as torch.compile can't trace an import
_DEVICES = {engine.device for engine in _ENGINES if engine.device}


class Plan(NamedTuple):
    """The answer.

    Attributes:
        engine: The engine; None where the one that the user forces can't run this.
        recipe: What the engine has worked out from the question.
        passed_over: The faster engines by name with the reasons why they don't run it, each a
            clause that needs no context; an engine comes as often as it has reasons.
    """

    engine: Engine | None
    recipe: Any = None
    passed_over: tuple[tuple[str, str], ...] = ()

    def why_not(self, engine: str | None = None, leaving_out: str | None = None) -> str:
        """The reasons why not an engine, or any faster one, as one text; "" where there's none."""
        found = (reason for name, reason in self.passed_over if engine in (None, name))
        return "; ".join(dict.fromkeys(reason for reason in found if reason != leaving_out))


def _is_for_another_device(engine: Engine, question: Question) -> bool:
    """Whether an engine is no faster one where the tensors are, since others are for that device.

    On a device that none is for, each says why it isn't.
    """
    elsewhere = engine.device not in (None, question.device) and question.device in _DEVICES
    return elsewhere and question.forced != engine.name


def plan(question: Question) -> Plan:
    """Chooses the fastest engine that can do what is asked, or the one that the user forces."""
    passed_over: list[tuple[str, str]] = []
    for engine in _ENGINES:
        if _is_for_another_device(engine, question):
            continue
        obstacles = engine.obstacles(question)
        if question.forced in (None, engine.name) and not obstacles:
            return Plan(engine, engine.recipe(question), tuple(passed_over))
        if question.forced not in (None, engine.name):
            asks = f"`use_engine` or OSTINATO_ENGINE asks for the engine {question.forced!r}"
            passed_over.append((engine.name, asks))
        passed_over += [(engine.name, obstacle) for obstacle in obstacles]
        if question.forced == engine.name:
            break
    return Plan(None, None, tuple(passed_over))
