"""For every test: a quiet TensorFlow, the same seeds, and hypothesis's profile for `make test`."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is loaded
os.environ.setdefault("OSTINATO_POISON", "1")  # scratch memory full of NaN: unwritten values show
# JAX compiles every eager scan anew, in 0.1 s; a cache on disk makes that 0.02 s.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), "ostinato-jax-cache"))
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras
import pytest
from hypothesis import settings

# The same examples on every run, however slow the machine: a red test stays red when run again.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(20)


def pytest_report_header():
    """Says what the tests ran on."""
    return f"keras {keras.__version__} on {keras.config.backend()}, from {keras.__path__[0]}"
