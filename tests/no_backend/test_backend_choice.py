"""Which backend is taken, and what is said where it can't be."""

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from ostinato import backend
from ostinato.backend import Choice
from ostinato.registering import once_keras_is_imported

IMPORT = "import sys, ostinato; print(ostinato.layers.LSTM.__name__, ostinato.Shape(2).__class__)"


@pytest.fixture
def home(monkeypatch, tmp_path):
    """No choice made anywhere: no variable, an empty Keras home, and Keras not yet imported."""
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    without_keras(monkeypatch)
    return tmp_path


def without_keras(monkeypatch):
    """Keras isn't imported; what a test imports by that name is gone after it."""
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.delitem(sys.modules, "keras")


@pytest.fixture
def have(monkeypatch):
    """have("jax", "torch"): makes these the installed backends."""
    return lambda *names: monkeypatch.setattr(backend, "installed", lambda: names)


def write_config(home, **config):
    path = home / "keras.json"
    path.write_text(json.dumps(config))
    return path


class TestConfigured:
    def test_by_default(self, home):
        assert backend.configured() == ("tensorflow", "Keras's default; KERAS_BACKEND isn't set")

    def test_by_keras_json(self, home):
        path = write_config(home, backend="torch")
        assert backend.configured() == ("torch", f"by {path}; KERAS_BACKEND isn't set")

    def test_in_the_users_home(self, home, monkeypatch):
        monkeypatch.delenv("KERAS_HOME")
        monkeypatch.setenv("HOME", str(home))
        (home / ".keras").mkdir()
        write_config(home / ".keras", backend="torch")
        assert backend.configured().name == "torch"

    def test_the_variable_comes_before_the_file(self, home, monkeypatch):
        write_config(home, backend="torch")
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        assert backend.configured() == ("jax", "by the environment variable KERAS_BACKEND")

    def test_an_empty_variable_is_none(self, home, monkeypatch):
        monkeypatch.setenv("KERAS_BACKEND", "")
        assert backend.configured().name == "tensorflow"

    def test_an_imported_keras_comes_before_all(self, home, monkeypatch):
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        running_on(monkeypatch, "torch")
        assert backend.configured() == ("torch", "Keras is already imported")

    @pytest.mark.parametrize("text", ["not JSON", "[]", "{}", '{"backend": 3}'])
    def test_a_file_that_names_none(self, home, text):
        (home / "keras.json").write_text(text)
        assert backend.configured().name == "tensorflow"


def running_on(monkeypatch, name):
    keras = SimpleNamespace(config=SimpleNamespace(backend=lambda: name))
    monkeypatch.setitem(sys.modules, "keras", keras)


class TestInstalled:
    def test_a_missing_one_is_left_out(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        assert "torch" not in backend.installed()

    def test_a_folder_without_code_is_no_framework(self, monkeypatch, tmp_path):
        (tmp_path / "torch").mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        assert "torch" not in backend.installed()


class TestRequire:
    def test_an_installed_one(self, home, have, monkeypatch):
        have("torch")
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        backend.require()

    def test_one_that_is_not_installed(self, home, have):
        have("jax", "torch")
        with pytest.raises(ImportError) as caught:
            backend.require()
        assert str(caught.value) == (
            "ostinato: Keras is configured for 'tensorflow' (Keras's default; KERAS_BACKEND isn't "
            "set), which isn't installed. Installed: jax and torch. To run on one that is, name it "
            "with `export KERAS_BACKEND=jax`, or in Python, before Keras is imported, with "
            '`os.environ["KERAS_BACKEND"] = "jax"`; or install tensorflow with '
            "`pip install tensorflow`."
        )

    def test_one_that_is_no_backend_of_ours(self, home, have, monkeypatch):
        have("jax")
        monkeypatch.setenv("KERAS_BACKEND", "numpy")
        with pytest.raises(ImportError, match=r"'numpy' .*expected one of jax, torch and"):
            backend.require()

    def test_none_is_installed(self, home, have):
        have()
        with pytest.raises(ImportError, match=r"None of .*pip install jax"):
            backend.require()


class TestChoose:
    def test_as_asked(self, home, have, monkeypatch):
        have("jax", "torch")
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        assert backend.choose("torch") == ("torch", "as asked")
        assert os.environ["KERAS_BACKEND"] == "torch"

    def test_as_asked_but_missing(self, home, have):
        have("jax")
        with pytest.raises(ImportError, match=r"got 'torch'.*Installed: jax.*pip install torch"):
            backend.choose("torch")
        assert "KERAS_BACKEND" not in os.environ

    @pytest.mark.parametrize("available", [("jax", "torch"), ("torch", "tensorflow")])
    def test_the_first_installed(self, home, have, monkeypatch, available):
        monkeypatch.setenv("KERAS_BACKEND", "")  # so that it's put back afterwards
        have(*available)
        choice = Choice(available[0], "the first installed of jax, torch and tensorflow")
        assert backend.choose() == choice
        assert os.environ["KERAS_BACKEND"] == available[0]

    def test_the_variable(self, home, have, monkeypatch):
        have("jax", "tensorflow")
        monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
        assert backend.choose() == ("tensorflow", "by the environment variable KERAS_BACKEND")

    def test_a_variable_that_cannot_be_followed_is_told(self, home, have, monkeypatch):
        have("jax")
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        choice = backend.choose()
        assert choice.name == "jax"
        assert choice.reason.endswith(
            "'torch', by the environment variable KERAS_BACKEND, isn't installed"
        )

    def test_keras_json(self, home, have, monkeypatch):
        monkeypatch.setenv("KERAS_BACKEND", "")
        have("jax", "torch")
        write_config(home, backend="torch")
        assert backend.choose().name == "torch"

    def test_the_keras_json_that_keras_writes_itself(self, home, have, monkeypatch):
        monkeypatch.setenv("KERAS_BACKEND", "")
        have("jax", "tensorflow")
        write_config(home, backend="tensorflow")
        assert backend.choose().name == "jax"

    def test_none_is_installed(self, home, have):
        have()
        with pytest.raises(ImportError, match="None of jax, torch and tensorflow is installed"):
            backend.choose()

    def test_keras_already_runs_on_another(self, home, have, monkeypatch):
        have("jax", "torch")
        running_on(monkeypatch, "torch")
        assert backend.choose() == ("torch", "Keras is already imported")
        with pytest.raises(ImportError, match=r"expected to run on 'jax', but .* on 'torch'"):
            backend.choose("jax")


@pytest.fixture
def python(tmp_path):
    """python("-c", code): a new process with nothing chosen, in which `hidden` isn't installed."""
    # Python imports sitecustomize before anything else; None in sys.modules is "not found".
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "sys.modules.update(dict.fromkeys(os.environ['HIDDEN'].split()))\n"
        "class Guide:\n"
        "    def run(self, **options):\n"
        "        import keras, ostinato\n"
        "        print('guide on', keras.config.backend(), ostinato.layers.LSTM.__name__)\n"
        "        return 3\n"
        "sys.modules['ostinato.guide.course'] = Guide()\n"
    )
    (tmp_path / "ostinato").write_text(
        "import sys\nfrom ostinato.cli import main\nsys.exit(main())\n"
    )

    def run(*arguments, hidden="", **variables):
        paths = [tmp_path, *sys.path]  # with the Keras that this process runs on
        environment = {key: os.environ[key] for key in os.environ if key != "KERAS_BACKEND"}
        environment |= {"HIDDEN": hidden, "KERAS_HOME": str(tmp_path)} | variables
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths)  # noqa: PTH100
        return subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    "use",
    [
        "import ostinato; ostinato.layers",
        "from ostinato.layers import LSTM",
        "import ostinato.layers.lstm",
        "from ostinato import accelerate",
        "import ostinato, keras",
    ],
)
def test_the_first_use_of_keras_without_its_backend_says_what_to_do(python, use):
    done = python(
        "-c", f"import ostinato; ostinato.Stream.load; print('so far'); {use}", hidden="tensorflow"
    )
    assert done.returncode == 1
    assert done.stdout == "so far\n", done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ostinato: Keras is configured for 'tensorflow' (")
    assert "export KERAS_BACKEND=jax" in last


def test_keras_on_a_backend_that_is_none_of_ours_is_left_alone(python):
    code = "import ostinato, keras; print(keras.config.backend()); ostinato.layers"
    done = python("-c", code, KERAS_BACKEND="numpy")
    assert done.stdout == "numpy\n", done.stderr
    assert "expected one of jax, torch and tensorflow" in done.stderr.splitlines()[-1]


def test_what_there_is_shows_before_it_is_imported(python):
    code = (
        "import ostinato, sys\n"
        "print({*ostinato.__all__} <= {*dir(ostinato)}, 'keras' in sys.modules)\n"
        "for name in ('LSTM', 'GRUCell', 'lstm', 'accelrate', 'foo'):\n"
        "    try: getattr(ostinato, name)\n"
        "    except AttributeError as error: print(error, error.name, error.obj is ostinato)\n"
        "names = ostinato._LAYERS\n"
        "print({*names, 'Shape'} == {*ostinato.layers.__all__})\n"
    )
    done = python("-c", code, KERAS_BACKEND="jax")
    no, hint = "module 'ostinato' has no attribute", "; did you mean `ostinato.layers."
    assert done.stdout.splitlines() == [
        "True False",
        f"{no} 'LSTM'{hint}LSTM`? LSTM True",
        f"{no} 'GRUCell'{hint}GRUCell`? GRUCell True",
        f"{no} 'lstm'{hint}LSTM`? lstm True",
        f"{no} 'accelrate'; did you mean `ostinato.accelerate`? accelrate True",
        f"{no} 'foo' foo True",
        "True",
    ], done.stderr


def test_import_with_a_backend_that_is_installed(python):
    done = python("-c", IMPORT, hidden="tensorflow torch", KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "LSTM <class 'ostinato.structure.Shape'>\n"


def test_import_registers_the_layers_for_saved_models(python):
    code = "import ostinato, keras; print(keras.saving.get_registered_object('ostinato>GRU'))"
    done = python("-c", code, hidden="tensorflow torch", KERAS_BACKEND="jax")
    assert "ostinato.layers.gru.GRU" in done.stdout, done.stderr


def test_import_loads_no_framework(python):
    code = (
        "import sys, ostinato; from ostinato import Stream; print("
        "{'keras', 'jax', 'jaxlib', 'torch', 'tensorflow'} & sys.modules.keys())"
    )
    done = python("-c", code, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "set()\n"


def test_import_without_any_backend_is_for_saved_streams(python):
    code = (
        "import ostinato; print(ostinato.Stream.__name__)\n"
        "try: ostinato.LSTM\n"
        "except AttributeError: print('no attribute')\n"
        "try: ostinato.layers\n"
        "except ImportError as error: print(error)\n"
    )
    done = python("-c", code, hidden="jax torch tensorflow keras")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Stream\nno attribute\nostinato: Keras is configured for")
    assert "None of jax, torch and tensorflow is installed" in done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import ostinato; import keras",
        "import keras; import ostinato",
        "import ostinato; from keras.saving import load_model",
    ],
)
def test_saved_models_load_in_any_order_of_imports(python, model_file, imports):
    code = (
        f"{imports}\n"
        "import keras, sys\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "print(type(model.layers[0]).__module__, keras.__spec__.name, keras.__loader__)"
    )
    done = python("-c", code, model_file, hidden="tensorflow torch", KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    assert "ostinato.layers.gru keras" in done.stdout
    assert "ostinato.registering" not in done.stdout  # the import left no trace on Keras


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A .keras file with a layer of ours."""
    path = str(tmp_path_factory.mktemp("models") / "model.keras")
    code = (
        "import keras, sys; from ostinato.layers import GRU\n"
        "keras.Sequential([keras.Input((None, 2)), GRU(2)]).save(sys.argv[1])"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code, path], env=environment, check=True, timeout=120)
    return path


class TestOnceKerasIsImported:
    @pytest.fixture
    def calls(self, monkeypatch, tmp_path):
        """The calls that are made; `import keras` finds a module that fails while BREAK is set."""
        calls = []
        (tmp_path / "keras.py").write_text("import os\nassert 'BREAK' not in os.environ\n")
        without_keras(monkeypatch)
        monkeypatch.syspath_prepend(tmp_path)
        others = [
            f for f in sys.meta_path if type(f).__module__ != once_keras_is_imported.__module__
        ]
        monkeypatch.setattr(sys, "meta_path", others)  # without the one of `import ostinato`
        once_keras_is_imported(lambda: calls.append("keras" in sys.modules))
        return calls

    def test_once(self, calls):
        assert not calls
        import_module("keras")
        import_module("keras")
        assert calls == [True]
        assert "registering" not in repr((sys.modules["keras"].__loader__, sys.meta_path))
        once_keras_is_imported(lambda: calls.append("at once"))
        assert calls == [True, "at once"]

    def test_after_an_import_that_failed(self, calls, monkeypatch):
        monkeypatch.setenv("BREAK", "1")
        for _ in range(2):
            with pytest.raises(AssertionError):
                import_module("keras")
        assert not calls
        monkeypatch.delenv("BREAK")
        import_module("keras")
        assert calls == [True]

    def test_after_a_look_for_it(self, calls):
        assert find_spec("keras") is not None
        assert not calls
        import_module("keras")
        assert calls == [True]

    def test_after_it_was_not_found(self, calls, monkeypatch):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "path", [])
            with pytest.raises(ModuleNotFoundError):
                import_module("keras")
        import_module("keras")
        assert calls == [True]


@pytest.mark.parametrize("command", [["-m", "ostinato"], ["ostinato"]], ids=" ".join)
class TestCommand:
    def test_takes_the_first_installed_and_says_so(self, python, command):
        done = python(*command, "guide", hidden="tensorflow torch")
        assert done.returncode == 3, done.stderr
        assert done.stdout.splitlines() == [
            "Backend: jax (the first installed of jax, torch and tensorflow).",
            "guide on jax LSTM",
        ]

    def test_without_any_backend(self, python, command):
        done = python(*command, "guide", hidden="jax torch tensorflow")
        assert done.returncode == 2
        assert "ostinato: error: expected a backend. None of jax," in done.stderr
        assert "Traceback" not in done.stderr

    def test_version_needs_no_backend(self, python, command):
        done = python(*command, "--version", hidden="jax torch tensorflow keras")
        assert done.returncode == 0, done.stderr
