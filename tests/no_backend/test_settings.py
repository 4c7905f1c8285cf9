"""use_engine and use_precision, and the environment variables for a whole process."""

import os
import subprocess
import sys
import threading

import pytest

from ostinato.settings import (
    Setting,
    asked_precision,
    check_whole_number,
    forced_engine,
    use_engine,
    use_precision,
)

EACH = [
    (use_engine, forced_engine, "OSTINATO_ENGINE", ("fused", "compiled", "cudnn", "cuda", "scan")),
    (use_precision, asked_precision, "OSTINATO_PRECISION", ("float32", "bfloat16")),
]
each = pytest.mark.parametrize(("use", "setting", "variable", "names"), EACH)


@each
def test_it_holds_inside_its_block_and_this_thread(use, setting, variable, names):
    before, seen = setting(), []
    with use(names[-1]):
        with use(names[0]):
            assert setting() == names[0]
        with pytest.raises(KeyError), use(names[0]):
            raise KeyError
        assert setting() == names[-1]
        thread = threading.Thread(target=lambda: seen.append(setting()))
        thread.start()
        thread.join()
    assert setting() == before
    assert seen == [before]


@each
@pytest.mark.parametrize("name", ["miopen", "", None, 3])
def test_another_name_is_refused_with_the_list(use, setting, variable, names, name):
    expected = " or ".join(map(repr, names))
    message = rf"^{use.__name__}: expected {expected}, got {name!r}\."
    with pytest.raises(ValueError, match=message), use(name):
        pass


@each
def test_the_environment_sets_it_for_the_process(use, setting, variable, names, monkeypatch):
    monkeypatch.setenv(variable, "")
    assert Setting(variable, names)() is None
    monkeypatch.setenv(variable, names[0])
    of_process = Setting(variable, names)
    assert of_process() == names[0]
    with of_process.to(names[1], "here"):
        assert of_process() == names[1]
    assert of_process() == names[0]
    monkeypatch.setenv(variable, "x")
    with pytest.raises(ValueError, match=rf"^{variable}: expected '{names[0]}' or .*, got 'x'\."):
        Setting(variable, names)


@pytest.mark.parametrize("least", [0, 1])
def test_what_the_core_reads_as_a_number_is_one(least, monkeypatch):
    for text in ("", " ", str(least), " 12 "):
        monkeypatch.setenv("OSTINATO_OF_A_TEST", text)
        check_whole_number("OSTINATO_OF_A_TEST", least)
    for text in ("all", "1e9", "-1", "2.5", "²", str(least - 1)):
        monkeypatch.setenv("OSTINATO_OF_A_TEST", text)
        expected = f"^OSTINATO_OF_A_TEST: expected a whole number of at least {least}, got '{text}'"
        with pytest.raises(ValueError, match=expected):
            check_whole_number("OSTINATO_OF_A_TEST", least)


def test_the_package_refuses_a_number_of_threads_that_is_none():
    code = "import ostinato.settings"
    environment = {**os.environ, "OSTINATO_NUM_THREADS": "all"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "OSTINATO_NUM_THREADS: expected a whole number of at least 1, got 'all'" in answer.stderr


def test_the_package_reads_both_variables():
    code = "import ostinato.settings as s; print(s.forced_engine(), s.asked_precision())"
    environment = {**os.environ, **{variable: names[0] for _, _, variable, names in EACH}}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "fused float32\n", done.stderr
