"""Exponential integrators: their papers' steps in NumPy, their order, and what is exact."""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths, sampling
from jaxflow.sampling import adaptive, fixed_step, grids
from jaxflow.velocities import from_network, gaussian_mixture
from tests.problems import COVARIANCES, CURVES, MEANS, WEIGHTS, marginal, points, some_fast
from tests.sampling.tables import METHODS

NAMES = [name for name, row in METHODS.items() if row.exponential]
FAST = ("ddim", "dpm_solver", "unipc")
X0 = points(3)


def mixture(path):
    return gaussian_mixture(path, weights=WEIGHTS, means=MEANS, covariances=COVARIANCES)


def ratio(curve, t):
    """The half logarithm of the signal-to-noise ratio."""
    return math.log(curve.alpha(t) / curve.sigma(t))


def dpm_solver_2m(curve, model, x, grid):
    """Algorithm 2 of Lu et al., in its own letters but for time."""
    before = None
    for i, (t, s) in enumerate(pairwise(grid)):
        data, h = model(t, x), ratio(curve, s) - ratio(curve, t)
        d = data
        if i:
            r = (ratio(curve, t) - ratio(curve, grid[i - 1])) / h
            d = (1 + 1 / (2 * r)) * data - before / (2 * r)
        scale = curve.sigma(s) / curve.sigma(t)
        x = scale * x - curve.alpha(s) * math.expm1(-h) * d
        before = data
    return x


def phi(k, z):
    """By its series, in exact fractions of factorials."""
    return math.fsum(z**j / math.factorial(j + k) for j in range(60))


def unipc_step(curve, t, s, x, m0, others):
    """UniP or UniC with B(h) = e^h - 1, of Zhao et al. on data predictions.

    `others` are `(time, prediction)` of earlier steps, and of the step's end for the corrector.
    """
    h = ratio(curve, s) - ratio(curve, t)
    nodes = np.array([(ratio(curve, other) - ratio(curve, t)) / h for other, _ in others])
    b_h = math.expm1(-h)
    x = curve.sigma(s) / curve.sigma(t) * x - curve.alpha(s) * b_h * m0
    if not others:
        return x
    q = len(others)
    powers = np.vander(nodes, q, increasing=True).T
    right = [-h * math.factorial(i) * phi(i + 1, -h) / b_h for i in range(1, q + 1)]
    rho = np.array([0.5]) if q == 1 else np.linalg.solve(powers, right)
    total = sum(w * (m - m0) / r for w, r, (_, m) in zip(rho, nodes, others, strict=True))
    return x - curve.alpha(s) * b_h * total


def unipc(curve, model, x, grid, order):
    seen = [(grid[0], model(grid[0], x))]
    for i, (t, s) in enumerate(pairwise(grid)):
        p = min(order, i + 1)
        others = seen[-2 : -p - 1 : -1] if p > 1 else []
        guess = unipc_step(curve, t, s, x, seen[-1][1], others)
        new = (s, model(s, guess))
        x = unipc_step(curve, t, s, x, seen[-1][1], [*others, new])
        seen.append(new)
    return guess


REFERENCES = {
    "dpm_solver": dpm_solver_2m,
    **{
        name: lambda *a, p=p: unipc(*a, p)
        for p, name in {1: "unipc.1", 2: "unipc", 3: "unipc.3"}.items()
    },
}


@pytest.mark.parametrize("name", REFERENCES)
def test_steps_are_those_of_the_papers(name, x64):
    """At 5, 10 and 20 steps of changing length on a VP path, and back again."""
    curve = CURVES["vp"]

    def model(t, x):
        return marginal(curve, t, x).data

    for n in (5, 10, 20):
        for start, stop in ((0.0, 0.99), (0.99, 0.0))[: 1 if n > 5 else 2]:
            grid = grids.shifted(n, 0.5, start, stop)
            expected = REFERENCES[name](curve, model, X0, grid)
            found = fixed_step(
                mixture(curve.path), jnp.asarray(X0), grid, method=METHODS[name].make(curve.path)
            )
            np.testing.assert_allclose(found.x, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("curve", some_fast(["linear", "vp", "cosine"], ["vp"]))
@pytest.mark.parametrize("name", some_fast(NAMES, FAST))
def test_order_on_a_mixture(name, curve, x64):
    """Against a tight adaptive solve, to data and back to noise."""
    path, row, x = CURVES[curve].path, METHODS[name], jnp.asarray(X0)
    velocity, keys = mixture(path), jax.random.split(jax.random.key(0), 3) if row.keys else None
    for start, stop in ((0.1, 0.9), (0.9, 0.1)):
        tight = {"rtol": 1e-12, "atol": 1e-12, "per_sample": False}
        exact = adaptive(velocity, x, (start, stop), **tight).x
        errors = []
        for n in (128, 256):
            found = fixed_step(
                velocity, x, grids.uniform(n, start, stop), method=row.make(path), keys=keys
            )
            errors.append(np.abs(found.x - exact).max())
        order = np.log2(errors[0] / errors[1])
        assert order > row.order - 0.15
        if "unipc" not in name:  # of which single steps alone are not of a higher order
            assert order < row.order + 0.2


@pytest.mark.parametrize("name", some_fast(["dpm_solver", "unipc"], ["dpm_solver"]))
def test_order_from_noise_to_data(name, x64):
    """2, but for a logarithm, where equal steps of time are no small steps of the ratio."""
    path, x = paths.linear(), jnp.asarray(X0)
    tight = {"rtol": 1e-11, "atol": 1e-11, "per_sample": False}
    for grid in (lambda n: grids.uniform(n), lambda n: grids.uniform(n, 1.0, 0.0)):
        exact = adaptive(mixture(path), x, grid(1), **tight).x
        errors = []
        for n in (128, 256):
            end = fixed_step(mixture(path), x, grid(n), method=METHODS[name].make(path)).x
            errors.append(np.abs(end - exact).max())
        assert 1.6 < np.log2(errors[0] / errors[1]) < 2.3


@pytest.mark.parametrize("name", some_fast(NAMES, FAST))
@pytest.mark.parametrize("curve", some_fast(["linear", "vp", "linear(.1)", "polynomial(2)"]))
def test_constant_predictions_are_solved_exactly(name, curve, x64):
    """Data or noise that does not change, in one step and in four, to data and away from it."""
    curve, row = CURVES[curve], METHODS[name]
    keys = jax.random.split(jax.random.key(0), 3)
    data, noise = points(3, seed=1), points(3, seed=2)
    for kind, value in (("data", data), ("noise", noise)):
        velocity = from_network(
            lambda p, t, x, key=None: p, jnp.asarray(value), path=curve.path, prediction=kind
        )
        for start, stop in ((0.1, 0.9), (0.9, 0.1), (0.3, 0.31)):
            x = curve.alpha(start) * data + curve.sigma(start) * noise
            expected = curve.alpha(stop) * data + curve.sigma(stop) * noise
            for n in (1, 4):
                grid = grids.uniform(n, start, stop)
                end = fixed_step(
                    velocity, jnp.asarray(x), grid, method=row.make(curve.path), keys=keys
                ).x
                np.testing.assert_allclose(end, expected, atol=1e-11)


@pytest.mark.parametrize("name", some_fast(NAMES, FAST))
def test_the_ends(name, x64):
    """From pure noise to no noise and back: constant data are met in any number of steps."""
    row, keys = METHODS[name], jax.random.split(jax.random.key(0), 3)
    data, noise = points(3, seed=1), points(3, seed=2)
    for path in (paths.linear(), paths.cosine()):

        def straight(t, x, path=path):
            return path(t, jnp.asarray(noise), jnp.asarray(data)).u

        for n in (1, 3):
            there = fixed_step(
                straight, jnp.asarray(noise), grids.uniform(n), method=row.make(path), keys=keys
            )
            np.testing.assert_allclose(there.x, data, atol=1e-12)
            back = fixed_step(
                straight, there.x, grids.uniform(n, 1.0, 0.0), method=row.make(path), keys=keys
            )
            np.testing.assert_allclose(back.x, noise, atol=1e-12)


def test_ddim_is_euler_on_the_straight_path(x64):
    path, grid = paths.linear(), grids.shifted(7, 2.0)
    ends = [
        fixed_step(mixture(path), jnp.asarray(X0), grid, method=method).x
        for method in (sampling.ddim(path), sampling.dpm_solver(path, 1), sampling.euler())
    ]
    np.testing.assert_allclose(ends[0], ends[2], atol=1e-12)
    np.testing.assert_array_equal(ends[0], ends[1])


@pytest.mark.parametrize("name", some_fast(NAMES, FAST))
def test_steps_depend_on_the_ratio_alone(name, x64):
    """The end is the same on another path, at the times of equal ratios, but for its scale."""
    row, keys = METHODS[name], jax.random.split(jax.random.key(0), 3)
    ratios = np.exp(np.linspace(-2.0, 2.0, 7))
    ends = []
    for path, times in (
        (paths.linear(), ratios / (1 + ratios)),
        (paths.cosine(), np.arctan(ratios) * 2 / np.pi),
    ):
        share, last = path.schedule.alpha(times[[0, -1]])
        start = jnp.asarray(X0) * share
        end = fixed_step(mixture(path), start, times, method=row.make(path), keys=keys)
        ends.append(end.x / last)
    np.testing.assert_allclose(*ends, atol=1e-10)


@pytest.mark.parametrize("name", FAST)
def test_parts_go_their_own_ways(name, x64):
    """A product of paths: each part as it would go alone."""
    row = METHODS[name]
    parts = {"a": paths.linear(), "b": paths.vp()}
    flows = {k: mixture(path) for k, path in parts.items()}
    x = {"a": jnp.asarray(X0), "b": jnp.asarray(X0[:, ::-1])}
    both = fixed_step(
        lambda t, x: {k: flows[k](t, x[k]) for k in x}, x, grids.uniform(6, 0.0, 0.9),
        method=row.make(paths.product(parts)),
    )  # fmt: skip
    for k, path in parts.items():
        alone = fixed_step(flows[k], x[k], grids.uniform(6, 0.0, 0.9), method=row.make(path))
        np.testing.assert_allclose(both.x[k], alone.x, atol=1e-13)


REFUSALS = {
    "ddim without schedule": (lambda: sampling.ddim(lambda *a: None), "an affine path is needed"),
    "dpm_solver of order 3": (
        lambda: sampling.dpm_solver(paths.linear(), 3),
        "^dpm_solver is of order 1 or 2; got order=3$",
    ),
    "unipc of order 4": (
        lambda: sampling.unipc(paths.linear(), 4),
        "^unipc is of order 1, 2 or 3; got order=4$",
    ),
    "unipc without schedule": (lambda: sampling.unipc(lambda *a: None), "an affine path is needed"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    call, sentence = REFUSALS[name]
    with pytest.raises(ValueError, match=sentence):
        call()
