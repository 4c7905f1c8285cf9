"""A target beside what was measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """One target; `got` is None where it wasn't measured, or where a contender has no time."""

    group: str
    what: str
    wanted: float
    got: float | None
    at_most: bool = False
    note: str = ""

    @property
    def bound(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.wanted:.2f}"

    @property
    def met(self) -> bool | None:
        if self.got is None:
            return None
        return self.got <= self.wanted if self.at_most else self.got >= self.wanted
