"""Python source as coloured HTML, shortened to what a reader of the guide wants to see."""

import html
import inspect
import io
import keyword
import re
import textwrap
import tokenize
from typing import Any

KINDS = {tokenize.STRING: "string", tokenize.COMMENT: "comment", tokenize.NUMBER: "number"}
DOCSTRING = re.compile(r'\s+""".*"""$')  # of one line, as all of the guide's examples have
ANNOTATION = re.compile(r"(?<=\w): (?:Any|int|dict\[str, Any\])(?=[,) ])| -> .*(?=:$)")
RETURNED_NAMES = re.compile(r"\s+return \w+(, \w+)*$")


def whole(thing: Any) -> str:
    """Returns the source of a class or function, without docstrings and annotations."""
    lines = textwrap.dedent(inspect.getsource(thing)).splitlines()
    return "\n".join(ANNOTATION.sub("", line) for line in lines if not DOCSTRING.match(line))


def body(function: Any) -> str:
    """Returns what's inside a function, without the names that it returns."""
    lines = whole(function).splitlines()[1:]
    if RETURNED_NAMES.match(lines[-1]):
        lines.pop()
    return textwrap.dedent("\n".join(lines)).strip()


def highlight(code: str) -> str:
    """Returns the code as HTML, with keywords, strings, comments and numbers in spans."""
    lines = code.splitlines(keepends=True)
    marked, row, column = [], 1, 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind = KINDS.get(token.type) or ("keyword" if keyword.iskeyword(token.string) else None)
        if kind is None:
            continue
        marked.append(html.escape(_between(lines, (row, column), token.start)))
        marked.append(f'<span class="{kind}">{html.escape(token.string)}</span>')
        row, column = token.end
    marked.append(html.escape(_between(lines, (row, column), (len(lines) + 1, 0))))
    return "".join(marked)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, left), (last, right) = start, end
    if first == last:
        return lines[first - 1][left:right]
    middle = lines[first : last - 1]
    tail = lines[last - 1][:right] if last <= len(lines) else ""
    head = lines[first - 1][left:] if first <= len(lines) else ""
    return head + "".join(middle) + tail
