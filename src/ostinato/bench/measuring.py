"""One case, all contenders: the check that they compute the same, then rounds by turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ostinato.bench.cases import Case
from ostinato.bench.crew import ContenderFailedError, Crew, Process

TOLERANCE = 1e-4  # of each tensor's largest value
FEWEST_ROUNDS = 3  # however slow a contender is


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: Turns of each contender.
        seconds: Of one turn; a run that takes longer is run once a turn.
        pause: Seconds of rest before each turn, in which the one before goes to sleep: thread pools
            spin for a moment after their work.
        most: Seconds after which a slow contender takes no more turns.
    """

    rounds: int = 20
    seconds: float = 0.05
    pause: float = 0.02
    most: float = 10.0


QUICK = Pace(rounds=6, seconds=0.04, most=1.5)


@dataclass
class Measured:
    """What came of one contender: seconds of its fastest and its median run, or what went wrong."""

    contender: str
    engine: str = ""
    minimum: float = 0.0
    median: float = 0.0
    runs: int = 0
    rounds: list[float] = field(default_factory=list)  # the fastest run of each
    difference: float = 0.0  # from the first contender's results, of scale
    trouble: str = ""


def measure(crew: Crew, case: Case, pace: Pace, say: Callable[[str], None]) -> list[Measured]:
    """Measures a case; a contender that fails or computes something else gets no time.

    Args:
        crew: The contenders' processes.
        case: What to compute.
        pace: How long.
        say: Told what is happening, in a few words.
    """
    found: dict[str, Measured] = {}
    running: list[Process] = []
    expected: list[Any] | None = None
    for process in crew.for_mode(case.mode):
        name = process.contender.name
        say(f"preparing {process.contender.title}")
        found[name] = Measured(name)
        try:
            values, found[name].engine = process.ask("prepare", case)
        except ContenderFailedError as error:
            found[name].trouble = f"failed: {error}"
            continue
        if values and expected is None:
            expected = values
        if values and expected is not None:
            found[name].difference, found[name].trouble = compare(expected, values)
        if not found[name].trouble:
            running.append(process)
    times: dict[str, list[list[float]]] = {p.contender.name: [] for p in running}
    say("measuring")
    _take_turns(running, times, found, pace)
    for name, rounds in times.items():
        _summarise(found[name], rounds)
    return list(found.values())


def compare(expected: list[Any], values: list[Any]) -> tuple[float, str]:
    """The largest difference of scale, and what's wrong with it, or ""."""
    shapes = [value.shape for value in values]
    if shapes != [value.shape for value in expected]:
        return float("inf"), f"refused: its results have the shapes {shapes}"
    difference = 0.0
    for mine, theirs in zip(values, expected, strict=True):
        scale = max(float(np.abs(theirs).max()), 1e-30)
        # A NaN is as far away as can be.
        farthest = float(np.nan_to_num(np.abs(mine - theirs), nan=np.inf).max())
        difference = max(difference, farthest / scale)
    if difference > TOLERANCE:
        return difference, f"refused: its results differ by {difference:.1e} of scale"
    return difference, ""


def _take_turns(
    running: list[Process],
    times: dict[str, list[list[float]]],
    found: dict[str, Measured],
    pace: Pace,
) -> None:
    spent = dict.fromkeys(times, 0.0)
    for turn in range(pace.rounds):
        # Each begins once, so that none always follows the same one.
        first = turn % max(len(running), 1)
        for process in running[first:] + running[:first]:
            name = process.contender.name
            had_enough = turn >= FEWEST_ROUNDS and spent[name] > pace.most
            if had_enough or found[name].trouble:
                continue
            time.sleep(pace.pause)
            start = time.perf_counter()
            try:
                times[name].append(process.ask("round", pace.seconds))
            except ContenderFailedError as error:
                found[name].trouble = f"failed: {error}"
            spent[name] += time.perf_counter() - start
    for process in running:
        if found[process.contender.name].trouble:
            continue
        try:
            process.ask("rest")
        except ContenderFailedError as error:
            found[process.contender.name].trouble = f"failed: {error}"


def _summarise(measured: Measured, rounds: list[list[float]]) -> None:
    runs = [seconds for one in rounds for seconds in one]
    if measured.trouble or not runs:
        return
    measured.minimum, measured.median = min(runs), statistics.median(runs)
    measured.runs = len(runs)
    measured.rounds = [min(one) for one in rounds]
