"""All configurations on the card that is here, and the stamp that they leave."""

import time
from collections.abc import Callable, Sequence

import keras
from keras import ops

from ostinato.cuda import driver, stamp
from ostinato.doors import door
from ostinato.engines.table import OF_CARDS
from ostinato.gpu_check.comparing import compare
from ostinato.gpu_check.configurations import Configuration, configurations
from ostinato.layers.planning import EngineError, why_no_cuda
from ostinato.settings import asked_precision

Tell = Callable[[str], None]


def why_not() -> str | None:
    """Why nothing can be checked in this process, or None."""
    if asked_precision() is not None:
        return "OSTINATO_PRECISION is set, and every precision is to be tried"
    reason: str | None = door.cuda_why_not(ops.zeros((1, 1, 1))) or why_no_cuda()
    return reason


def what_is_tried() -> list[Configuration]:
    """The configurations for the framework of this process."""
    return [each for each in configurations() if each.is_for_all or not door.COMPILES_LOOPS]


def check(
    asked: Sequence[Configuration],
    tell: Tell,
    seconds: float | None = None,
    engine: str | None = OF_CARDS,
) -> int:
    """Tries configurations, and tells of each.

    What the card can't hold is said, and isn't wrong: the plan doesn't take the engine then.

    Args:
        asked: The configurations.
        tell: Takes a line of text.
        seconds: After so many none is begun.
        engine: The engine; None: the plan's choice, for a trial without a card.

    Returns:
        How many aren't known to be right: wrong, failed, or not tried; or all where none was right.
    """
    began, right, refused = time.monotonic(), 0, 0
    for number, each in enumerate(asked):
        if seconds is not None and time.monotonic() - began > seconds:
            tell(f"no time for {len(asked) - number} more")
            break
        try:
            found = compare(each, engine)
        except EngineError as refusal:
            refused += 1
            tell(f"refused {each}: {refusal}")
        except (RuntimeError, ValueError) as error:  # the driver's, the framework's, or ours
            tell(f"FAILED {each}: {' '.join(str(error).split())[:400]}")
            tell(f"{len(asked) - number - 1} more aren't tried, as the card may be lost")
            break
        else:
            is_right = found.is_right(each.products)
            right += is_right
            tell(f"{'right' if is_right else 'WRONG'} {each}: {found}")
    return len(asked) - right - (refused if right else 0)


def check_and_stamp(tell: Tell, seconds: float | None = None) -> int:
    """Tries all configurations on the card that is here, and leaves a stamp where they're right.

    One that was there is taken away where they aren't.

    Returns:
        As `check`.
    """
    number, launcher = door.cuda_number(ops.zeros((1, 1, 1))), door.cuda_launcher()
    tell(f"{driver.described(number)}; {driver.card(number)}; {keras.config.backend()}")
    try:
        stamp.take(number, launcher)
    except OSError as error:
        tell(f"nothing is tried, as the stamp of before can't be taken away: {error}")
        return 1
    asked = what_is_tried()
    wrong = check(asked, tell, seconds)
    if wrong:
        stamp.take(number, launcher)  # which another process may have left meanwhile
        tell(f"{wrong} of {len(asked)} aren't right: the plan doesn't take the engine by itself")
        return wrong
    place = stamp.leave(number, launcher, configurations=[str(each) for each in asked])
    if not stamp.is_there(number, launcher):
        tell(f"all are right, but {place} can't be written: set OSTINATO_CACHE to another folder")
        return 1
    tell(f"all are right: the plan takes the engine by itself from now on ({place})")
    return 0
