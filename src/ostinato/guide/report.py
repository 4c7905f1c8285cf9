"""The report: one HTML page that holds its style and its pictures, and loads nothing."""

import importlib.resources
from collections.abc import Iterable, Sequence
from html import escape

import keras

from ostinato.guide import environment
from ostinato.guide.course import Course, Fact, Picture, Result, Row
from ostinato.guide.highlight import highlight

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ostinato: the Keras RNN guide</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(results: Sequence[Result], course: Course, seconds: float) -> str:
    """Returns the whole page."""
    style = importlib.resources.files("ostinato.guide") / "report.css"
    parts = [
        _head(results, course, seconds),
        "<main>",
        _contents(results),
        *(_section(number, result) for number, result in enumerate(results, 1)),
        _environment(course, seconds),
        "</main>",
    ]
    return PAGE.format(style=style.read_text(encoding="utf-8"), body="\n".join(parts))


def _head(results: Sequence[Result], course: Course, seconds: float) -> str:
    banner = f'<img class="banner" src="{course.banner}" alt="">' if course.banner else ""
    return f"""<header>
{banner}
<div class="column">
<p class="eyebrow">Ostinato · report of <code>ostinato guide</code></p>
<h1>Keras&rsquo;s guide to recurrent networks, run from its first section to its last</h1>
<p class="lead">{_lead(results, course, seconds)}</p>
<dl class="tiles">{"".join(_tile(*tile) for tile in _tiles(results, course))}</dl>
</div>
</header>"""


def _lead(results: Sequence[Result], course: Course, seconds: float) -> str:
    failed = [result.section.title for result in results if not result.passed]
    ran = (
        f"Ostinato&rsquo;s layers ran every section on {_text(environment.framework())} in "
        f"{seconds:.0f} seconds"
    )
    if failed:
        names = _text(", ".join(failed))
        return f'{ran}, and <strong class="bad">not all went as it should: {names}</strong>.'
    return (
        f"{ran}, showed in each what the guide says, and learnt to read "
        f"{len(course.digits.x_train):,} handwritten digits row by row."
    )


def _tiles(results: Sequence[Result], course: Course) -> Iterable[tuple[str, str]]:
    facts = [fact for result in results if result.findings for fact in result.findings.facts]
    yield f"{sum(fact.held for fact in facts)} of {len(facts)}", "facts checked in this run hold"
    yield from course.figures


def _tile(value: str, meaning: str) -> str:
    return f"<div><dt>{_text(value)}</dt><dd>{_text(meaning)}</dd></div>"


def _contents(results: Sequence[Result]) -> str:
    rows = "\n".join(
        f'<tr><td class="number">{number}</td>'
        f'<td><a href="#{result.section.slug}">{_text(result.section.title)}</a></td>'
        f"<td>{_mark(result.passed)} {_text(result.showed)}</td>"
        f'<td class="number">{result.seconds:.1f}</td></tr>'
        for number, result in enumerate(results, 1)
    )
    return f"""<section class="contents">
<h2>What was shown</h2>
<div class="scroll"><table>
<thead><tr><th></th><th>Section</th><th>What it showed</th><th class="number">Seconds</th></tr>
</thead>
<tbody>
{rows}
</tbody>
</table></div>
</section>"""


def _section(number: int, result: Result) -> str:
    section, findings = result.section, result.findings
    left = "".join(f"<pre><code>{highlight(code)}</code></pre>" for code in section.code)
    pictures = list(findings.pictures) if findings else []
    if findings is None:
        right = f'<p class="bad">It stopped: {_text(result.error or "")}</p>'
    else:
        left += _summary(findings.summary)
        right = _facts(findings.facts)
    small = [picture for picture in pictures if not picture.wide]
    if left and len(small) == 1:  # two stand side by side; one alone goes where there's room
        pictures.remove(small[0])
        if left.count("\n") + left.count("<tr>") < 2 * right.count("<li"):
            left += _picture(small[0])
        else:
            right += _picture(small[0])
    both = f'<div class="pair"><div>{left}</div><div>{right}</div></div>' if left else right
    below = "".join(_picture(picture) for picture in pictures)
    return f"""<section id="{section.slug}">
<h2><span class="index">{number}</span>{_text(section.title)}</h2>
<p class="about">{_text(section.lead)}</p>
{both}
{f'<div class="pictures">{below}</div>' if below else ""}
</section>"""


def _facts(facts: Sequence[Fact]) -> str:
    lines = "".join(
        f'<li class="{"good" if fact.held else "bad"}">{_mark(fact.held)}'
        f"<span>{_text(fact.claim)} <b>{_text(fact.seen)}</b></span></li>"
        for fact in facts
    )
    return f'<ul class="facts">{lines}</ul>'


def _summary(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f"<tr><td>{_text(row.layer)}</td><td>{_text(row.shape)}</td>"
        f'<td class="number">{row.parameters:,}</td></tr>'
        for row in rows
    )
    return (
        '<div class="scroll"><table class="summary"><thead><tr><th>Layer</th><th>Output</th>'
        f'<th class="number">Weights</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _picture(picture: Picture) -> str:
    image = f'<img src="{picture.source}" alt="{_text(picture.alt)}">'
    kind = "wide" if picture.wide else "small"
    return (
        f'<figure class="{kind}"><div class="scroll">{image}</div>'
        f"<figcaption>{_text(picture.caption)}</figcaption></figure>"
    )


def _environment(course: Course, seconds: float) -> str:
    digits = course.digits
    values = {
        **environment.describe(),
        "Digits": str(digits),
        "The whole run": f"{seconds:.0f} seconds" + (", shortened by --quick" * course.quick),
    }
    lines = "".join(
        f'<div class="{"broad" if len(value) > 60 else "brief"}">'
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
        for name, value in values.items()
    )
    command = f"KERAS_BACKEND={keras.config.backend()} ostinato guide --epochs {course.epochs}"
    return f"""<section class="environment">
<h2>Where and how</h2>
<dl>{lines}</dl>
<p class="about">To run it again: <code>{command}{" --quick" * course.quick}</code>. The digits are
of the MNIST database by Y. LeCun, C. Cortes and C. Burges. The guide is &ldquo;Recurrent Neural
Networks (RNN) with Keras&rdquo; by the TensorFlow authors.</p>
</section>"""


def _text(text: str) -> str:
    return escape(text).replace("&#x27;", "&rsquo;")


def _mark(good: bool) -> str:
    return '<span class="mark">✓</span>' if good else '<span class="mark bad">✗</span>'
