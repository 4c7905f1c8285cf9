"""What surrounds the code: workflows, versions and the tests' folders agree with one another."""

import re
from pathlib import Path

import pytest
import yaml

import ostinato

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BACKENDS = ("jax", "torch", "tensorflow")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def targets() -> set[str]:
    """Every target of the Makefile by name."""
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    plain = {name for name in phony.replace("\\\n", " ").split() if name.replace("-", "").isalpha()}
    patterns = re.findall(r"^(?:\$\(BACKENDS:%=)?([\w-]+)-%", MAKEFILE, re.MULTILINE)
    return plain | {f"{name}-{backend}" for name in patterns for backend in BACKENDS}


def expanded(text: str, matrix: dict) -> list[str]:
    """A text for each value of the workflow's matrix that it names."""
    texts = [text]
    for name in {*re.findall(r"\$\{\{ matrix\.(\w+) \}\}", text)}:
        values = [*matrix.get(name, []), *(one.get(name) for one in matrix.get("include", []))]
        assert any(values), f"the matrix has no {name}, which would be empty in: {text}"
        hole = "${{ matrix." + name + " }}"
        texts = [one.replace(hole, str(value)) for one in texts for value in values if value]
    return texts


def made(command: str) -> list[str]:
    """The targets of the `make`s in a command."""
    calls = re.findall(r"(?:^|[;&|] *)make ([^|;&\n]*)", command, re.MULTILINE)
    return [word for call in calls for word in call.split() if "=" not in word]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_makes_what_there_is_to_make(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}  # a job that needs more says so
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
        matrix = job.get("strategy", {}).get("matrix", {})
        expanded(str(job), matrix)  # what it's called and runs on, too
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), f"{name}: {step}"
            for command in expanded(step.get("run", ""), matrix):
                assert {*made(command)} <= targets(), f"{name}: {command}"


def test_the_workflows_make_all_that_make_test_does():
    (needed,) = re.findall(r"^PARTS := (.*)$", MAKEFILE, re.MULTILINE)
    wanted = {*re.findall(r"(?<!%=)\b[\w-]+\b(?!\))", re.sub(r"\$\([^)]*\)", "", needed))}
    wanted |= {f"{kind}-{backend}" for kind in ("test", "oldest") for backend in BACKENDS}
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    done = {
        target
        for job in workflow["jobs"].values()
        for step in job["steps"]
        for command in expanded(step.get("run", ""), job.get("strategy", {}).get("matrix", {}))
        for target in made(command)
    }
    assert wanted <= done, wanted - done


@pytest.mark.parametrize("variable", ["NOT_ON_OLDEST", "ON_OLDEST_WITH_TORCH"])
def test_every_test_that_the_oldest_keras_leaves_out_is_there(variable):
    (listed,) = re.findall(rf"^{variable} := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    for name in listed.replace("\\\n", " ").split():
        assert [*(ROOT / "tests").glob(name)], f"{variable} names tests/{name}"


def test_the_oldest_keras_is_the_one_that_is_declared():
    (oldest,) = re.findall(r"^OLDEST_KERAS := (\S+)$", MAKEFILE, re.MULTILINE)
    assert f'"keras>={oldest.removesuffix(".0")}"' in PROJECT


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ostinato.__version__
    assert f'license = "{citation["license"]}"' in PROJECT
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_constraints_are_exact_and_name_every_package_that_is_pinned_here():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {"keras", "jax", "jaxlib", "numpy", "torch", "pytest"} <= pinned.keys()
    for name, version in re.findall(r'"([\w-]+)==([\d.]+)"', PROJECT):
        assert pinned[name.lower()] == version, name
    (torch,) = re.findall(r"^TORCH \?= torch==(\S+)$", MAKEFILE, re.MULTILINE)
    assert pinned["torch"] == torch
