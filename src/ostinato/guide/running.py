"""Runs the sections in their order, whatever becomes of each, and reports on all."""

import logging
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from ostinato.guide import console, digits, environment, report
from ostinato.guide.contents import SECTIONS
from ostinato.guide.course import Course, Result, Section

# Epochs of the longer training: about as many steps for all of MNIST as keep a run to minutes.
EPOCHS, EPOCHS_OF_MANY, EPOCHS_OF_FEW = 10, 3, 4
MANY, FEW = 20_000, 2_000


def run(
    *, epochs: int | None, output: str, quick: bool, sections: Sequence[Section] = SECTIONS
) -> int:
    """Runs the sections, prints the table, writes the report; returns the exit status."""
    start = time.perf_counter()
    # It warns where many models are made in one program, which is what a guide does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)  # better now than after minutes of training
    print(f"Ostinato runs the Keras RNN guide on {environment.framework()}.")
    images = digits.load(quick=quick)
    print(f"Digits: {images}.")

    course = Course(images, epochs or default_epochs(len(images.x_train)), quick)
    results = [_run(section, number, course) for number, section in enumerate(sections, 1)]

    seconds = time.perf_counter() - start
    path = folder / "report.html"
    path.write_text(report.page(results, course, seconds), encoding="utf-8")
    failed = sum(not result.passed for result in results)
    print(f"\n{console.table(results)}\n")
    print(f"{verdict(failed, len(results))} It took {seconds:.0f} s. Report: {path}", flush=True)
    return 1 if failed else 0


def default_epochs(train: int) -> int:
    """Returns how many epochs make a presentable model from so many digits."""
    if train > MANY:
        return EPOCHS_OF_MANY
    return EPOCHS if train > FEW else EPOCHS_OF_FEW


def verdict(failed: int, total: int) -> str:
    """Returns a sentence on how the sections went."""
    if failed:
        return f"{failed} of {total} sections did not show what they should."
    return f"All {total} sections showed what they should."


def _run(section: Section, number: int, course: Course) -> Result:
    console.heading(number, section.title)
    start = time.perf_counter()
    findings = error = None
    try:
        findings = section.run(course)
    except Exception as problem:  # noqa: BLE001 - it's shown, it fails the run; the others go on
        traceback.print_exc()
        error = f"{type(problem).__name__}: {problem}".partition("\n")[0]
    result = Result(section, time.perf_counter() - start, findings, error)
    for fact in findings.facts if findings else ():
        print(f"{'  ok  ' if fact.held else 'FAILED'}  {fact.claim}: {fact.seen}")
    return result
