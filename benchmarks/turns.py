"""The fastest run of each of several, which take turns in one process."""

import itertools
import time

from ostinato.bench.prepared import Prepared

SECONDS, PAUSE = 0.02, 0.002  # of a turn, and before it


def minima(prepared: dict[str, Prepared], rounds: int, limit: float = 60.0) -> dict[str, float]:
    """Seconds of the fastest run of each.

    Args:
        prepared: What runs, by name.
        rounds: Turns of each.
        limit: Seconds that one may run in all; after its first turn it gets no other then.
    """
    fastest, spent = dict.fromkeys(prepared, float("inf")), dict.fromkeys(prepared, 0.0)
    for name, one in prepared.items():
        spent[name] += one.seconds()  # it may compile, and isn't counted among the fastest
    for turn, (name, one) in itertools.product(range(rounds), prepared.items()):
        if turn and spent[name] > limit:
            continue
        time.sleep(PAUSE)
        # The first run of a turn wakes threads and fills caches; in a long one that's nothing.
        first = one.seconds()
        spent[name] += first
        if first > SECONDS:
            fastest[name] = min(fastest[name], first)
            continue
        end = time.perf_counter() + SECONDS
        while True:
            took = one.seconds()
            fastest[name], spent[name] = min(fastest[name], took), spent[name] + took
            if time.perf_counter() > end:
                break
    return fastest
