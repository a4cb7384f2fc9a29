"""Seconds belong to one bucket each, and the rate of steps leaves out what is not training."""

import pytest

from experiments.run.clock import Clock, Rate


@pytest.fixture
def spend(monkeypatch):
    """Let time pass by calling `spend(seconds)`, and not otherwise."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    return spend


def test_each_second_belongs_to_the_innermost_block(spend):
    clock = Clock()
    spend(1)
    with clock("compile"):
        spend(2)
        with clock("data"):
            spend(4)
        spend(8)
    with clock("checkpoint"):
        spend(16)
    spend(32)
    report = clock.report()
    assert {k: v for k, v in report.items() if v} == {
        "steps": 33, "compile": 10, "data": 4, "checkpoint": 16,
    }  # fmt: skip
    assert sum(report.values()) == 63


def test_rate_begins_after_the_first_call(spend):
    clock = Clock()
    rate = Rate(clock, 10)
    with clock("compile"):
        spend(50)
    assert rate.at(10) is None
    spend(1)
    with clock("data"):
        spend(1)
    with clock("pictures"):
        spend(30)
    assert rate.at(30) == 10
    spend(4)
    assert rate.at(40) == 2.5
