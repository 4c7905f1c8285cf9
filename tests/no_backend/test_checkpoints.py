"""What is kept of a sequence, by what the user asks for."""

import pytest

from ostinato.checkpoints import checked, timesteps_between

KEPT, STATES = 1536, 512  # bytes a row and timestep: an LSTM of 64 units in float32


@pytest.mark.parametrize("value", [0, 1, 300, "300", "100MB", "1.5 gb", "2GiB", "64KB"])
def test_timesteps_and_amounts_of_memory_are_taken(value):
    assert checked(value, "here")


@pytest.mark.parametrize("value", [-1, 1.5, None, True, "", "MB", "-1MB", "10 parsecs", "1e5"])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match=r"^here: expected a number of timesteps, 0 for none, or"):
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


def test_truncated_gradients_need_no_more_than_a_piece():
    assert between(None, truncate=1000, timesteps=1000) == 0
    assert 32 <= between(None, truncate=100) <= 100
    assert between(None, truncate=5) == 32
    assert between(0, truncate=1000) == 0  # it's been asked for
