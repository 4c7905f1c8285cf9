"""What a section of the guide is, what it finds, and the comparisons by which it finds it."""

import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np

from ostinato.guide.digits import Digits

SEED = 2020  # the year of the guide; any other will do
# Two orders of the same float32 sums differ by about 1e-6; a wrong gate differs by 0.1.
TOLERANCE = 1e-4
RETURNED_NAMES = re.compile(r"\n +return \w+(, \w+)*$")


@dataclass(frozen=True)
class Fact:
    """Something that was claimed, what was seen, and whether the one bears the other out."""

    claim: str
    seen: str
    held: bool


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with its caption; `wide` takes the page's whole width."""

    source: str
    caption: str
    alt: str
    wide: bool = False


class Row(NamedTuple):
    """One layer in the summary of a model."""

    layer: str
    shape: str
    weights: int


@dataclass(frozen=True)
class Findings:
    """What a section saw: a sentence for the table, its facts, and what there's to look at."""

    showed: str
    facts: Sequence[Fact]
    pictures: Sequence[Picture] = ()
    summary: Sequence[Row] = ()


@dataclass
class Run:
    """One run of the guide: its options, the digits, and what the sections leave for later ones."""

    digits: Digits
    epochs: int
    quick: bool
    # What heads the report: a value, and of what it is.
    figures: list[tuple[str, str]] = field(default_factory=list)
    model: Any = None  # trained on the digits; set by that section, used by the next
    banner: str | None = None  # a data URI

    def trained(self) -> Any:
        """Returns the model trained on the digits."""
        if self.model is None:
            raise RuntimeError("needs the model of the section on digits, which failed")
        return self.model


@dataclass(frozen=True)
class Section:
    """A section of the guide: what it says, the code that it shows, and how it's run."""

    title: str
    lead: str
    run: Callable[[Run], Findings]
    code: Sequence[str] = ()

    @property
    def slug(self) -> str:
        """Its name in the report's address."""
        return self.title.lower().replace(" ", "-").replace(",", "")


def section(title: str, lead: str, *code: str) -> Callable[[Callable[[Run], Findings]], Section]:
    """Makes a function the section that it runs, with its title, its text and its code."""
    return lambda run: Section(title, lead, run, code)


@dataclass(frozen=True)
class Result:
    """A section that has been run. `error` is what stopped it, if anything did."""

    section: Section
    seconds: float
    findings: Findings | None = None
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the section ran to its end and all its facts hold."""
        return self.findings is not None and all(fact.held for fact in self.findings.facts)

    @property
    def showed(self) -> str:
        """A sentence on what the section showed, or on what went wrong."""
        if self.findings is None:
            return f"stopped: {self.error}"
        if self.passed:
            return self.findings.showed
        broken = [fact for fact in self.findings.facts if not fact.held]
        return "not so: " + "; ".join(f"{fact.claim} ({fact.seen})" for fact in broken)


def whole(thing: Any) -> str:
    """Returns the source of a class or function."""
    return inspect.getsource(thing).strip()


def body(function: Any) -> str:
    """Returns what's inside a function, without the names that it returns."""
    _, inside = whole(function).split("\n", 1)
    return textwrap.dedent(RETURNED_NAMES.sub("", inside)).strip()


def array(tensor: Any) -> Any:
    """Returns a tensor of any backend as a NumPy array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def agree(claim: str, left: Any, right: Any, tolerance: float = TOLERANCE) -> Fact:
    """States that two tensors, or two lists of tensors, are the same up to `tolerance`."""
    gap = difference(left, right)
    return Fact(claim, f"largest difference {gap:.1e}" if gap else "bit for bit", gap <= tolerance)


def differ(claim: str, left: Any, right: Any) -> Fact:
    """States that two tensors are not the same."""
    gap = difference(left, right)
    return Fact(claim, f"largest difference {gap:.2f}", gap > TOLERANCE)


def equal(claim: str, seen: Any, expected: Any) -> Fact:
    """States that what was seen is what was expected; shows the latter only if it isn't."""
    held = bool(seen == expected)
    seen, expected = (f"{x:,}" if isinstance(x, int) else str(x) for x in (seen, expected))
    return Fact(claim, seen if held else f"{seen}, expected {expected}", held)


def difference(left: Any, right: Any) -> float:
    """Returns the largest absolute difference; infinite where the shapes differ or NaN is in it."""
    if isinstance(left, list | tuple):
        return max(difference(a, b) for a, b in zip(left, right, strict=True))
    left, right = array(left), array(right)
    if left.shape != right.shape:
        return float("inf")
    gap = float(np.max(np.abs(left - right)))
    return gap if np.isfinite(gap) else float("inf")


def shape(*tensors: Any) -> str:
    """Returns shapes as the guide writes them, with `None` for what isn't known yet."""
    return ", ".join(f"({', '.join(map(str, tensor.shape))})" for tensor in tensors)


def summarise(model: Any) -> list[Row]:
    """Returns the lines of a model's summary, for the report."""
    return [
        Row(
            f"{layer.name} · {type(layer).__name__}",
            shape(*keras.tree.flatten(layer.output)),
            layer.count_params(),
        )
        for layer in model.layers
    ]
