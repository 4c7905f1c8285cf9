"""For every test: a quiet TensorFlow, the same seeds, and hypothesis's profile for `make test`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is loaded

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
