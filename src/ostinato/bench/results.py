"""The numbers of one machine, in one JSON file that grows case by case.

A long benchmark can be run in parts, and goes on where it stopped: a row takes the place of the one
with the same key, so that all times of a case come from one run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ostinato.machine import describe

Row = dict[str, Any]
CASE_KEY = ("kind", "size", "mode", "engine")


class Results:
    """Sections of rows, and the machine that they're from.

    Args:
        path: Where they're kept, and read from if it's there; None keeps them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._data: dict[str, Any] = {"machine": describe()}
        if path is not None and path.exists():
            self._data = _read(path)

    @property
    def machine(self) -> Row:
        """What they were measured on."""
        return dict(self._data["machine"])

    def section(self, name: str) -> list[Row]:
        """The rows of a section, in the order in which they came."""
        return list(self._data.get(name, []))

    def find(self, name: str, wanted: Row) -> Row | None:
        """The row of a section that has all these values."""
        for row in self.section(name):
            if wanted.items() <= row.items():
                return row
        return None

    def check(self) -> None:
        """Sees to it that rows of this machine can be added.

        Raises:
            ValueError: if the rows before are another machine's.
            OSError: if there can be no file of that name.
        """
        here, there = describe(), self.machine
        if (here["cpu"], here["cores"]) != (there["cpu"], there["cores"]):
            raise ValueError(
                f"bench: expected a file of this machine's numbers ({here['cpu']}, {here['cores']} "
                f"cores), got {self.path} of {there['cpu']}, {there['cores']} cores."
            )
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, row: Row, key: Sequence[str]) -> None:
        """Adds a row of this machine, in place of the one with the same key, and writes the file.

        Raises:
            ValueError: if the rows before are another machine's.
        """
        self.check()
        self._data["machine"] = describe()
        rows = self._data.setdefault(name, [])
        identity = [row[k] for k in key]
        for index, old in enumerate(rows):
            if [old[k] for k in key] == identity:
                rows[index] = row
                break
        else:
            rows.append(row)
        self._save()

    def _save(self) -> None:
        if self.path is None:
            return
        # Written beside and put in place, so that a run that's stopped leaves a whole file.
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self._data, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self.path)


def _read(path: Path) -> dict[str, Any]:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"bench: expected a file of numbers, got {path}: {error}") from None
    if not isinstance(data, dict) or not {"cpu", "cores"} <= set(data.get("machine", ())):
        raise ValueError(f"bench: expected a file of numbers, got {path}, which names no machine.")
    return data
