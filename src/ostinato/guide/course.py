"""Runs the sections in their order, whatever becomes of each; tells on the console, and reports."""

import logging
import shutil
import textwrap
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from ostinato.guide import digits, report, sections_on_digits, sections_on_layers, timing
from ostinato.guide.section import Result, Run, Section

# As in the guide.
SECTIONS = (
    sections_on_layers.builtin_layers,
    sections_on_layers.outputs,
    sections_on_layers.encoder_decoder,
    sections_on_layers.cells,
    sections_on_layers.across_batches,
    sections_on_layers.reuse,
    sections_on_layers.bidirectional,
    sections_on_digits.as_the_guide,
    sections_on_digits.longer,
    sections_on_digits.one_digit,
    sections_on_layers.nested,
    timing.beside_keras,
)
# Epochs of the longer training: about as many steps for all of MNIST as keep a run to minutes.
EPOCHS, EPOCHS_OF_MANY, EPOCHS_OF_FEW = 10, 3, 4
MANY, FEW = 20_000, 2_000
NARROW, WIDE = 60, 110  # columns of the console


def run(
    *, epochs: int | None, output: str, quick: bool, sections: Sequence[Section] = SECTIONS
) -> int:
    """Runs the guide and writes its report.

    Args:
        epochs: How long the digits are trained, after the guide's own epoch. None chooses by how
            many digits there are.
        output: The folder that report.html goes to; it's made where it's missing.
        quick: A fraction of the data and the steps, to see it run.
        sections: What is run.

    Returns:
        The exit status: 0 if every section showed what it should, 1 if one didn't.

    Raises:
        OSError: if the folder can't be written to.
    """
    start = time.perf_counter()
    # It warns where many models are made in one program, which is what a guide does.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    path = Path(output) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("a").close()  # better refused now than after minutes of training
    print(f"Ostinato runs the Keras RNN guide on {report.framework()}.")
    images = digits.load(quick=quick)
    print(f"Digits: {images}.")

    this = Run(images, epochs or default_epochs(len(images.x_train)), quick)
    results = [_run(section, number, this) for number, section in enumerate(sections, 1)]

    seconds = time.perf_counter() - start
    path.write_text(report.page(results, this, seconds), encoding="utf-8")
    failed = sum(not result.passed for result in results)
    print(f"\n{table(results)}\n")
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


def table(results: Sequence[Result]) -> str:
    """Returns the table of sections: what each showed, and the seconds it took."""
    name = max(len("section"), *(len(result.section.title) + 4 for result in results))
    room = _width() - name - len("  FAILED") - 2 - 10
    lines = [f"{'section':{name}}  {'':6}  {'what it showed':{room}}  {'seconds':>7}"]
    lines.append("─" * len(lines[0]))
    for number, result in enumerate(results, 1):
        first, *others = textwrap.wrap(result.showed, room) or [""]
        title = f"{number:2}. {result.section.title}"
        state = "ok" if result.passed else "FAILED"
        lines.append(f"{title:{name}}  {state:6}  {first:{room}}  {result.seconds:7.1f}")
        lines += [f"{'':{name}}  {'':6}  {other}" for other in others]
    return "\n".join(lines)


def _run(section: Section, number: int, run: Run) -> Result:
    print(f"\n{f'── {number}. {section.title} ':─<{_width()}}", flush=True)
    start = time.perf_counter()
    findings = error = None
    try:
        findings = section.run(run)
    except Exception as problem:  # noqa: BLE001 - it's shown, it fails the run; the others go on
        traceback.print_exc()
        error = f"{type(problem).__name__}: {problem}".partition("\n")[0]
    result = Result(section, time.perf_counter() - start, findings, error)
    for fact in findings.facts if findings else ():
        print(f"{'  ok  ' if fact.held else 'FAILED'}  {fact.claim}: {fact.seen}")
    return result


def _width() -> int:
    return max(NARROW, min(WIDE, shutil.get_terminal_size((96, 24)).columns))
