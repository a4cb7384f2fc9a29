"""Samplers on paths and predictions that are singular at an end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import paths, sampling
from jaxflow.sampling import adaptive, fixed_step, grids
from jaxflow.velocities import from_network, gaussian_mixture
from jaxflow.velocities.prediction import KINDS
from tests.problems import COVARIANCES, CURVES, GAUSSIAN, MEANS, points, some_fast
from tests.sampling.tables import METHODS

KEYS = jax.random.split(jax.random.key(0), 2)


@pytest.mark.parametrize("name", CURVES)
def test_flow_of_a_gaussian(name, x64):
    """The flow is affine and known, on every path, and rk4 comes to it at order 4."""
    curve = CURVES[name]
    velocity = gaussian_mixture(
        curve.path, weights=np.ones(1), means=MEANS[:1], covariances=COVARIANCES[:1]
    )
    x0 = points(3)
    expected = GAUSSIAN.carry(curve, x0, 0.1, 0.9)
    errors = []
    for n in (20, 40):
        grid = grids.uniform(n, 0.1, 0.9)
        middle = fixed_step(velocity, jnp.asarray(x0), grid, method=sampling.rk4())
        errors.append(np.abs(middle.x - expected).max())
    assert errors[1] < 1e-6
    assert abs(np.log2(errors[0] / errors[1]) - 4) < 0.4


GRID = np.array([0.0, 0.3, 0.8, 1.0])


@pytest.mark.parametrize("name", some_fast(CURVES, ["vp"]))
def test_no_nan_from_end_to_end(name):
    """From 0 to 1 on every path, in value and gradient, for every prediction and method."""
    path = CURVES[name].path
    x0 = jnp.ones((2, 2))

    def ends(w, x0):
        found = {}
        for kind in KINDS:
            velocity = from_network(
                lambda w, t, x, key=None: jnp.tanh(w * x + t[:, None]),
                w,
                path=path,
                prediction=kind,
            )
            for method in METHODS if kind == "data" else ("heun",):
                solution = fixed_step(
                    velocity, x0, GRID, method=METHODS[method].make(path), keys=KEYS
                )
                found[kind, method] = solution.x
        return sum(jnp.sum(x) for x in found.values()), found

    gradient, found = jax.jit(jax.grad(ends, argnums=(0, 1), has_aux=True))(jnp.ones(()), x0)
    for leaf in jax.tree.leaves((gradient, found)):
        assert jnp.all(jnp.isfinite(leaf))


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.calls < 4])
def test_no_nan_on_the_way_back(method):
    """From data to noise on the straight path, in value and in the gradient of the start."""
    path = paths.linear()

    def end(x):
        method_ = METHODS[method].make(path)
        return fixed_step(lambda t, x: jnp.tanh(x), x, GRID[::-1], method=method_, keys=KEYS).x

    value, back = jax.vjp(end, jnp.ones((2, 2)))
    assert jnp.all(jnp.isfinite(value))
    assert jnp.all(jnp.isfinite(back(value)[0]))


@pytest.mark.parametrize(
    ("name", "kind", "tolerance"),
    [("linear", "data", 1e-3), ("vp", "noise", 3e-5), ("linear_vp", "velocity", 5e-6)],
)
def test_adaptive_passes_the_ends(name, kind, tolerance):
    """From 0 to 1 with few calls, though the prediction or the path is singular there.

    It ends on the posterior mean, seen from the last time where the velocity is finite; in float32
    a data prediction's velocity there loses four of its seven digits.
    """
    curve, data = CURVES[name], GAUSSIAN._replace(covariance=np.eye(2))
    mixture = gaussian_mixture(
        curve.path, weights=np.ones(1), means=MEANS[:1], covariances=np.ones(1)
    )
    read = {"velocity": mixture, "data": mixture.posterior_mean, "noise": mixture.noise}
    velocity = from_network(
        lambda p, t, x, key=None: read[kind](t, x), None, path=curve.path, prediction=kind
    )
    low, high = velocity.interval
    x0 = points(3)
    last = data.carry(curve, x0, low, high)
    alpha, sigma = curve.alpha(high), curve.sigma(high)
    mean = data.mean + alpha * (last - alpha * data.mean) / (alpha**2 + sigma**2)
    solution = adaptive(velocity, jnp.asarray(x0, jnp.float32), (0.0, 0.5, 1.0))
    assert bool(solution.success.all())
    assert np.all(solution.nfe < 100)
    np.testing.assert_array_equal(solution.xs[-1], solution.x)
    np.testing.assert_allclose(solution.x, mean, atol=tolerance)
    np.testing.assert_allclose(solution.xs[1], data.carry(curve, x0, low, 0.5), atol=2e-4)
    if kind == "data":
        back = adaptive(velocity, solution.x, (1.0, 0.0))
        start = data.carry(curve, np.asarray(solution.x, float), high, low)
        np.testing.assert_allclose(back.x, start, atol=tolerance)


@pytest.mark.parametrize("sampler", [adaptive, fixed_step])
def test_the_call_of_the_last_step_is_counted(sampler):
    calls = []

    def network(params, t, x, *, key=None):
        jax.debug.callback(lambda: calls.append(None))
        return jnp.full_like(x, 3.0)

    velocity = from_network(network, None, path=paths.linear(), prediction="data")
    solution = sampler(velocity, jnp.zeros((1, 2)), np.array([0.0, 0.4, 1.0]))
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert solution.nfe.tolist() == [len(calls)]


def test_last_step_is_the_posterior_mean():
    """One call, instead of a step, where the grid goes on past the velocity's interval."""
    velocity = from_network(
        lambda p, t, x, key=None: jnp.full_like(x, 3.0),
        None,
        path=paths.linear(),
        prediction="data",
    )
    x0 = jnp.zeros((2, 2))
    solution = fixed_step(velocity, x0, grids.uniform(4), save=True)
    np.testing.assert_allclose(solution.x, 3.0, rtol=1e-6)
    assert solution.nfe.tolist() == [2 * 3 + 1] * 2
    assert solution.xs.shape == (5, 2, 2)
    np.testing.assert_allclose(solution.xs[-1], solution.x)
    assert fixed_step(velocity, x0, grids.uniform(1)).nfe.tolist() == [1, 1]
    stop = fixed_step(velocity, x0, grids.uniform(4, 0.0, 0.9))
    np.testing.assert_allclose(stop.x, 2.7, rtol=1e-6)
    assert stop.nfe.tolist() == [8, 8]
