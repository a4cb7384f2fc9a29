"""Stochastic solves by Diffrax: marginals, one Brownian path for all grids, cost, refusals."""

import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths
from jaxflow.sampling import diffusions, grids, sde
from jaxflow.velocities import from_network, gaussian_mixture, posterior_mean
from tests.problems import COVARIANCES, GAUSSIAN, MEANS, WEIGHTS, points, some_fast

PATH = paths.linear()
VELOCITY = gaussian_mixture(PATH, weights=np.ones(1), means=MEANS[:1], covariances=COVARIANCES[:1])
MIXTURE = gaussian_mixture(PATH, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)
KEYS = jax.random.split(jax.random.key(0), 3)
X = points(3)
SOLVERS = ["ShARK", "SRA1", "SEA", "SPaRK", "Heun", "Euler"]


def marginal(t):
    """Mean and covariance on the straight path."""
    return t * GAUSSIAN.mean, t**2 * GAUSSIAN.covariance + (1 - t) ** 2 * np.eye(2)


def chi_square(x, t=1.0):
    """The z-score of mean and covariance together."""
    mean, covariance = marginal(t)
    n, offset = len(x), np.asarray(x, np.float64) - mean
    white = offset @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    spread = white.T @ white / n - np.eye(2)
    square = n * np.sum(white.mean(0) ** 2) + n / 2 * np.sum(spread**2)
    return (square - 5) / math.sqrt(10)


@pytest.mark.parametrize("adaptive", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_keeps_the_marginals(adaptive, key):
    """From noise to data, whose mean and covariance are known."""
    n = 1500
    x0 = jax.random.normal(jax.random.fold_in(key, 1), (n, 2))
    tolerances = {"rtol": 1e-2, "atol": 1e-2} if adaptive else {}
    end = sde(
        VELOCITY, x0, grids.uniform(24), keys=jax.random.split(key, n),
        diffusion=diffusions.sigma(PATH), **tolerances,
    )  # fmt: skip
    assert bool(end.success.all())
    assert abs(chi_square(end.x)) < 4
    assert (len(set(end.nfe.tolist())) > 1) == adaptive


@pytest.mark.parametrize("way", [(0.8, 0.3), (0.3, 0.8)])
def test_it_keeps_them_on_a_part_of_the_way(way, key):
    """Backwards too, where the score pulls the other way, and with noise for that part alone."""
    n, (mean, covariance) = 1500, marginal(way[0])
    z = jax.random.normal(jax.random.fold_in(key, 1), (n, 2))
    x = mean + z @ np.linalg.cholesky(covariance).T
    end = sde(
        VELOCITY, x, grids.uniform(24, *way), keys=jax.random.split(key, n), diffusion=1.0
    )  # fmt: skip
    assert abs(chi_square(end.x, way[1])) < 4


@pytest.mark.parametrize(
    ("solver", "order", "way"),
    [
        ("ShARK", 1.5, (0.1, 0.9)),
        pytest.param("ShARK", 1.5, (0.9, 0.1), marks=pytest.mark.slow),
        pytest.param("Euler", 1.0, (0.9, 0.1), marks=pytest.mark.slow),
    ],
)
def test_finer_grids_converge_to_one_path(solver, order, way, x64):
    """At the strong order of the solver, forwards and backwards, with noise that changes."""
    run = {
        "keys": jax.random.split(jax.random.key(1), 32),
        "diffusion": lambda t: 0.3 + t,
        "solver": getattr(diffrax, solver)(),
    }
    x = jnp.asarray(points(32))
    ends = [sde(MIXTURE, x, grids.uniform(n, *way), **run).x for n in (16, 64, 512)]
    errors = [float(jnp.sqrt(jnp.mean((end - ends[-1]) ** 2))) for end in ends[:-1]]
    assert np.log2(errors[0] / errors[1]) / 2 > order - 0.25


@pytest.mark.parametrize("name", some_fast(SOLVERS, ["SRA1", "Euler"]))
def test_it_counts_its_calls(name):
    """Of steps on a grid, and of those to a tolerance, rejected ones included."""
    calls = []

    def counted(t, x):
        jax.debug.callback(lambda: calls.append(None))
        return jnp.sin(40 * t[:, None] ** 2) - x

    solver = getattr(diffrax, name)()
    runs = [{}]
    if name not in ("SEA", "Euler"):
        runs.append({"rtol": 1e-2, "atol": 1e-2})
    for tolerances in runs:
        calls.clear()
        end = sde(
            counted, jnp.asarray(X[:1]), grids.uniform(5), keys=KEYS[:1], diffusion=0.1,
            score=lambda t, x: -x, solver=solver, **tolerances,
        )  # fmt: skip
        jax.block_until_ready(end)
        jax.effects_barrier()
        assert end.nfe.tolist() == [len(calls)]
        assert bool(end.success.all())


def test_no_diffusion_is_the_flow(x64):
    """`g = 0`, with saved states, a condition and a part of the way."""
    decay = {"rate": jnp.array([1.0, 2.0, 3.0])}

    def velocity(t, x, rate):
        return -rate[:, None] * x

    grid = grids.uniform(40, 0.2, 0.9)
    end = sde(
        velocity, jnp.asarray(X), grid, keys=KEYS, diffusion=0.0, cond=decay, save=True,
        score=lambda t, x, rate: x,
    )  # fmt: skip
    expected = X * np.exp(-(grid[:, None] - 0.2) * np.asarray(decay["rate"]))[..., None]
    np.testing.assert_allclose(end.xs, expected, atol=1e-3)
    np.testing.assert_array_equal(end.t, grid)
    np.testing.assert_array_equal(end.xs[-1], end.x)


def test_the_last_step_is_the_posterior_mean(x64):
    """Where the score is read off a velocity and the grid ends without noise."""
    run = {"keys": KEYS, "diffusion": 0.5}
    end = sde(MIXTURE, jnp.asarray(X), grids.uniform(6), save=True, **run)
    np.testing.assert_allclose(
        end.x, posterior_mean(MIXTURE, jnp.full(3, 5 / 6), end.xs[-2]), atol=1e-12
    )
    assert end.xs.shape == (7, 3, 2)
    assert end.nfe.tolist() == [2 * 5 + 1] * 3
    alone = sde(MIXTURE, jnp.asarray(X), (0.0, 1.0), **run)
    np.testing.assert_allclose(
        alone.x, posterior_mean(MIXTURE, jnp.zeros(3), jnp.asarray(X)), atol=1e-12
    )
    assert alone.nfe.tolist() == [1] * 3


def test_a_sample_does_not_depend_on_its_batch(x64):
    """On a grid, at any batch size; to a tolerance bitwise at one batch size, else within it.

    A Brownian path is so rough that rounding moves the times of the steps.
    """
    x, grid = jnp.asarray(X), grids.uniform(6, 0.0, 0.9)
    whole = sde(MIXTURE, x, grid, keys=KEYS, diffusion=0.5)
    alone = sde(MIXTURE, x[1:2], grid, keys=KEYS[1:2], diffusion=0.5)
    np.testing.assert_allclose(alone.x[0], whole.x[1], atol=1e-12)
    run = {"diffusion": 0.5, "rtol": 1e-3, "atol": 1e-3}
    whole = sde(MIXTURE, x, (0.0, 0.9), keys=KEYS, **run)
    mates = sde(MIXTURE, x.at[::2].add(1.0), (0.0, 0.9), keys=KEYS.at[0].set(KEYS[2]), **run)
    np.testing.assert_array_equal(mates.x[1], whole.x[1])
    assert mates.nfe[1] == whole.nfe[1]
    alone = sde(MIXTURE, x[1:2], (0.0, 0.9), keys=KEYS[1:2], **run)
    np.testing.assert_allclose(alone.x[0], whole.x[1], atol=5e-3)


@pytest.mark.slow
def test_parts_dtypes_and_gradients():
    """A mapping of parts in their own dtypes, and the gradient of a parameter."""
    path = paths.product({"a": paths.linear(), "b": paths.cosine()})
    x = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones((2, 1))}

    def end(w):
        velocity = from_network(
            lambda w, t, x, key=None: jax.tree.map(lambda a: w.astype(a.dtype) * a, x), w, path=path
        )
        return sde(velocity, x, grids.uniform(4, 0.0, 0.9), keys=KEYS[:2], diffusion=0.2).x

    found = end(jnp.ones(()))
    assert {k: v.dtype for k, v in found.items()} == {"a": jnp.bfloat16, "b": jnp.float32}
    slope = jax.grad(lambda w: jnp.sum(end(w)["b"]))(jnp.ones(()))
    assert jnp.isfinite(slope)
    assert slope != 0


REFUSALS = {
    "no keys": (
        {"keys": None},
        ValueError,
        r"^sde draws noise: pass keys=jax.random.split\(.*, 3\)",
    ),
    "keys of another batch": ({"keys": KEYS[:2]}, ValueError, "one typed key a sample is needed"),
    "one tolerance": ({"rtol": 1e-3}, ValueError, r"both tolerances or neither; got rtol=0\.001"),
    "no estimate": (
        {"rtol": 1e-3, "atol": 1e-3, "solver": diffrax.Euler()},
        TypeError,
        "^Euler does not estimate its error",
    ),
    "another solver": ({"solver": diffrax.Kvaerno5()}, TypeError, "^solver must be .* Kvaerno5"),
    "a repeated time": ({"grid": (0.0, 0.5, 0.5, 1.0)}, ValueError, "strictly increase"),
    "too small a step": ({"grid": (0.0, 1e-6, 1.0)}, ValueError, r"no step below 2\^-16"),
    "no path": ({"velocity": lambda t, x: -x}, ValueError, "^sde needs the score"),
    "diffusion by name": (
        {"diffusion": "sigma"},
        TypeError,
        "^diffusion is a number or a function",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    changed, error, sentence = REFUSALS[name]
    given = {"velocity": MIXTURE, "grid": grids.uniform(4), "keys": KEYS, "diffusion": 0.5}
    given |= changed
    velocity, grid = given.pop("velocity"), given.pop("grid")
    with pytest.raises(error, match=sentence):
        sde(velocity, jnp.asarray(X), grid, **given)
