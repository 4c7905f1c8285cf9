"""A Markdown page as a program: its fenced python blocks, run in order in one namespace.

    python tests/docs/page.py docs/guide.md

Several pages run one after the other, each in a new folder: to start Keras takes longer than most.

- ```python            runs.
- ```output            is what the block above it printed, compared as doctest compares: runs of
                       white space are equal, and `...` stands for anything.

A block is compiled under the page's own name and line numbers, so a traceback points into the page.
"""

import contextlib
import doctest
import io
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: The first word of the fence.
        text: What it holds.
        line: The page's line on which the text begins.
    """

    language: str
    text: str
    line: int

    @property
    def runs(self) -> bool:
        return self.language == "python"


def blocks(page: Path) -> list[Block]:
    """Every fenced block of the page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language = match["info"].strip()
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(language, match["body"], line))
    return found


def run(page: Path) -> None:
    """Runs the page; raises at the first block that fails, or prints what the page doesn't show."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        if block.runs:
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            captured = io.StringIO()
            try:
                with contextlib.redirect_stdout(captured):
                    exec(code, namespace)
            finally:
                printed = captured.getvalue()
                print(printed, end="")
        elif block.language == "output" and not doctest.OutputChecker().check_output(
            block.text, printed, FLAGS
        ):
            raise AssertionError(
                f"{page}:{block.line}: the page shows\n{block.text}"
                f"but the block above printed\n{printed}"
            )


def run_each(pages: list[Path]) -> None:
    """Runs pages in one process, each in a folder of its own and with Keras as it begins."""
    for page in pages:
        print(f"{page}:")
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            run(page)
        import keras  # by now the page has chosen the backend

        keras.utils.clear_session()


if __name__ == "__main__":
    run_each([Path(name).resolve() for name in sys.argv[1:]])
