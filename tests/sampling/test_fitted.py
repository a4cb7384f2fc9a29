"""Grids fitted to a velocity: the least total of measured errors, and what it is worth."""

import sys
from itertools import combinations, pairwise

import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths, sampling
from jaxflow.sampling import fixed_step, grids
from jaxflow.velocities import as_velocity, gaussian_mixture
from tests.problems import points

fitted = sys.modules["jaxflow.sampling.fitted"]
PLACE, WIDTH = 0.3, 0.05


def stiff(t, x):
    """`x' = b(t) sin(2 x) / 2`, where `b` is a narrow bump with integral `tanh`."""
    return jnp.sin(2 * x) / (2 * WIDTH * jnp.cosh((t - PLACE) / WIDTH)[:, None] ** 2)


def solved(x, start, stop):
    """As `log tan x` goes by the integral of `b`."""
    way = np.tanh((stop - PLACE) / WIDTH) - np.tanh((start - PLACE) / WIDTH)
    return np.arctan(np.tan(x) * np.exp(way))


X = points(4)


@pytest.mark.parametrize(("method", "worth"), [("heun", 5), ("euler", 2)])
def test_it_beats_equal_steps_at_equal_calls(method, worth, x64):
    """On a flow with a stiff place, for samples that it was not fitted to; and backwards alike."""
    made, numbers = getattr(sampling, method)(), np.random.default_rng(0)
    seen, others = numbers.uniform(-1.4, 1.4, (2, 16, 2))
    for start, stop in ((0.0, 1.0), (1.0, 0.0)):
        x = jnp.asarray(solved(seen, 0.0, start))
        fit = grids.fitted(stiff, x, 16, made, start=start, stop=stop)
        x, errors = solved(others, 0.0, start), []
        for grid in (fit, grids.uniform(16, start, stop)):
            end = fixed_step(stiff, jnp.asarray(x), grid, method=made)
            errors.append(np.abs(end.x - solved(x, start, stop)).max())
        assert errors[0] * worth < errors[1]
        assert (fit[0], fit[-1]) == (start, stop)
        assert fit.shape == (17,)
        assert np.all(np.diff(fit) * (stop - start) > 0)


def test_the_least_total_is_found():
    """Among all grids there are."""
    errors = np.random.default_rng(0).random((8, 8))
    for n in (1, 2, 4, 7):
        places = fitted._least(errors, n)
        found = sum(errors[i, j] for i, j in pairwise(places))
        every = [(0, *inner, 7) for inner in combinations(range(1, 7), n - 1)]
        assert len(places) == n + 1
        assert found == min(sum(errors[i, j] for i, j in pairwise(grid)) for grid in every)


def test_errors_are_those_of_single_steps(x64):
    """Begun on the exact state; where a path ends in points, the last by the posterior mean."""
    x = jnp.asarray(X)
    times = np.array([0.0, 0.2, 0.5, 1.0])
    mixture = gaussian_mixture(
        paths.linear(), weights=np.ones(2) / 2, means=np.eye(2), covariances=np.zeros(2)
    )
    for velocity, past in ((waves, False), (mixture, True)):
        exact = sampling.adaptive(velocity, x, times, rtol=1e-10, atol=1e-10).xs
        kind = as_velocity(velocity), sampling.heun()
        errors = fitted._errors(kind, exact, times, {}, past=past)
        for i, j in combinations(range(4), 2):
            end = fixed_step(velocity, exact[i], times[[i, j]], method=sampling.heun()).x
            expected = np.sqrt(np.mean((end - exact[j]) ** 2))
            np.testing.assert_allclose(errors[i, j], expected, rtol=1e-6, atol=1e-12)


def waves(t, x):
    return jnp.sin(5 * t)[:, None] * x


def test_a_data_prediction_ends_on_the_posterior_mean():
    """A fit where the velocity is finite short of the end, which samplers then take."""
    velocity = gaussian_mixture(
        paths.linear(), weights=np.ones(2) / 2, means=np.eye(2), covariances=np.zeros(2)
    )
    grid = grids.fitted(
        velocity, jnp.asarray(X, jnp.float32), 5, sampling.ddim(paths.linear()), fine=16
    )
    assert grid[-1] == 1.0
    assert bool(fixed_step(velocity, jnp.asarray(X, jnp.float32), grid).success.all())


REFUSALS = {
    "no steps": ({"n": 0}, "^fitted chooses 1 to fine=8 steps; got n=0$"),
    "a memory": ({"method": sampling.ab2()}, "^fitted measures steps one by one"),
    "noise": ({"method": sampling.churn(paths.linear(), 0.1)}, "^churn draws noise at every step"),
    "unsolved": (
        {"velocity": lambda t, x: jnp.full_like(x, jnp.nan)},
        "^fitted needs exact states",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    changed, sentence = REFUSALS[name]
    given = {"velocity": waves, "x0": jnp.ones((2, 2)), "n": 3, "method": None} | changed
    with pytest.raises(ValueError, match=sentence):
        grids.fitted(*given.values(), fine=8)
