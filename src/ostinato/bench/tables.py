"""Tables of what was measured, as Markdown that also reads well in a terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ostinato.bench.cases import KINDS, MODES, SIZES, Case
from ostinato.bench.contenders import ALL, Contender, parse
from ostinato.bench.results import Results, Row


@dataclass(frozen=True)
class Comparison:
    """Ostinato and the best of its peers in one case: the fastest runs, in seconds.

    `ours` is Ostinato on the first framework that took part, JAX where it did.
    """

    case: Case
    ours: Contender
    ours_seconds: float
    peer: Contender
    peer_seconds: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.peer_seconds / self.ours_seconds


def case_of(run: Row) -> Case:
    """The case of a run."""
    return Case(run["kind"], run["size"], run["mode"])


def timed(run: Row) -> dict[Contender, Row]:
    """The contenders of a run that have times, in their usual order."""
    found = {parse(m["contender"]): m for m in run["measured"] if not m["trouble"]}
    return {contender: found[contender] for contender in sorted(found, key=_place)}


def compare(run: Row, dtype: str = "float32") -> Comparison | None:
    """Ostinato beside its best peer in a dtype, if there's one of each."""
    seconds = {c: m["minimum"] for c, m in timed(run).items() if c.dtype == dtype}
    ours = next((c for c in seconds if c.library == "ostinato"), None)
    peers = [c for c in seconds if c.is_peer]
    if ours is None or not peers:
        return None
    best = min(peers, key=lambda c: seconds[c])
    return Comparison(case_of(run), ours, seconds[ours], best, seconds[best])


def summary(runs: Iterable[Row]) -> str:
    """A line for each case: ours, the best other, and the ratio."""
    rows = [
        (
            str(found.case),
            f"{milliseconds(found.ours_seconds)} ms",
            f"{milliseconds(found.peer_seconds)} ms",
            found.peer.title,
            f"{found.ratio:.2f}",
        )
        for found in map(compare, in_order(runs))
        if found is not None
    ]
    if not rows:
        return "Nothing to compare: it takes Ostinato and one other."
    return markdown(("case", "Ostinato", "best other", "which", "times faster"), rows)


def by_precision(runs: Iterable[Row]) -> str:
    """A line for each case in both: ours in float32 and in bfloat16, and the best other in that."""
    rows = []
    for run in in_order(runs):
        seconds = {c: m["minimum"] for c, m in timed(run).items() if c.library == "ostinato"}
        single = next((c for c in seconds if c.dtype == "float32"), None)
        half = next((c for c in seconds if c.dtype == "bfloat16"), None)
        if single is None or half is None or single.framework != half.framework:
            continue
        other = compare(run, "bfloat16")
        theirs = ("-", "-", "-")
        if other is not None:
            faster = f"{other.ratio:.2f}"
            theirs = (f"{milliseconds(other.peer_seconds)} ms", other.peer.title, faster)
        times = (f"{milliseconds(seconds[c])} ms" for c in (single, half))
        ratio = f"{seconds[single] / seconds[half]:.2f}"
        rows.append((str(case_of(run)), *times, ratio, *theirs))
    if not rows:
        return ""
    ours = ("Ostinato, float32", "Ostinato, bfloat16", "times faster")
    others = ("best other in bfloat16", "which", "times faster than that")
    return markdown(("case", *ours, *others), rows)


def details(runs: Iterable[Row], mode: str) -> str:
    """All contenders' times in a mode: minimum (median), in milliseconds."""
    runs = [run for run in in_order(runs) if run["mode"] == mode]
    columns = sorted({contender for run in runs for contender in timed(run)}, key=_place)
    if not columns:
        return ""
    rows = []
    for run in runs:
        times, found = timed(run), compare(run)
        B, T, D, U = SIZES[run["size"]]
        layer = f"{run['kind']} {run['size']} (B{B} T{T} D{D} U{U})"
        ratio = "-" if found is None else f"{found.ratio:.2f}"
        rows.append((layer, *(_minimum_and_median(times.get(c)) for c in columns), ratio))
    return markdown(
        ("layer", *(c.title for c in columns), "times faster than the best other"), rows
    )


def troubles(runs: Iterable[Row]) -> list[str]:
    """Who got no time, and why."""
    return [
        f"{case_of(run)}: {parse(m['contender']).title} {m['trouble']}"
        for run in in_order(runs)
        for m in run["measured"]
        if m["trouble"]
    ]


def about(results: Results) -> str:
    """The machine and the versions, in one line."""
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; native engine: "
        f"{machine['native']}; Ostinato {machine['ostinato']}, Python {machine['python']}, "
        f"{versions}."
    )


def page(results: Results, command: str, engine: str | None = None) -> str:
    """The Markdown page of a benchmark against peers."""
    runs = [run for run in results.section("runs") if run["engine"] == engine]
    parts = [
        "# Ostinato and its peers",
        about(results),
        f"Made by `{command}`. Milliseconds, minimum (median); contenders took turns in one run. "
        '"Times faster" is a ratio of minima, of Ostinato on the first framework in the table '
        "against the fastest of the others.",
        summary(runs),
    ]
    halves = by_precision(runs)
    if halves:
        parts += ["## By precision", halves]
    for mode, title in MODES.items():
        table = details(runs, mode)
        if table:
            parts += [f"## {title.capitalize()}", table]
    left_out = troubles(runs)
    if left_out:
        parts += ["## Without a time", "\n".join(f"- {line}" for line in left_out)]
    return "\n\n".join(parts) + "\n"


def in_order(runs: Iterable[Row]) -> list[Row]:
    """Runs by mode, kind and size."""
    modes, sizes = list(MODES), list(SIZES)

    def place(run: Row) -> tuple[int, int, int]:
        return modes.index(run["mode"]), KINDS.index(run["kind"]), sizes.index(run["size"])

    return sorted(runs, key=place)


def milliseconds(seconds: float) -> str:
    """Three digits that count."""
    ms = seconds * 1e3
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}" if ms >= 1 else f"{ms:.2f}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned."""
    table = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _place(contender: Contender) -> int:
    """Where it stands among all; an engine's suffix doesn't change that."""
    return ALL.index(replace(contender, engine=None))


def _minimum_and_median(measured: Row | None) -> str:
    if measured is None:
        return "-"
    return f"{milliseconds(measured['minimum'])} ({milliseconds(measured['median'])})"
