"""What is told of the machine: its cores, its load, and threads that are too many for them."""

import os

import pytest

from ostinato import machine


@pytest.mark.parametrize(
    ("threads", "cores", "load"),
    [(2, 2, 0.0), (2, 2, 0.9), (1, 2, 9.0), (1, 1, 1.5), (6, 8, 2.9)],
)
def test_threads_with_a_core_each_are_no_crowd_nor_is_one_alone(threads, cores, load):
    assert machine.crowded(threads, cores, load) is None


@pytest.mark.parametrize(
    ("threads", "cores", "load", "free"),
    [(2, 1, 0.0, 1), (2, 2, 1.0, 1), (7, 8, 2.0, 6), (2, 2, 30.0, 0), (64, 2, 0.0, 2)],
)
def test_more_threads_than_free_cores_are_told(threads, cores, load, free):
    said = machine.crowded(threads, cores, load)
    assert said == f"{threads} threads, but free cores: {free} of {cores} (load {load:.1f})"


def test_load_that_other_cores_can_take_is_none_on_ours(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (5.5, 0.0, 0.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for ours, load in ((8, 5.5), (4, 1.5), (2, 0.0)):
        monkeypatch.setattr(machine, "cores", lambda ours=ours: ours)
        assert machine.load_on_cores() == load
    monkeypatch.delattr(os, "getloadavg")
    assert machine.load() == 0
