"""The command line's options; which backend it takes is tested in test_backend_choice.py."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

import ostinato
from ostinato import native
from ostinato.checkpoints import EXPECTED
from ostinato.cli import main
from ostinato.engines.table import NAMES
from support import on_one_backend


@pytest.fixture
def guide(monkeypatch):
    """Stands in for the guide, and keeps what it's called with."""
    stand_in = SimpleNamespace(called=[])
    stand_in.run = lambda **options: stand_in.called.append(options) or 0
    monkeypatch.setitem(sys.modules, "ostinato.guide.course", stand_in)
    monkeypatch.setattr("ostinato.guide.course", stand_in, raising=False)
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    return stand_in


def test_the_guides_defaults(guide):
    assert main(["guide"]) == 0
    assert guide.called == [{"epochs": None, "output": "ostinato-guide", "quick": False}]


def test_the_guides_options(guide):
    here = keras.config.backend()
    options = ["--backend", here, "--epochs", "4", "--output", "there", "--quick"]
    assert main(["guide", *options]) == 0
    assert guide.called == [{"epochs": 4, "output": "there", "quick": True}]


def test_says_which_backend(guide, capsys):
    main(["guide"])
    backend = keras.config.backend()
    assert capsys.readouterr().out == f"Backend: {backend} (Keras is already imported).\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune"], "invalid choice: 'tune'"),
        (["guide", "--backend", "numpy"], "invalid choice: 'numpy'"),
        (["guide", "--epochs", "0"], "expected a positive whole number, got '0'"),
        (["guide", "--epochs", "two"], "expected a positive whole number, got 'two'"),
    ],
)
def test_bad_arguments(guide, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not guide.called


@pytest.mark.parametrize(
    ("arguments", "absent", "message"),
    [
        (
            ["guide"],
            ["matplotlib"],
            "ostinato: error: the report needs matplotlib, which Ostinato's extra 'guide' brings: "
            "`pip install '.[guide]'` in a clone, or `pip install matplotlib`\n",
        ),
        (["guide"], ["jinja2", "pygments"], "`pip install jinja2 pygments`"),
        (["bench", "--quick", "--output", "there"], ["matplotlib"], "extra 'bench'"),
    ],
)
def test_a_missing_extra_is_named_before_any_work(capsys, monkeypatch, arguments, absent, message):
    for package in absent:
        monkeypatch.setitem(sys.modules, package, None)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_a_folder_that_cannot_be_written(guide, tmp_path, capsys, monkeypatch):
    def run(**options):
        raise NotADirectoryError(20, "Not a directory", options["output"])

    monkeypatch.setattr(guide, "run", run)
    assert main(["guide", "--output", "file/there"]) == 2
    assert "error: can't write the report into file/there: " in capsys.readouterr().err


@on_one_backend
@pytest.mark.parametrize(
    ("arguments", "variable", "expected"),
    [
        (["explain", "model.keras"], "OSTINATO_ENGINE", " or ".join(map(repr, NAMES))),
        (["guide"], "OSTINATO_PRECISION", "'float32' or 'bfloat16'"),
        (["bench", "--quick"], "OSTINATO_ENGINE", " or ".join(map(repr, NAMES))),
        (["explain", "model.keras"], "OSTINATO_CHECKPOINTS", EXPECTED),
    ],
)
def test_a_setting_in_the_environment_that_there_isnt(arguments, variable, expected):
    done = subprocess.run(
        [sys.executable, "-m", "ostinato", *arguments],
        env={**os.environ, variable: "foo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == f"ostinato: error: {variable}: expected {expected}, got 'foo'.\n"


def test_ctrl_c_leaves_no_traceback(guide, capsys, monkeypatch):
    def run(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(guide, "run", run)
    assert main(["guide"]) == 130
    assert capsys.readouterr().err == "\nostinato: stopped\n"


def test_no_command_shows_what_there_is(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in ("guide", "explain", "bench", "To begin with: `ostinato"))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.keras", "can't load none.keras: File not found"),
        ("a.txt", "expected a .keras, .h5 or .json file"),
    ],
)
def test_what_explain_cannot_read_is_refused_first(file, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("")
    assert main(["explain", file]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_explain_says_which_class_it_does_not_know(tmp_path, monkeypatch, capsys):
    class Mine(keras.layers.Layer):
        def call(self, x):
            return x

    keras.Sequential([keras.Input((3, 2)), Mine(), keras.layers.LSTM(2)]).save(tmp_path / "m.keras")
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    assert main(["explain", str(tmp_path / "m.keras")]) == 2
    shown = capsys.readouterr().err
    assert "m.keras: Could not locate class 'Mine'." in shown
    assert "`print(ostinato.explain(model))`" in shown
    assert "config=" not in shown


@pytest.mark.skipif(bool(native.why_not()), reason="what Keras runs has no program")
def test_export_writes_a_model_and_a_stream(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", keras.config.backend())
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.GRU(3, return_sequences=True)])
    model.save("m.keras")
    assert main(["export", "m.keras", "m.stream"]) == 0
    for name, file in (("tenor.c", "m.keras"), ("alto.c", "m.stream"), ("m.json", "m.stream")):
        assert main(["export", file, name]) == 0
    texts = [Path(f"{name}.h").read_text().replace(name, "_") for name in ("tenor", "alto")]
    assert texts[0] == texts[1]
    assert Path("tenor.c").exists()
    assert "Wrote alto.c and its header." in capsys.readouterr().out
    for name, message in (
        ("m.txt", "expected a name that ends in .c, .json, .stream"),
        ("int.c", "'int' is a keyword of C or C++"),
        ("none/m.c", "No such file or directory"),
    ):
        assert main(["export", "m.stream", name]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", "none.keras", "m.c"]) == 2
    assert "File not found" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"ostinato {ostinato.__version__}\n"
