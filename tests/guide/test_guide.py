"""The guide as a whole, on a fraction of the digits: exit status, table, report."""

import base64
import contextlib
import io
import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("pygments")

from ostinato.guide import course, report
from ostinato.guide.course import SECTIONS
from ostinato.guide.digits import shipped
from ostinato.guide.section import Fact, Findings, Picture, Result, Row, Run, Section
from support import WHOLE

if not WHOLE:
    pytest.skip("on PyTorch, and in `make long`", allow_module_level=True)


class Page(HTMLParser):
    """Collects what a browser would load, the ids, and the links into the page."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.ids, self.targets, self.pictures = [], set(), set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        self.pictures += tag == "figure"
        if tag == "a":
            self.targets.add(values["href"])
        else:
            self.loaded += [values[name] for name in ("src", "href", "srcset") if name in values]
        assert tag not in {"script", "iframe", "object", "embed"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One quick run: its exit status, what it printed, its report."""
    folder = tmp_path_factory.mktemp("guide") / "made" / "by the run"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = course.run(epochs=2, output=str(folder), quick=True)
    return status, printed.getvalue(), (folder / "report.html").read_text(encoding="utf-8")


def test_every_section_shows_what_it_should(finished):
    status, printed, _ = finished
    assert "FAILED" not in printed
    assert status == 0


def test_the_table_names_every_section_and_its_seconds(finished):
    table = finished[1].rpartition("what it showed")[2]
    for number, section in enumerate(SECTIONS, 1):
        assert re.search(rf"{number}\. {section.title} +ok .*\d\.\d$", table, re.MULTILINE)


def test_the_console_tells_which_digits_and_shows_progress(finished):
    printed = finished[1]
    assert "1,536 to train on, 320 unseen; a small part of MNIST, shipped with Ostinato" in printed
    assert "Epoch 2/2" in printed
    assert "24/24" in printed  # Keras's progress bar


def test_the_report_loads_nothing(finished):
    page = Page(finished[2])
    assert page.loaded
    assert all(address.startswith("data:") for address in page.loaded)
    assert "@import" not in finished[2]
    assert "url(" not in finished[2]


def test_the_pictures_are_whole_and_name_nothing_to_load(finished):
    pictures = re.findall(r'<img [^>]*src="data:image/svg\+xml;base64,([^"]+)"', finished[2])
    assert len(pictures) == 1 + Page(finished[2]).pictures  # the banner, and one a figure
    for picture in pictures:
        text = base64.b64decode(picture, validate=True).decode()
        assert text.rstrip().endswith("</svg>")
        assert "<!DOCTYPE" not in text
        assert not re.search(r'(?:href|src)="(?!#|data:)', text)


def test_the_report_holds_each_section_its_facts_and_the_code_that_ran(finished):
    text = finished[2]
    page = Page(text)
    assert page.targets == {f"#{section.slug}" for section in SECTIONS}
    assert {section.slug for section in SECTIONS} <= page.ids
    assert "not all went as it should" not in text
    assert "NestedCell" in text
    assert re.search(r"(\d+) of \1</dt><dd>facts checked in this run hold", text)


def broken(run):
    return Findings("all is well", [Fact("two and two make", "5", held=False)])


def stops(run):
    raise ValueError("no such <layer>")


def fine(run):
    return Findings("all is well", [Fact("two and two make", "4", held=True)])


@pytest.mark.parametrize(
    ("culprit", "said"),
    [(broken, "not so: two and two make (5)"), (stops, "stopped: ValueError: no such <layer>")],
)
def test_a_section_that_fails_fails_the_run_and_the_others_go_on(culprit, said, tmp_path, capsys):
    sections = [Section("Culprit", "", culprit), Section("Other", "", fine)]
    status = course.run(epochs=1, output=str(tmp_path), quick=True, sections=sections)
    printed = capsys.readouterr().out
    assert status == 1
    assert re.search(rf"1\. Culprit +FAILED +{re.escape(said)}", printed)
    assert re.search(r"2\. Other +ok +all is well", printed)
    assert "1 of 2 sections did not show what they should" in printed
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not all went as it should: Culprit" in text
    assert "<layer>" not in text


def shared():
    return Run(shipped("here").part(64, 64), epochs=1, quick=True)


def test_a_wrong_answer_is_not_taken_for_a_right_one():
    result = Result(Section("S", "", fine), 1.0, fine(shared()))
    assert result.passed
    wrong = Result(result.section, 1.0, broken(shared()))
    assert not wrong.passed
    assert "FAILED" in course.table([wrong])
    assert '<li class="bad">' in report.page([wrong], shared(), 1.0)


def test_the_report_escapes_what_it_is_told():
    facts = [Fact("a < b & it's", "<i>", held=True)]
    findings = Findings("<b>", facts, summary=[Row("x < y", "(1,)", 1234)])
    text = report.page([Result(Section("A, b", "", fine, ["x < 'y'"]), 1.0, findings)], shared(), 1)
    assert "a &lt; b &amp; it\u2019s <b>&lt;i&gt;</b>" in text
    assert "<td>x &lt; y</td>" in text
    assert "1,234" in text
    assert "'y'</span>" in text  # code keeps its quotes
    assert '<section id="a-b">' in text


@pytest.mark.parametrize(
    ("wide", "code", "facts", "where"),
    [
        ([False], "x\ny", 5, "code"),
        ([False], "x\n" * 20, 5, "facts"),
        ([False, True], "x\n" * 20, 5, "facts"),
        ([False, False], "x", 1, None),
        ([True], "x", 1, None),
    ],
)
def test_a_small_picture_alone_stands_where_there_is_room(wide, code, facts, where):
    pictures = [Picture("data:,", "", "", wide=each) for each in wide]
    findings = Findings("", [Fact("", "", held=True)] * facts, pictures)
    placed = report.place(Result(Section("S", "", fine, [code]), 1.0, findings))
    beneath = [picture for picture in pictures if picture.wide or where is None]
    assert placed == {"code": [], "facts": [], "beneath": beneath} | (
        {where: [pictures[0]]} if where else {}
    )
