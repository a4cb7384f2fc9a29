"""What both sides of `benchmarks.bridges` train on and are judged by."""

import numpy as np
import pytest

from benchmarks import marginals
from benchmarks.bridges import STEPS, figures, transport_cost


def test_cells_are_judged_by_times_that_do_not_train(tmp_path):
    """Every number of the file here is its own time."""
    times = np.repeat(np.arange(160), 4)
    np.savetxt(tmp_path / "cells.txt", np.repeat(times[:, None], 12, axis=1))
    problem = marginals.cells(tmp_path / "cells.txt", 0, 5)
    assert problem.intervals == 7
    assert problem.dim == 11
    assert problem.x0.shape == (5, 256, 11)
    np.testing.assert_array_equal(problem.x0[..., 0] // 20, problem.start)
    np.testing.assert_array_equal(problem.x1[..., 0] // 20, problem.start + 1)
    assert np.all(problem.x0 % 2 == 0)
    for k, end in enumerate(problem.ends):
        np.testing.assert_array_equal(np.unique(end), np.arange(20 * k + 1, 20 * (k + 1), 2))
    np.savetxt(tmp_path / "other.txt", np.zeros((3, 2)))
    with pytest.raises(ValueError, match="640 rows of 12 numbers"):
        marginals.cells(tmp_path / "other.txt", 0, 5)


def test_straight_ways_cost_what_transport_does():
    """Of a shift, whose cheapest pairs are straight: no distance, and the energy of transport."""
    x = np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32)
    ends = np.stack([x, x + 1, x + 3])
    problem = marginals.Problem(x[None], x[None], np.zeros((1, 16)), ends)
    shares = np.linspace(0, 1, STEPS + 1)[:, None, None]
    ways = np.stack([x + shares, x + 1 + 2 * shares])
    found = figures(problem, ways)
    assert found.distance == pytest.approx(0, abs=1e-3)
    assert found.energy == pytest.approx(2 + 8, rel=1e-4)
    assert transport_cost(problem) == pytest.approx(10, rel=1e-4)
