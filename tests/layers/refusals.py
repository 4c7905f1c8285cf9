"""How the tests of errors ask for one."""

import pytest


def refuses(words, call, *arguments, **keywords):
    """Asserts that a call raises an error that has all these words in it."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call(*arguments, **keywords)
    for word in [words] if isinstance(words, str) else words:
        assert word in str(caught.value), f"{word!r} isn't in: {caught.value}"
