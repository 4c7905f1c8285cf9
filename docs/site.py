"""Lays out build/docs, of which Zensical makes the site.

The pages in docs/ are written to be read on GitHub too. What a site needs instead:

- CHANGELOG.md and CONTRIBUTING.md are pages of their own, and a link to README leads to the start.
- A link to another file of the repository leads to a copy of it; one to a folder is its text.
- `<!-- ::: ostinato.accelerate -->` becomes that object's reference, with its own heading.
- A paragraph that begins with "On GitHub" isn't for the site.
"""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs"
LAID_OUT = ROOT / "build" / "docs"
# Files outside docs/ that are pages of the site.
ALIASES = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}
START = {"README.md": "index.md"}

LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<file>(?!https?:|mailto:)[^)#\s]+)(?P<rest>[^)]*)\)")
REFERENCE = re.compile(
    r"^#+ \S+\n\n<!-- (?P<name>::: \S+)(?P<options>.*?) ?-->$", re.MULTILINE | re.DOTALL
)
ON_GITHUB = re.compile(r"^On GitHub (?:.+\n)+\n?", re.MULTILINE)


def lay_out(target: Path = LAID_OUT) -> None:
    """Writes all pages, and the files that they link to, into a fresh folder."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(PAGES, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in [*PAGES.glob("*.md"), *(ROOT / name for name in ALIASES)]:
        text = for_site(page, target)
        (target / ALIASES.get(page.name, page.name)).write_text(text, encoding="utf-8")


def for_site(page: Path, target: Path) -> str:
    """A page's text as the site has it; copies what it links to outside docs/ into the target."""
    text = ON_GITHUB.sub("", page.read_text(encoding="utf-8"))
    text = REFERENCE.sub(r"\g<name>\g<options>", text)

    def led(match: re.Match[str]) -> str:
        if (page.parent / match["file"]).is_dir():
            return match["text"]
        return f"[{match['text']}]({_led(page, match['file'], target)}{match['rest']})"

    return LINK.sub(led, text)


def _led(page: Path, link: str, target: Path) -> str:
    """Where a link of the page leads to on the site."""
    file = (page.parent / link).resolve()
    if not file.is_relative_to(ROOT) or not file.exists():
        return link  # the strict build names it
    inside = file.relative_to(PAGES if file.is_relative_to(PAGES) else ROOT).as_posix()
    if file.is_relative_to(PAGES):
        return inside
    if inside in {**ALIASES, **START}:
        return {**ALIASES, **START}[inside]
    copy = target / "files" / inside
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copy)
    return f"files/{inside}"


if __name__ == "__main__":
    lay_out()
