"""The report: one HTML page that holds its style and its pictures, and loads nothing."""

import datetime
from collections.abc import Mapping, Sequence

import jinja2
import keras
import markupsafe
import pygments
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ostinato.guide.section import Findings, Picture, Result, Run
from ostinato.machine import FRAMEWORKS, describe


def page(results: Sequence[Result], run: Run, seconds: float) -> str:
    """Returns the whole page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ostinato.guide", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_typeset,
    )
    environment.filters["highlight"] = highlight
    facts = [fact for result in results if result.findings for fact in result.findings.facts]
    return environment.get_template("report.html").render(
        results=results,
        run=run,
        seconds=seconds,
        held=sum(fact.held for fact in facts),
        facts=len(facts),
        failed=[result.section.title for result in results if not result.passed],
        framework=framework(),
        backend=keras.config.backend(),
        environment=_environment(run, seconds),
        place=place,
    )


def highlight(code: str) -> markupsafe.Markup:
    """Returns Python as HTML, its tokens in spans whose colours are in report.css."""
    formatter = HtmlFormatter(nowrap=True)
    return markupsafe.Markup(pygments.highlight(code, PythonLexer(), formatter).rstrip())


def place(result: Result) -> Mapping[str, Sequence[Picture]]:
    """Returns which pictures go below the code, which below the facts, which beneath both.

    Two small ones stand side by side beneath; one alone goes where there's room.
    """
    findings = result.findings or Findings("", ())
    small = [picture for picture in findings.pictures if not picture.wide]
    code = sum(code.count("\n") for code in result.section.code) + 2 * len(findings.summary)
    if len(small) != 1 or not (result.section.code or findings.summary):
        return {"code": [], "facts": [], "beneath": findings.pictures}
    beneath = [picture for picture in findings.pictures if picture.wide]
    shorter = "code" if code < 2 * len(findings.facts) else "facts"
    return {"code": [], "facts": [], "beneath": beneath} | {shorter: small}


def framework() -> str:
    """Returns the name and version of Keras's backend."""
    backend = keras.config.backend()
    versions = describe()["versions"]
    version = versions.get(backend) or versions.get(f"{backend}-cpu", "")
    return f"{FRAMEWORKS[backend]} {version}".rstrip()


def _typeset(value: object) -> object:
    """Curls a text's apostrophes; code, which is markup already, stays as it is."""
    if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
        return value.replace("'", "\u2019")
    return value


def _environment(run: Run, seconds: float) -> dict[str, str]:
    machine = describe()
    now = datetime.datetime.now().astimezone()
    return {
        "Ostinato": machine["ostinato"],
        "Keras": keras.version(),
        "Backend": framework(),
        "Native engine": machine["native"],
        "NumPy": machine["versions"]["numpy"],
        "Python": machine["python"],
        "Cores": str(machine["cores"]),
        "Processor": machine["cpu"],
        "System": machine["system"],
        "Date": f"{now:%Y-%m-%d %H:%M %Z}",
        "Digits": str(run.digits),
        "The whole run": f"{seconds:.0f} seconds" + (", shortened by --quick" * run.quick),
    }
