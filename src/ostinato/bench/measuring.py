"""One case, all contenders: the check that they compute the same, then rounds by turns."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ostinato.bench.cases import Case
from ostinato.bench.process import ContenderFailedError, OutOfTimeError, Process

# Of each tensor's largest value. In bfloat16 gradients of weights may be summed in it, too.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
FEWEST_ROUNDS = 3  # however slow a contender is, while there's time
LOAD_SECONDS = 120.0  # for importing a framework, however busy the machine
OVER = "stopped: the case's time was over before its turn"


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: Turns of each contender.
        seconds: Of one turn; a run that takes longer is run once a turn.
        pause: Seconds of rest before each turn, in which the one before goes to sleep: thread pools
            spin for a moment after their work.
        most: Seconds after which a slow contender takes no more turns.
        limit: Seconds of a case, after which no contender is prepared and no second turn begun. A
            contender that takes a third of them at once is stopped, and takes part in no further
            case: where cores are few and busy, threads that wait for one another can make a step
            take minutes. What it took isn't the others' loss.
    """

    rounds: int = 20
    seconds: float = 0.05
    pause: float = 0.02
    most: float = 10.0
    limit: float = 3600.0


QUICK = Pace(rounds=6, seconds=0.04, most=1.5, limit=60.0)


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
    too_slow: bool = False  # it ran out of time


def measure(
    processes: Sequence[Process], case: Case, pace: Pace, say: Callable[[str], None]
) -> list[Measured]:
    """Measures a case; a contender that fails or computes something else gets no time.

    Args:
        processes: Those of the contenders that can compute it.
        case: What to compute.
        pace: How long.
        say: Told what is happening, in a few words.
    """
    found = [Measured(process.contender.name) for process in processes]
    running: list[tuple[Process, Measured]] = []
    expected: list[Any] = []
    end = time.monotonic() + pace.limit
    for process, one in zip(processes, found, strict=True):
        say(f"preparing {process.contender.title}")
        start = time.monotonic()
        _ask(process, one, LOAD_SECONDS, "load")
        end += time.monotonic() - start  # that's once for all cases
        start = time.monotonic()
        values = _prepare(process, one, pace, case, end)
        if one.too_slow:
            end += time.monotonic() - start  # that, too
        expected = expected or values
        if values and not one.trouble:
            tolerance = max(TOLERANCES[p.contender.dtype] for p in (processes[0], process))
            one.difference, one.trouble = compare(expected, values, tolerance)
        if not one.trouble:
            running.append((process, one))
    say("measuring")
    _take_turns(running, pace, end)
    return found


def compare(
    expected: list[Any], values: list[Any], tolerance: float = TOLERANCES["float32"]
) -> tuple[float, str]:
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
    if difference > tolerance:
        return difference, f"refused: its results differ by {difference:.1e} of scale"
    return difference, ""


def _prepare(process: Process, one: Measured, pace: Pace, case: Case, end: float) -> list[Any]:
    if one.trouble or time.monotonic() > end:
        one.trouble = one.trouble or OVER
        return []
    values, one.engine = _ask(process, one, pace.limit / 3, "prepare", case) or ([], "")
    return list(values)


def _ask(process: Process, one: Measured, limit: float, method: str, *arguments: Any) -> Any:
    """What the process answers; None where it fails, with the reason in `one`."""
    try:
        return process.ask(method, *arguments, limit=limit)
    except OutOfTimeError as error:
        one.trouble, one.too_slow = f"stopped: {error}", True
    except ContenderFailedError as error:
        one.trouble = f"failed: {error}"
    return None


def _take_turns(running: list[tuple[Process, Measured]], pace: Pace, end: float) -> None:
    times: dict[str, list[list[float]]] = {one.contender: [] for _, one in running}
    spent = dict.fromkeys(times, 0.0)
    for turn in range(pace.rounds):
        # Each begins once, so that none always follows the same one.
        first = turn % max(len(running), 1)
        for process, one in running[first:] + running[:first]:
            had_enough = turn >= FEWEST_ROUNDS and spent[one.contender] > pace.most
            over = turn > 0 and time.monotonic() > end  # who is prepared has one turn at least
            if had_enough or one.trouble or over:
                continue
            time.sleep(pace.pause)
            start = time.monotonic()
            runs = _ask(process, one, pace.limit / 3, "round", pace.seconds)
            times[one.contender] += [runs] if runs else []
            spent[one.contender] += time.monotonic() - start
            if one.too_slow:
                end += time.monotonic() - start
    for process, one in running:
        if not one.trouble:
            _ask(process, one, pace.limit, "rest")
        _summarise(one, times[one.contender])


def _summarise(measured: Measured, rounds: list[list[float]]) -> None:
    runs = [seconds for one in rounds for seconds in one]
    if measured.too_slow and runs:
        measured.trouble = ""  # what it had by then counts
    if not runs:
        measured.trouble = measured.trouble or OVER
    if measured.trouble:
        return
    measured.minimum, measured.median = min(runs), statistics.median(runs)
    measured.runs = len(runs)
    measured.rounds = [min(one) for one in rounds]
