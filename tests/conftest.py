"""For every test: a quiet TensorFlow, the same seeds, and hypothesis's profile for `make test`.

What needs no backend lies in no_backend/ and runs by itself, once: `pytest tests/no_backend`. All
the rest runs on the backend of KERAS_BACKEND.
"""

import gc
import os
import tempfile
from pathlib import Path

from xla import quick_flags, share_context

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is loaded
os.environ.setdefault("OSTINATO_POISON", "1")  # scratch memory full of NaN: unwritten values show
# JAX compiles every eager scan anew, in 0.1 s; a cache on disk makes that 0.02 s. To keep there
# what takes less costs more than it saves.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), "ostinato-jax-cache"))
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("XLA_FLAGS", quick_flags())
# Where in Python each operation stands, in every program: nobody reads it here.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import pytest
from hypothesis import settings

NO_BACKEND = Path(__file__).parent / "no_backend"

# The same examples on every run, however slow the machine: a red test stays red when run again.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")

# Tracing makes objects by the thousand, and few are garbage: after 700 each is too often to look.
gc.set_threshold(50_000, 10, 10)


def _within_no_backend(config) -> list[bool]:
    """Of each path that is asked for, whether it needs no backend."""
    paths = [Path(config.invocation_params.dir, name.split("::")[0]) for name in config.args]
    return [NO_BACKEND in (path.resolve(), *path.resolve().parents) for path in paths]


def pytest_configure(config):
    """Refuses to mix the two; and knows the marks of Keras's own tests."""
    config.addinivalue_line("markers", "requires_trainable_backend: of Keras's, true of all ours")
    within = _within_no_backend(config)
    if any(within) and not all(within):
        raise pytest.UsageError("tests/no_backend imports no framework: run it by itself.")
    if os.environ.get("KERAS_BACKEND") == "jax" and not any(within):
        share_context()


def pytest_ignore_collect(collection_path, config):
    """Of the whole suite, all but what needs no backend."""
    return True if collection_path == NO_BACKEND and not all(_within_no_backend(config)) else None


@pytest.fixture(autouse=True, scope="module")
def _few_objects_to_look_through():
    """What the tests before have left isn't looked through again and again.

    Keras and TensorFlow keep much of it: millions of objects. Collecting garbage was a third of the
    time by the end, and what TensorFlow says of a graph that it can't save took 20 s to find.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds():
    import keras

    keras.utils.set_random_seed(20)


def pytest_report_header(config):
    """Says what the tests ran on."""
    if all(_within_no_backend(config)):
        return "without Keras or a backend"
    import keras

    return f"keras {keras.__version__} on {keras.config.backend()}, from {keras.__path__[0]}"
