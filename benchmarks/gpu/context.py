"""What a stage is given: its time, where it writes what it finds, and whether it's a trial."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ostinato


class LostCardError(RuntimeError):
    """A kernel has failed so that this process can't use the card any more."""


@dataclass
class Context:
    """Of one stage.

    Attributes:
        stage: Its name.
        results: The file of lines of JSON that it adds to.
        seconds: How long it may take.
        fake: Whether it's tried without a GPU, at tiny sizes: the plan's choice runs then in the
            place of the engine `cuda`.
        part: Which part of its questions it answers, if it has parts.
        without: An engine that is left out.
        wrong: How many comparisons have failed.
    """

    stage: str
    results: Path
    seconds: float = 60.0
    fake: bool = False
    part: str = ""
    without: str = ""
    wrong: int = 0
    _began: float = field(default_factory=time.monotonic)

    def tell(self, text: str, **row: Any) -> None:
        """Prints a line, and writes a row."""
        print(text, flush=True)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage, "text": text, **row}) + "\n")

    def within(self, things: Any, needs: float = 4.0) -> Iterator[Any]:
        """The things one after the other, while there's time for one more; says what's left out."""
        things = list(things)
        for place, thing in enumerate(things):
            if time.monotonic() - self._began > self.seconds - needs:
                left_out = [str(each) for each in things[place:]]
                self.tell(f"no time for {len(left_out)} more", left_out=left_out)
                return
            yield thing

    def forced(self, engine: str | None) -> Any:
        """Has an engine run what is called within."""
        if engine is None or (self.fake and engine == "cuda"):
            return contextlib.nullcontext()
        return ostinato.use_engine(engine)


def reason(error: BaseException) -> str:
    """An error in one line, without the arguments that Keras adds; of a long one the end."""
    said = str(error).partition("Arguments received by")[0]
    plain = re.sub(r"\x1b\[\d*m", "", said)  # Keras prints in bold
    text = " ".join(f"{type(error).__name__}: {plain}".split())
    return text if len(text) <= 400 else f"{text[:60]} ... {text[-330:]}"
