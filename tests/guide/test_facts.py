"""The comparisons on which the guide's facts rest: what differs must not pass."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from ostinato.guide.course import agree, differ, equal
from ostinato.guide.highlight import body, highlight, whole
from ostinato.guide.nested import NestedCell


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
    """Isn't shown."""
    first = ["<one>"]  # a comment
    first.append(2)
    return first


def test_code_is_shortened_and_coloured():
    assert body(example) == 'first = ["<one>"]  # a comment\nfirst.append(2)'
    assert highlight(body(example)) == (
        'first = [<span class="string">&quot;&lt;one&gt;&quot;</span>]  '
        '<span class="comment"># a comment</span>\n'
        'first.append(<span class="number">2</span>)'
    )
    assert "def call(" in whole(NestedCell)
    assert '"""' not in whole(NestedCell)
