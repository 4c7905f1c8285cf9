"""Which targets were met: every target beside what was measured."""

import itertools
from collections.abc import Iterator

from benchmarks import cliff, streaming, targets
from benchmarks.cell_verdicts import cell_verdicts, table
from benchmarks.streaming import OURS
from benchmarks.verdict import Verdict
from ostinato.bench import tables
from ostinato.bench.cases import KINDS, MODES
from ostinato.bench.contenders import NAMES
from ostinato.bench.results import Results, Row
from ostinato.bench.tables import compare, markdown, milliseconds
from ostinato.machine import FRAMEWORKS


def verdicts(results: Results) -> list[Verdict]:
    """All targets, in the order of the targets' file."""
    groups = (
        _peers,
        _same_backend,
        _fit,
        _sgemm,
        _cliff,
        _memory,
        _stream,
        _portable,
        cell_verdicts,
    )
    return [verdict for group in groups for verdict in group(results)]


def page(results: Results) -> str:
    """The Markdown page: what was missed, then a table for each group."""
    found = verdicts(results)
    parts = ["# Targets", tables.about(results), outcome(found)]
    for group in dict.fromkeys(v.group for v in found):
        of_group = [v for v in found if v.group == group and v.met is not None]
        if of_group:
            parts += [f"## {group}", _table(of_group)]
    if results.section("cliff"):
        parts += ["## What each option costs", _costs(results.section("cliff"))]
    if results.section("cells"):
        parts += ["## Cells of one's own", table(results)]
    return "\n\n".join(parts) + "\n"


def outcome(found: list[Verdict]) -> str:
    """How many of each group were met, and each miss."""
    lines = []
    for group in dict.fromkeys(v.group for v in found):
        of_group = [v for v in found if v.group == group]
        met = sum(v.met is True for v in of_group)
        measured = sum(v.met is not None for v in of_group)
        lines.append(f"- {group}: {met} met of {measured} measured, of {len(of_group)}.")
        missed = [v for v in of_group if v.met is False]
        lines += [f"    - missed: {v.what}: {v.got:.2f}, wanted {v.bound} {v.note}" for v in missed]
    return "\n".join(lines)


def _table(found: list[Verdict]) -> str:
    rows = [
        (v.what, v.bound, f"{v.got:.2f}", "met" if v.met else "**missed**", v.note) for v in found
    ]
    return markdown(("what", "target", "got", "", ""), rows)


def _costs(rows: list[Row]) -> str:
    """Ratios, an option a row; the engine where it isn't the native one."""
    columns = list(itertools.product(cliff.KINDS, cliff.SIZES, cliff.MODES))
    table = []
    for backend in dict.fromkeys(row["backend"] for row in rows):
        here = {
            (row["option"], (row["kind"], row["size"], row["mode"])): row
            for row in rows
            if row["backend"] == backend
        }
        for option in cliff.OPTIONS:
            cells = [here.get((option, column)) for column in columns]
            if any(cells):
                table.append((f"{FRAMEWORKS[backend]}: {option}", *map(_cost, cells)))
    return markdown(("option", *(" ".join(column) for column in columns)), table)


def _cost(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row['ratio']:.2f}" + ("" if row["engine"] == "fused" else f" ({row['engine']})")


def _peers(results: Results) -> Iterator[Verdict]:
    group = "Times faster than the best of all peers, Ostinato on JAX"
    for (kind, size, mode), wanted in targets.PEERS.items():
        run = _run(results, kind, size, mode)
        found = compare(run) if run else None
        what = f"{kind} {size}, {MODES[mode]}"
        if found is None or found.ours.name != "ostinato-jax":
            yield Verdict(group, what, wanted, None)
        else:
            note = (
                f"{milliseconds(found.ours_seconds)} ms; {found.peer.title} "
                f"{milliseconds(found.peer_seconds)} ms"
            )
            yield Verdict(group, what, wanted, found.ratio, note=note)


def _same_backend(results: Results) -> Iterator[Verdict]:
    group = "Times faster than Keras's layer on the same backend, training step"
    for framework, wanted in targets.SAME_BACKEND.items():
        for kind in KINDS:
            for size in targets.SAME_BACKEND_SIZES:
                got = _ratio(results, kind, size, "train", framework)
                what = f"{FRAMEWORKS[framework]}, {kind} {size}"
                yield Verdict(group, what, wanted, got)


def _fit(results: Results) -> Iterator[Verdict]:
    group = (
        "Times faster than Keras's layer on the same backend, a step of fit on the guide's model"
    )
    for framework, wanted in targets.FIT.items():
        got = _ratio(results, "LSTM", "guide", "fit", framework)
        yield Verdict(group, f"{FRAMEWORKS[framework]}, LSTM", wanted, got)


def _sgemm(results: Results) -> Iterator[Verdict]:
    group = "Share of bare sgemm, training step, Ostinato on JAX"
    for kind in KINDS:
        for size, wanted in targets.SGEMM.items():
            run = _run(results, kind, size, "train")
            ours = _minimum(run, "ostinato-jax")
            limits = [_minimum(run, name) for name, c in NAMES.items() if c.library == "sgemm"]
            known = [limit for limit in limits if limit is not None]
            got = min(known) / ours if ours and known else None
            yield Verdict(group, f"{kind} {size}", wanted, got)


def _cliff(results: Results) -> Iterator[Verdict]:
    group = "No cliff: time with the option over time with the defaults"
    rows = results.section("cliff")
    backends = list(dict.fromkeys(row["backend"] for row in rows)) or ["jax"]
    for backend in backends:
        for option, meant in cliff.OPTIONS.items():
            if option == cliff.DEFAULTS:
                continue
            wanted = targets.CLIFF.get(option, targets.CLIFF_OTHERS)
            for kind in meant.kinds:
                for size in cliff.SIZES:
                    for mode in meant.modes:
                        key = (backend, kind, size, mode, option)
                        row = results.find("cliff", dict(zip(cliff.KEY, key, strict=True)))
                        what = f"{FRAMEWORKS[backend]}, {option}: {kind} {size}, {MODES[mode]}"
                        got = row["ratio"] if row else None
                        note = row["engine"] if row and row["engine"] != "fused" else ""
                        yield Verdict(group, what, wanted, got, at_most=True, note=note)


def _memory(results: Results) -> Iterator[Verdict]:
    group = "Peak memory of a training step at L, over torch.nn's"
    for kind in KINDS:
        limit = results.find("memory", {"kind": kind, "size": "L", "contender": "torch.nn"})
        for framework, title in FRAMEWORKS.items():
            name = f"ostinato-{framework}"
            row = results.find("memory", {"kind": kind, "size": "L", "contender": name})
            got = row["bytes"] / limit["bytes"] if row and limit else None
            note = f"{row['bytes'] >> 20} MB; torch.nn {limit['bytes'] >> 20} MB" if got else ""
            yield Verdict(group, f"{title}, {kind}", targets.MEMORY, got, at_most=True, note=note)


def _stream(results: Results) -> Iterator[Verdict]:
    rows = results.section("stream")
    for row in rows:
        units, what = row["units"], f"{row['units']} units, {row['features']} features"
        if row["contender"] == OURS:
            group = "Microseconds a timestep of ostinato.stream, LSTM, batch 1"
            wanted = targets.STREAM[units]
            yield Verdict(group, f"{what}, {row['backend']}", wanted, row["us"], at_most=True)
    for row in rows:
        units, wanted = targets.STREAM_PEERS
        if row["contender"] == OURS or row["units"] != units:
            continue
        ours = {**{name: row[name] for name in streaming.KEY}, "contender": OURS}
        found = results.find("stream", ours)
        group = "Times faster a timestep than peers, LSTM, batch 1"
        what = f"{row['contender']} ({row['backend']}), {units} units, {row['features']} features"
        yield Verdict(group, what, wanted, row["us"] / found["us"] if found else None)


def _portable(results: Results) -> Iterator[Verdict]:
    group = "The portable engine (--engine scan): times faster than Keras's layer, same backend"
    for framework, wanted in targets.PORTABLE.items():
        for kind in ("LSTM", "GRU"):
            for size in ("S", "M"):
                for mode in ("infer", "train"):
                    got = _ratio(results, kind, size, mode, framework, "scan")
                    what = f"{FRAMEWORKS[framework]}, {kind} {size}, {MODES[mode]}"
                    yield Verdict(group, what, wanted, got)


def _run(
    results: Results, kind: str, size: str, mode: str, engine: str | None = None
) -> Row | None:
    wanted = {"kind": kind, "size": size, "mode": mode, "engine": engine}
    return results.find("runs", wanted)


def _minimum(run: Row | None, contender: str) -> float | None:
    for measured in run["measured"] if run else []:
        if measured["contender"] == contender and not measured["trouble"]:
            return measured["minimum"]
    return None


def _ratio(
    results: Results, kind: str, size: str, mode: str, framework: str, engine: str | None = None
) -> float | None:
    """Keras's time over ours on one framework."""
    run = _run(results, kind, size, mode, engine)
    suffix = f"-{engine}" if engine else ""
    ours = _minimum(run, f"ostinato-{framework}{suffix}")
    theirs = _minimum(run, f"keras-{framework}")
    return theirs / ours if ours and theirs else None
