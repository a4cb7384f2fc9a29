"""What is due at a step, and how many steps a call may take without passing it."""

import itertools

import pytest

from jaxflow.training import Calendar, Due


def test_the_last_step_does_everything():
    calendar = Calendar(steps=7, log=2, save=3, look=5)
    for told in (False, True):
        assert calendar.at(7, told=told) == Due(log=True, save=True, stop=False, look=True)


def test_each_at_its_own_steps():
    calendar = Calendar(steps=100, log=2, save=3, look=5)
    due = [calendar.at(step) for step in range(1, 11)]
    assert [d.log for d in due] == [False, True] * 5
    assert [i + 1 for i, d in enumerate(due) if d.save] == [3, 6, 9]
    assert [i + 1 for i, d in enumerate(due) if d.look] == [5, 10]
    assert not any(d.stop for d in due)


def test_a_run_that_is_told_saves_and_stops_and_draws_later():
    calendar = Calendar(steps=100, log=2, save=3, look=5)
    for step in range(1, 11):
        due = calendar.at(step, told=True)
        assert (due.save, due.stop, due.look) == (True, True, False)
        assert due.log == calendar.at(step).log


@pytest.mark.parametrize("start", [0, 6, 20])
def test_no_call_passes_a_step_at_which_something_is_due(start):
    for log, save, draw, most in itertools.product((4, 6), (6, 10), (12, 15), (1, 4, 30)):
        calendar = Calendar(steps=60, log=log, save=save, look=draw)
        stride = calendar.stride(start, most)
        assert 1 <= stride <= most
        ends = set(range(start, 61, stride))
        busy = {step for step in range(start + 1, 61) if any(calendar.at(step))}
        assert busy <= ends
