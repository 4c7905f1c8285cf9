"""The comparisons on which the guide's facts rest: what differs must not pass."""

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("pygments")

from ostinato.guide.report import highlight
from ostinato.guide.section import agree, body, differ, equal, whole


@pytest.mark.parametrize(
    ("right", "held"),
    [([1.0, 2.0], True), ([1.0, 2.001], False), ([1.0, np.nan], False), ([1.0], False)],
)
def test_agree(right, held):
    left = np.array([1.0, 2.0])
    assert agree("", left, np.array(right)).held is held
    assert agree("", [left, left], [left, np.array(right)]).held is held


def test_agree_says_when_nothing_differs():
    assert agree("", np.ones(3), np.ones(3)).seen == "bit for bit"
    assert agree("", np.ones(3), np.ones(3) + 1e-6).seen == "largest difference 1.0e-06"


def test_differ_and_equal():
    assert not differ("", np.ones(3), np.ones(3)).held
    assert differ("", np.ones(3), np.zeros(3)).held
    assert equal("", 1234, 1234).seen == "1,234"
    assert equal("", "(4, 10)", "(4, 9)").seen == "(4, 10), expected (4, 9)"


def example():
    first = ["<one>"]  # a comment
    first.append(2)
    return first


def test_code_is_shown_as_it_stands_and_coloured():
    assert whole(example).startswith("def example():\n    first = ")
    assert body(example) == 'first = ["<one>"]  # a comment\nfirst.append(2)'
    shown = highlight(body(example))
    assert '<span class="s2">"&lt;one&gt;"</span>' in shown
    assert '<span class="c1"># a comment</span>' in shown
    assert '<span class="mi">2</span>' in shown
