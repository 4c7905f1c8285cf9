"""What `ostinato bench` does."""

import argparse
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from ostinato.bench import chart, options, tables
from ostinato.bench.contenders import Contender, choose, parse
from ostinato.bench.crew import Crew
from ostinato.bench.measuring import QUICK, Measured, Pace, measure
from ostinato.bench.results import CASE_KEY, Results, machine

BUSY = 0.3  # load per core
BAR, LONGEST_BAR = 4, 40  # of the fastest contender, and of any


def run(asked: argparse.Namespace, command: str | None = None) -> int:
    """Measures what is asked for, printing as it goes.

    Args:
        asked: The options of `options.add_options`.
        command: What the table and the chart say that made them; by default the command line.

    Returns:
        The exit status: 1 where some contender failed or computed something else, or none of
        those that are installed runs any of the cases; 2 for options that ask for nothing.
    """
    if reason := options.why_not(asked):
        print(f"bench: {reason}.", file=sys.stderr)
        return 2
    results = Results(options.numbers_file(asked))
    here, absent = choose(options.contenders(asked), asked.engine)
    for title, reason in absent.items():
        print(f"Without {title}: {reason}.")
    modes = {case.mode for case in options.cases(asked)}
    if not any(modes & set(contender.modes) for contender in here):
        who = " and ".join(contender.title for contender in here) or "nobody"
        print(f"Nothing to measure: of {' '.join(sorted(modes))}, {who} runs none.")
        return 1
    load = machine()["load"]
    if load > BUSY * machine()["cores"]:
        print(f"This machine is busy (load {load}): expect other ratios than on a quiet one.")
    started = time.monotonic()
    measured_all = _measure_all(asked, here, results)
    runs = [run for run in results.section("runs") if run["engine"] == asked.engine]
    print(f"\n{tables.summary(runs)}\n\n{tables.about(results)}")
    print("Times are of the fastest run. A machine that does other work, too, gives other ratios.")
    for line in tables.troubles(runs):
        print(f"No time: {line}.")
    if asked.output:
        write(results, asked.output, command or command_line(), asked.engine)
    print(f"Took {time.monotonic() - started:.0f} s.")
    return 0 if measured_all else 1


def write(results: Results, folder: Path, command: str, engine: str | None = None) -> None:
    """Writes the table and the chart of all numbers so far."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = [run for run in results.section("runs") if run["engine"] == engine]
    suffix = f"-{engine}" if engine else ""
    pages = {
        f"peers{suffix}.md": tables.page(results, command, engine),
        f"speed{suffix}.svg": chart.speedups(runs, tables.about(results), command),
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
        print(f"Wrote {folder / name}")


def command_line() -> str:
    """This process's command, as a person would type it."""
    program = Path(sys.argv[0]).name
    if program == "__main__.py":
        program = f"python -m {Path(sys.argv[0]).parent.name}"
    return shlex.join([*program.split(), *sys.argv[1:]])


def _measure_all(asked: argparse.Namespace, here: list[Contender], results: Results) -> bool:
    pace = QUICK if asked.quick else Pace()
    if asked.rounds:
        pace = replace(pace, rounds=asked.rounds)
    well = True
    with Crew(here) as crew:
        for case in options.cases(asked):
            row = {"kind": case.kind, "size": case.size, "mode": case.mode, "engine": asked.engine}
            if not crew.for_mode(case.mode) or (asked.resume and results.find("runs", row)):
                continue
            print(f"\n{case}", flush=True)
            measured = measure(crew, case, pace, _say)
            _say("")
            _show(measured)
            well = well and not any(m.trouble for m in measured)
            row["command"] = command_line()
            results.put("runs", {**row, "measured": [asdict(m) for m in measured]}, CASE_KEY)
    return well


def _show(measured: list[Measured]) -> None:
    """A line and a bar for each contender, fastest first."""
    timed = sorted((m for m in measured if not m.trouble), key=lambda m: m.minimum)
    for m in timed:
        title = parse(m.contender).title
        length = round(BAR * m.minimum / timed[0].minimum)
        bar = "█" * min(length, LONGEST_BAR) + ("…" if length > LONGEST_BAR else "")
        print(f"  {title:26} {tables.milliseconds(m.minimum):>6} ms  {bar}", flush=True)
    for m in measured:
        if m.trouble:
            print(f"  {parse(m.contender).title:26} {m.trouble}", flush=True)


def _say(what: str) -> None:
    """Shows what is happening on a line that is overwritten; nothing where output is a file."""
    if sys.stdout.isatty():
        print(f"\r\033[K  {what}" if what else "\r\033[K", end="", flush=True)
