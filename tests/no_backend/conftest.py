"""No test in this folder, nor what it imports, may bring in Keras or a framework.

That's why they run once, not on each backend. Processes that they start may import what they like.
"""

import sys

import pytest

FRAMEWORKS = ("keras", "jax", "jaxlib", "torch", "tensorflow")


def _imported() -> list[str]:
    return [name for name in FRAMEWORKS if sys.modules.get(name) is not None]


@pytest.fixture(autouse=True)
def _seeds():
    """In the place of the fixture that seeds Keras: it watches that there's none."""
    found = _imported()
    assert not found, f"imported already, by a test before this one or a module: {found}"
    yield
    found = _imported()
    assert not found, f"this test needs no backend, they say here, and has imported {found}"
