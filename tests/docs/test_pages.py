"""Every page of the documentation is a program that runs: on PyTorch; in `make long`, on each."""

import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import page as pages
import pytest

from support import LONG, WHOLE

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
TRANSLATION = "guide.pt.md"  # not run: a test proves that it's the program of guide.md
# Mostly Keras 2's, on TensorFlow; tools/test_keras2.py loads its files on every backend.
KERAS_2 = "coming-from-keras2.md"
# What runs, what it prints, and what neither runs nor is Python.
LANGUAGES = ("python", "output", "sh", "text", "c")  # C: tools/test_stream_c.py
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:)(?P<file>[^)#\s]*)#?(?P<anchor>[^)\s]*)\)")


def title(page):
    return str(page.relative_to(ROOT))


def has_code(page):
    return page.name != TRANSLATION and any(block.runs for block in pages.blocks(page))


RUN = [page for page in PAGES if has_code(page) and (LONG if page.name == KERAS_2 else WHOLE)]


@pytest.mark.slow
@pytest.mark.skipif(not RUN, reason="on PyTorch, and in `make long`")
def test_pages_run():
    environment = {
        # A page's tensors are small: threads only wait for one another where the cores are shared.
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, pages.__file__, *map(str, RUN)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_block_says_what_it_is(page):
    """So that no Python is left out for being called `py`, or nothing."""
    for block in pages.blocks(page):
        assert block.language in LANGUAGES, (
            f"{title(page)}:{block.line}: expected ```{' or ```'.join(LANGUAGES)}, "
            f"got ```{block.language}"
        )


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere(page):
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target = page.parent / match["file"] if match["file"] else page
        assert target.exists(), f"{title(page)} links to {match['file']}"
        if match["anchor"]:
            assert match["anchor"] in anchors(target), (
                f"{title(page)} links to {match['file']}#{match['anchor']}"
            )


def test_the_guide_is_the_same_program_in_both_languages():
    english, portuguese = (program(ROOT / "docs" / name) for name in ("guide.md", TRANSLATION))
    assert english == portuguese


def program(page):
    """The tokens of a page's code, and what the page says that it prints.

    Without comments, and without the strings of lines that print: these are translated.
    """
    found = []
    for block in pages.blocks(page):
        if block.language == "output":
            found.append(block.text)
        elif block.language == "python":
            found += [*tokens(block.text)]
    return found


def tokens(code):
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        name = tokenize.tok_name[token.type]
        if name in ("COMMENT", "NL"):
            continue
        translated = name in ("STRING", "FSTRING_MIDDLE") and token.line.startswith("print(")
        yield name, "" if translated else token.string


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    prose = pages.FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
