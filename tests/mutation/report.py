"""What became of the mutants: counts by area and outcome, and the survivors."""

import collections
from pathlib import Path

from mutation.campaign import Journal

# Of several tries the one that says most. What no test of `once` runs is still to be tried `anew`.
WEIGHT = ("no test", "at import", "not made", "survived", "idle", "out of time", "killed")


def outcomes(folder: Path) -> dict[str, dict]:
    """Of each mutant that was tried the record that says most."""
    found = {}
    for name in ("live", "anew", "once"):
        for key, record in Journal(folder / f"{name}.jsonl").records.items():
            before = found.get(key)
            if before is None or _weight(record) >= _weight(before):
                found[key] = record
    return found


def _weight(record):
    return WEIGHT.index(record["outcome"])


def print_counts(mutants, known, left_out):
    """A table: areas by outcomes; then survivors by operator."""
    counts, operators = collections.Counter(), collections.Counter()
    for mutant in mutants:
        area = mutant.file.partition("/")[0]
        record = known.get(mutant.key, {"outcome": "not tried"})
        counts[area, record["outcome"]] += 1
        operators[_kind(mutant), record["outcome"]] += 1
    print("left out:", dict(left_out))
    for table in (counts, operators):
        columns = [o for o in (*WEIGHT[::-1], "not tried") if any(o == c for _, c in table)]
        print(f"\n{'':28}" + "".join(f"{name:>13}" for name in columns))
        for row in dict.fromkeys(sorted(row for row, _ in table)):
            print(f"{row:28}" + "".join(f"{table[row, name]:13}" for name in columns))


def _kind(mutant):
    return mutant.operator.rpartition("/")[2].split("_")[0]


def print_survivors(mutants, known):
    """Each survivor, and each mutant without a test: where, and the line before and after."""
    for mutant in sorted(mutants, key=lambda mutant: (mutant.file, mutant.line, mutant.operator)):
        record = known.get(mutant.key, {})
        if record.get("outcome") in ("survived", "no test"):
            ran = f"{record.get('ran', 0)}/{record['of']}"
            print(f"{record['outcome']} {ran} {mutant.file}:{mutant.line} {_kind(mutant)}")
            print("    - {}\n    + {}".format(*record["change"]))
