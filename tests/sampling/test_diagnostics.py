"""Energy, length and straightness of flows whose ways are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import couplings, paths, sampling, velocities
from jaxflow.sampling import grids, path_cost


def test_a_turn_and_a_spurt(x64):
    """A half circle of radius r: energy (pi r)^2, length pi r, distance 2 r. On a line at speed
    2 t over a way of length a: energy 4/3 a^2, so straightness a^2 / 3 with no detour.
    """
    r = jnp.array([1.0, 2.5])
    x0 = jnp.stack([r, jnp.zeros(2)], axis=1)

    def turn(t, x):
        return jnp.pi * jnp.stack([-x[:, 1], x[:, 0]], axis=1)

    cost = path_cost(turn, x0, method=sampling.rk4())
    np.testing.assert_allclose(cost.energy, (jnp.pi * r) ** 2, rtol=1e-7)
    np.testing.assert_allclose(cost.length, jnp.pi * r, rtol=1e-7)
    np.testing.assert_allclose(cost.distance, 2 * r, rtol=1e-7)
    np.testing.assert_allclose(cost.straightness, (jnp.pi**2 - 4) * r**2, rtol=1e-6)
    np.testing.assert_allclose(cost.detour, jnp.pi / 2, rtol=1e-7)

    def spurt(t, x):
        return 2 * t[:, None] * jnp.ones_like(x)

    cost = path_cost(spurt, jnp.zeros((1, 3)), method=sampling.rk4())
    np.testing.assert_allclose(cost.energy, 4.0, rtol=1e-9)
    np.testing.assert_allclose(cost.straightness, 1.0, rtol=1e-9)
    np.testing.assert_allclose(cost.detour, 1.0, rtol=1e-9)


def test_there_and_back_costs_the_same(x64):
    """Backwards, over a part of the time, and for a state of several parts."""

    def flow(t, x):
        return jax.tree.map(lambda a: -a, x)

    x0 = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[2.0]])}
    forth = path_cost(flow, x0, grids.uniform(50, 0.2, 0.7), method=sampling.rk4())
    back = path_cost(flow, forth.x, grids.uniform(50, 0.7, 0.2), method=sampling.rk4())
    for name in ("energy", "length", "distance", "straightness"):
        np.testing.assert_allclose(getattr(forth, name), getattr(back, name), rtol=1e-6)
    np.testing.assert_allclose(forth.length, 3.0 * -np.expm1(-0.5), rtol=1e-7)
    np.testing.assert_allclose(forth.energy, 9.0 / 2 * -np.expm1(-1.0), rtol=1e-7)


def test_the_flow_of_a_gaussian(x64):
    """On the linear path to N(0, s^2) a sample scales by the standard deviation of the marginal.

    x(t) = x0 q(t) with q^2 = (1 - t)^2 + s^2 t^2, so the mean energy is int q'^2, and no less than
    the squared Wasserstein distance (s - 1)^2.
    """
    s = 2.0
    flow = velocities.gaussian_mixture(
        paths.linear(), weights=jnp.ones(1), means=jnp.zeros((1, 1)), covariances=jnp.full(1, s**2)
    )
    x0 = jnp.array([[1.0], [-0.5]])
    cost = path_cost(flow, x0, grids.uniform(200), method=sampling.rk4())
    t = np.linspace(0, 1, 100_001)
    q_dot = (-(1 - t) + s**2 * t) / np.sqrt((1 - t) ** 2 + s**2 * t**2)
    np.testing.assert_allclose(cost.energy, x0[:, 0] ** 2 * np.trapezoid(q_dot**2, t), rtol=1e-6)
    assert float(cost.energy[0]) > (s - 1) ** 2
    np.testing.assert_allclose(cost.straightness[0], np.trapezoid((q_dot - 1) ** 2, t), rtol=1e-5)


def test_no_way_is_cheaper_than_transport(key):
    x0 = jax.random.normal(key, (64, 2))
    flow = velocities.gaussian_mixture(
        paths.linear(), weights=jnp.full(2, 0.5), means=3 * jnp.eye(2), covariances=jnp.ones(2)
    )
    cost = path_cost(flow, x0, grids.uniform(40))
    paired, end, _ = couplings.optimal_transport()(key, x0, cost.x, {})
    transport = jnp.mean(jnp.sum(jnp.square(paired - end), axis=1))
    assert float(cost.energy.mean()) >= float(transport) - 1e-4
    assert bool(jnp.all(cost.straightness > -1e-4))


def test_a_way_that_stands_still_has_a_gradient_and_no_length():

    def still(t, x):
        return 0.0 * x

    slope = jax.grad(lambda x: path_cost(still, x, grids.uniform(2)).length.sum())(jnp.ones((2, 1)))
    assert jnp.all(slope == 0)


def test_a_grid_beyond_the_interval_is_refused():
    flow = velocities.gaussian_mixture(
        paths.vp(), weights=jnp.ones(1), means=jnp.zeros((1, 1)), covariances=jnp.ones(1)
    )
    with pytest.raises(ValueError, match="finite up to"):
        path_cost(flow, jnp.zeros((1, 1)), grids.uniform(3))
    assert jnp.isfinite(path_cost(flow, jnp.ones((1, 1))).energy[0])
