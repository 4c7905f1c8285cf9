"""The documentation site: it builds, offline; what is broken fails; nothing public is left out."""

import argparse
import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ostinato
from ostinato import cli

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = sorted((ROOT / "docs").glob("reference*.md"))
SOURCES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml")
FETCHED = re.compile(
    r"""src=["']?(?:https?:)?//[^"' >]+|<link[^>]+href=["']?https?:[^>]+|url\(["']?(?:https?:)?//"""
)


@pytest.fixture
def copy(tmp_path):
    """What the site is made of, to be spoilt."""
    for name in SOURCES:
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "src").symlink_to(ROOT / "src")
    return tmp_path


def build(folder):
    """Lays the site out and builds it, as `make docs` does; returns what it said, or raises."""
    said = ""
    for command in (
        [sys.executable, "docs/site.py"],
        [sys.executable, "-m", "zensical", "build", "--config-file", "mkdocs.yml", "--strict"],
    ):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        said += done.stdout + done.stderr
        if done.returncode:
            raise AssertionError(said[-4000:])
    return said


def test_it_builds_and_fetches_nothing_from_elsewhere(copy):
    said = build(copy)
    assert "griffe:" not in said, said  # docstrings that name other parameters than there are
    site = copy / "build" / "site"
    for page in site.glob("*.html"):
        fetched = FETCHED.findall(page.read_text(encoding="utf-8"))
        assert not fetched, f"{page.name} fetches {fetched}"
    shown = (site / "reference-layers.html").read_text(encoding="utf-8")
    assert "unit_forget_bias" in shown


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            "[x](nowhere.md) [x](engines.md#nowhere)",
            ("page does not exist", "anchor does not exist"),
        ),
        ("### x\n\n<!-- ::: ostinato.nowhere -->", ("Could not collect 'ostinato.nowhere'",)),
    ],
    ids=["links", "a name"],
)
def test_what_is_broken_fails(copy, broken, said):
    with (copy / "docs" / "engines.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{broken}\n")
    with pytest.raises(AssertionError) as error:
        build(copy)
    assert all(words in str(error.value) for words in said)


def test_the_navigation_has_every_page_and_no_other():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r": (\S+\.md)$", settings, re.MULTILINE)
    of_project = ["changes.md", "contributing.md"]  # made of files outside docs/
    assert sorted(listed) == sorted([*of_project, *(p.name for p in (ROOT / "docs").glob("*.md"))])


def public_layers() -> list[str]:
    """`ostinato.layers.__all__`, without importing it, which would need Keras."""
    source = (ROOT / "src" / "ostinato" / "layers" / "__init__.py").read_text(encoding="utf-8")
    (value,) = re.findall(r"^__all__ = (\[.*?\])", source, re.MULTILINE | re.DOTALL)
    return ast.literal_eval(value)


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text(encoding="utf-8") for page in REFERENCES)
    shown = set(re.findall(r"^<!-- ::: (\S+)", text, re.MULTILINE))
    names = {
        f"ostinato.{name}" for name in set(ostinato.__all__) - {"__version__", "layers", "Shape"}
    }
    names |= {f"ostinato.layers.{name}" for name in public_layers()}
    assert names <= shown, names - shown


def test_every_option_of_the_command_line_is_in_the_reference():
    text = (ROOT / "docs" / "reference-command-line.md").read_text(encoding="utf-8")
    parser = cli._parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        section = text.partition(f"## ostinato {name}\n")[2].partition("\n## ")[0]
        assert section, f"no section about `ostinato {name}`"
        for action in command._actions:
            for option in action.option_strings:
                known = option in ("-h", "--help") or f"| `{option}` |" in section
                assert known, f"`ostinato {name} {option}` isn't in the reference"
            choices = action.choices if action.metavar is None else None
            left = [one for one in choices or () if f"`{one}`" not in section]
            assert not left, f"`ostinato {name}` takes {left}, and the reference doesn't say so"


def test_every_environment_variable_is_in_the_reference():
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "native" / "core").glob("*.cpp")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    variables = {*re.findall(r'"(OSTINATO_[A-Z_]+)"', text)}
    assert {"OSTINATO_ENGINE", "OSTINATO_TARGET", "OSTINATO_CACHE"} <= variables
    page = (ROOT / "docs" / "reference-command-line.md").read_text(encoding="utf-8")
    of_tests = {"OSTINATO_POISON"}  # CONTRIBUTING has it
    left = {name for name in variables - of_tests if f"`{name}`" not in page}
    assert not left, left
