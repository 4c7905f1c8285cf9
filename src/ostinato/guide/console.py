"""What the guide says on the console: a heading for each section, a table at the end."""

import shutil
import textwrap
from collections.abc import Sequence

from ostinato.guide.course import Result

NARROW, WIDE = 60, 110


def heading(number: int, title: str) -> None:
    """Announces a section."""
    line = f"── {number}. {title} "
    print(f"\n{line}{'─' * max(0, _width() - len(line))}", flush=True)


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


def _width() -> int:
    return max(NARROW, min(WIDE, shutil.get_terminal_size((96, 24)).columns))
