"""`ostinato bench`: its options, and what it does."""

import argparse
import importlib
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from ostinato.bench import tables
from ostinato.bench.cases import KINDS, MODES, SIZES, Case, select
from ostinato.bench.contenders import NAMES, Contender, choose, parse
from ostinato.bench.measuring import QUICK, Measured, Pace, measure
from ostinato.bench.process import processes
from ostinato.bench.results import CASE_KEY, Results
from ostinato.engines import table
from ostinato.machine import describe

BUSY = 0.3  # load per core
INTERRUPTED = 130  # as shells have it of a process that Ctrl+C ends
BAR, LONGEST_BAR = 4, 40  # of the fastest contender, and of any
QUICK_CASES = (
    Case("LSTM", "S", "infer"),
    Case("LSTM", "S", "train"),
    Case("LSTM", "M", "train"),
    Case("GRU", "S", "train"),
    Case("LSTM", "guide", "fit"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options, for `ostinato bench` and for `python -m benchmarks`."""
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few cases: two minutes, if the machine is quiet",
    )
    _add_list(parser, "--cases", SIZES, "sizes")
    _add_list(parser, "--kinds", KINDS, "kinds of layer")
    _add_list(parser, "--modes", MODES, "infer: inference; train: a training step; fit")
    _add_list(parser, "--contenders", NAMES, "who takes part")
    parser.add_argument("--rounds", type=positive, metavar="N", help="turns of each contender")
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="SECONDS",
        help=f"time for a case; a contender that takes a third of it at once is left out "
        f"(default: {Pace.limit:.0f}, or {QUICK.limit:.0f} with --quick)",
    )
    parser.add_argument(
        "--engine", choices=table.NAMES, help="force an engine on Ostinato (default: the fastest)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for table, numbers and chart (needs matplotlib)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    parser.add_argument(
        "--resume", action="store_true", help="leave out cases that the file of numbers has"
    )


def cases(options: argparse.Namespace) -> list[Case]:
    """The cases that are asked for."""
    if options.quick and not (options.cases or options.kinds or options.modes):
        return list(QUICK_CASES)
    return select(options.kinds or KINDS, options.cases or SIZES, options.modes or MODES)


def why_not(options: argparse.Namespace) -> str | None:
    """Why nothing can be done with options that can't be together; None where it can."""
    if options.resume and numbers_file(options) is None:
        return "--resume goes on with a file of numbers: name it by --json FILE or --output DIR"
    if cases(options):
        return None
    chosen = {"--kinds": options.kinds, "--cases": options.cases, "--modes": options.modes}
    given = " ".join(f"{option} {' '.join(names)}" for option, names in chosen.items() if names)
    return f"{given}: no such case. fit is measured on the guide's model, and the rest on others"


def contenders(options: argparse.Namespace) -> list[str]:
    """The names of the contenders that are asked for."""
    if options.contenders:
        return list(options.contenders)
    quick = options.quick
    return [
        name
        for name, c in NAMES.items()
        if not (quick and (c.library == "sgemm" or c.dtype != "float32"))
    ]


def numbers_file(options: argparse.Namespace) -> Path | None:
    """Where the numbers go: as asked, else into the output's folder, else nowhere."""
    if options.json is not None:
        return Path(options.json)
    return options.output / "results.json" if options.output else None


def positive(text: str) -> int:
    """An argument that is a whole number above zero."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _add_list(
    parser: argparse.ArgumentParser, option: str, choices: Iterable[str], what: str
) -> None:
    parser.add_argument(
        option,
        nargs="+",
        choices=tuple(choices),
        metavar="NAME",
        help=f"{what} (default: all): {', '.join(choices)}",
    )


def run(options: argparse.Namespace, command: str | None = None) -> int:
    """Measures what is asked for, printing as it goes.

    Args:
        options: Those of `add_options`.
        command: What the table and the chart say that made them; by default the command line.

    Returns:
        The exit status: 1 where some contender failed or computed something else, or none of
        those that are installed runs any of the cases; 2 for options that ask for nothing, and for
        a file that numbers can't go into; 130 if it's interrupted.
    """
    if reason := why_not(options):
        print(f"bench: {reason}.", file=sys.stderr)
        return 2
    try:
        results = Results(numbers_file(options))
        results.check()  # better refused now than after minutes of measuring
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"bench: {str(error).removeprefix('bench: ')}", file=sys.stderr)
        return 2
    here, absent = choose(contenders(options), options.engine)
    for title, reason in absent.items():
        print(f"Without {title}: {reason}.")
    modes = {case.mode for case in cases(options)}
    if not any(modes & set(contender.modes) for contender in here):
        who = " and ".join(contender.title for contender in here) or "nobody"
        print(f"Nothing to measure: of {' '.join(sorted(modes))}, {who} runs none.")
        return 1
    load = describe()["load"]
    if load > BUSY * describe()["cores"]:
        print(f"This machine is busy (load {load}): expect other ratios than on a quiet one.")
    started = time.monotonic()
    try:
        status = 0 if _measure_all(options, here, results) else 1
    except KeyboardInterrupt:
        _say("")
        print("\nStopped. What there is so far:")
        status = INTERRUPTED
    runs = [run for run in results.section("runs") if run["engine"] == options.engine]
    parts = (tables.summary(runs), tables.by_precision(runs), tables.about(results))
    print("\n" + "\n\n".join(part for part in parts if part))
    print("Times are of the fastest run. A machine that does other work, too, gives other ratios.")
    for line in tables.troubles(runs):
        print(f"No time: {line}.")
    if options.output:
        write(results, options.output, command or command_line(), options.engine)
    print(f"Took {time.monotonic() - started:.0f} s.")
    return status


def write(results: Results, folder: Path, command: str, engine: str | None = None) -> None:
    """Writes the table and the chart of all numbers so far."""
    chart = importlib.import_module("ostinato.bench.chart")  # needs matplotlib
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


def _measure_all(options: argparse.Namespace, here: list[Contender], results: Results) -> bool:
    pace = QUICK if options.quick else Pace()
    chosen = {
        name: getattr(options, name) for name in ("rounds", "limit") if getattr(options, name)
    }
    pace = replace(pace, **chosen)
    well = True
    with processes(here) as running:
        for case in cases(options):
            row = {
                "kind": case.kind,
                "size": case.size,
                "mode": case.mode,
                "engine": options.engine,
            }
            able = [p for p in running if case.mode in p.contender.modes]
            if not able or (options.resume and results.find("runs", row)):
                continue
            print(f"\n{case}", flush=True)
            measured = measure(able, case, pace, _say)
            _say("")
            _show(measured)
            well = well and not any(m.trouble or m.too_slow for m in measured)
            row["command"] = command_line()
            results.put("runs", {**row, "measured": [asdict(m) for m in measured]}, CASE_KEY)
            too_slow = {m.contender for m in measured if m.too_slow}
            running = [p for p in running if p.contender.name not in too_slow]
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
        if m.too_slow:
            print(f"  {parse(m.contender).title:26} takes part in no further case", flush=True)


def _say(what: str) -> None:
    """Shows what is happening on a line that is overwritten; nothing where output is a file."""
    if sys.stdout.isatty():
        print(f"\r\033[K  {what}" if what else "\r\033[K", end="", flush=True)
