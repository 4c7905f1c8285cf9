"""Loops and choices of keras.ops while a cell is traced: done at once, where their course is known.

A loop of a fixed number of rounds is what a Python `for` says, and is unrolled as that is. What
depends on numbers that aren't there yet is refused by name.
"""

from collections.abc import Callable
from typing import Any

import keras

from ostinato.programs.tracing.refusal import Untraceable

MOST_ROUNDS = 64


def _known(name: str, question: Any) -> bool:
    if isinstance(question, keras.KerasTensor):
        raise Untraceable(f"ops.{name} asks for a number that isn't known before the cell runs")
    return bool(question)


def fori_loop(own: Callable[..., Any]) -> Callable[..., Any]:
    """`ops.fori_loop` of a fixed number of rounds."""

    def loop(lower: Any, upper: Any, body_fun: Callable[..., Any], init_val: Any) -> Any:
        if not isinstance(lower, int) or not isinstance(upper, int):
            raise Untraceable("ops.fori_loop has bounds that aren't Python's ints")
        _check(upper - lower)
        value = init_val
        for number in range(lower, upper):
            value = body_fun(number, value)
        return value

    return loop


def while_loop(own: Callable[..., Any]) -> Callable[..., Any]:
    """`ops.while_loop` whose end doesn't depend on tensors."""

    def loop(
        cond: Callable[..., Any],
        body: Callable[..., Any],
        loop_vars: Any,
        maximum_iterations: int | None = None,
    ) -> Any:
        is_nest = isinstance(loop_vars, (tuple, list))
        values = tuple(loop_vars) if is_nest else (loop_vars,)
        rounds = 0
        while rounds != maximum_iterations and _known("while_loop", cond(*values)):
            found = body(*values)
            values = tuple(found) if isinstance(found, (tuple, list)) else (found,)
            rounds += 1
            _check(rounds)
        return values if is_nest else values[0]

    return loop


def cond(own: Callable[..., Any]) -> Callable[..., Any]:
    """`ops.cond` on what's known, such as `training`."""

    def choice(pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
        return true_fn() if _known("cond", pred) else false_fn()

    return choice


def _check(rounds: int) -> None:
    if rounds > MOST_ROUNDS:
        raise Untraceable(f"a loop of keras.ops has more than {MOST_ROUNDS} rounds")
