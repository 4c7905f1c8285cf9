"""The options of `ostinato bench` and of `python -m benchmarks`, and what they select."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from ostinato.bench.cases import KINDS, MODES, SIZES, Case, select
from ostinato.bench.contenders import NAMES
from ostinato.plan import ENGINES

QUICK_CASES = (
    Case("LSTM", "S", "infer"),
    Case("LSTM", "S", "train"),
    Case("LSTM", "M", "train"),
    Case("GRU", "S", "train"),
    Case("LSTM", "guide", "fit"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options, for `ostinato bench` and for `python -m benchmarks`."""
    parser.add_argument("--quick", action="store_true", help="a few cases, in under two minutes")
    _add_list(parser, "--cases", SIZES, "sizes")
    _add_list(parser, "--kinds", KINDS, "kinds of layer")
    _add_list(parser, "--modes", MODES, "infer: inference; train: a training step; fit")
    _add_list(parser, "--contenders", NAMES, "who takes part")
    parser.add_argument("--rounds", type=positive, metavar="N", help="turns of each contender")
    parser.add_argument(
        "--engine", choices=ENGINES, help="force an engine on Ostinato (default: the fastest)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for table and chart")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    parser.add_argument(
        "--resume", action="store_true", help="leave out cases that the file of numbers has"
    )


def cases(asked: argparse.Namespace) -> list[Case]:
    """The cases that are asked for."""
    if asked.quick and not (asked.cases or asked.kinds or asked.modes):
        return list(QUICK_CASES)
    return select(asked.kinds or KINDS, asked.cases or SIZES, asked.modes or MODES)


def why_not(asked: argparse.Namespace) -> str | None:
    """Why nothing can be done with options that can't be together; None where it can."""
    if asked.resume and numbers_file(asked) is None:
        return "--resume goes on with a file of numbers: name it by --json FILE or --output DIR"
    if cases(asked):
        return None
    chosen = {"--kinds": asked.kinds, "--cases": asked.cases, "--modes": asked.modes}
    given = " ".join(f"{option} {' '.join(names)}" for option, names in chosen.items() if names)
    return f"{given}: no such case. fit is measured on the guide's model, and the rest on others"


def contenders(asked: argparse.Namespace) -> list[str]:
    """The names of the contenders that are asked for."""
    if asked.contenders:
        return list(asked.contenders)
    return [name for name, c in NAMES.items() if not (asked.quick and c.library == "sgemm")]


def numbers_file(asked: argparse.Namespace) -> Path | None:
    """Where the numbers go: as asked, else into the output's folder, else nowhere."""
    if asked.json is not None:
        return Path(asked.json)
    return asked.output / "results.json" if asked.output else None


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
