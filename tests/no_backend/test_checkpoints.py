"""What is kept of a sequence, by what the user asks for."""

import re

import numpy as np
import pytest

from ostinato.checkpoints import checked, timesteps_between

KEPT, STATES = 1536, 512  # bytes a row and timestep: an LSTM of 64 units in float32


AMOUNTS = {
    "100B": 100,
    "64KB": 64_000,
    "64 MB": 64_000_000,
    ".5MB": 500_000,
    "1.MB": 1_000_000,
    "1.5 gb": 1_500_000_000,
    "1TB": 10**12,
    "2KiB": 2048,
    "2 mib": 2 << 20,
    "2GiB": 2 << 30,
    "0.5 TiB": 1 << 39,
}


def test_more_memory_than_a_float_can_say():
    assert timesteps_between(checked("9" * 400 + "GB", "here"), 0, (2, 1), KEPT, STATES) == 0


@pytest.mark.parametrize("text", AMOUNTS)
def test_an_amount_of_memory_is_read(text):
    row = AMOUNTS[text] / 2  # of two rows and one timestep
    for kept, every in ((row / 2, 0), (row, 32)):
        found = timesteps_between(checked(text, "here"), 0, (2, 1), kept, STATES)
        assert found == every


@pytest.mark.parametrize("value", [0, 300, "300", " 300 ", np.int64(300), np.uint8(30)])
def test_a_number_of_timesteps_is_taken(value):
    assert int(checked(value, "here")) == int(value)


REFUSED = [-1, 1.5, None, True, np.True_, np.float32(1), np.arange(1), "", "MB", "-1MB", ".MB"]


@pytest.mark.parametrize("value", [*REFUSED, "10 parsecs", "1e5", "1.5", "100M", "1,5 GB"])
def test_anything_else_is_refused_in_the_user_s_words(value):
    expected = "here: expected a number of timesteps, 0 for none, or an amount of memory"
    told = rf"^{expected} .* got {re.escape(repr(value))}\.$"
    with pytest.raises(ValueError, match=told):
        checked(value, "here")


def between(asked, truncate=0, batch=4, timesteps=100_000):
    text = None if asked is None else checked(asked, "here")
    return timesteps_between(text, truncate, (batch, timesteps), KEPT, STATES)


def test_a_number_of_timesteps_is_rounded_up_to_a_power_of_two():
    assert [between(every) for every in (0, 1, 32, 33, 1000)] == [0, 32, 32, 64, 1024]


def test_there_are_none_where_they_would_keep_all_of_it():
    assert between(64, timesteps=64) == between(1000, timesteps=900) == 0
    assert between(64, timesteps=65) == 64


def test_memory_is_saved_only_where_it_is_exceeded():
    plain = 4 * 100_001 * KEPT
    assert between(f"{plain}B") == 0
    every = between(f"{plain - 1}B")
    assert every >= 32
    # The least of both, but for a factor of two.
    assert every * KEPT + 100_000 / every * STATES < 2 * 2 * (100_000 * STATES * KEPT) ** 0.5


@pytest.mark.parametrize("unknown", [{"timesteps": None}, {"batch": None}])
def test_unknown_sizes_are_taken_for_large(unknown):
    assert between("1GB", **unknown) >= 32
    assert between(64, **unknown) == 64
    assert between(10**30, **unknown) < 1 << 56  # what an operation's attribute can hold


def test_truncated_gradients_need_no_more_than_a_piece():
    assert between(None, truncate=1000, timesteps=1000) == 0
    assert 32 <= between(None, truncate=100) <= 100
    assert between(None, truncate=5) == 32
    assert between(0, truncate=1000) == 0  # it's been asked for
