"""Consistency flow matching against the average velocity of a Gaussian's flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import draws, losses, paths
from jaxflow.arrays import expand
from tests.losses.oracles import GAUSSIAN, MEAN, STD

T, X = np.meshgrid([0.1, 0.35, 0.6, 0.8], [-0.4, 0.5, 1.3], indexing="ij")


def network(params, t, x, *, key=None):
    """The average velocity to the end of its half, moved by the parameters."""
    end = jnp.where(t < 0.5, 0.5, 1.0)
    return GAUSSIAN.average(t, end, x) + params[0] + params[1] * expand(t, x)


def expected_gradient(loss, params, nodes=5):
    """The mean over pairs given `x_t`, whose data is normal: quadrature."""
    at, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    t, x = T.reshape(-1, 1), X.reshape(-1, 1)
    total = (t * STD) ** 2 + (1 - t) ** 2
    centre = MEAN + t * STD**2 / total * (x - t * MEAN)
    x1 = centre + np.sqrt(STD**2 * (1 - t) ** 2 / total) * at
    batch = {
        "t": jnp.asarray(np.broadcast_to(t, x1.shape).reshape(-1)),
        "x0": jnp.asarray(((x - t * x1) / (1 - t)).reshape(-1, 1)),
        "x1": jnp.asarray(x1.reshape(-1, 1)),
    }
    weight = jnp.asarray(np.broadcast_to(weights, x1.shape).reshape(-1))

    def mean(p):
        return jnp.sum(weight * loss(p, None, batch)[1]["per_example"]) / len(t)

    return np.asarray(jax.jit(jax.grad(mean))(jnp.asarray(params)))


def test_its_bias_vanishes_with_its_step(x64):
    """At the average velocity the gradient over a step falls as the step, without the second part;
    with it, and where the map is moved, it does not.
    """
    steps = (0.02, 0.01, 0.005)

    def found(alpha, params):
        return [
            expected_gradient(
                losses.consistency_flow_matching(network, paths.linear(), step=h, alpha=alpha),
                params,
            )
            / h
            for h in steps
        ]

    zero = np.zeros(2)
    still = found(0.0, zero)
    np.testing.assert_allclose(still[0] / still[1], 2.0, rtol=0.1)
    np.testing.assert_allclose(still[1] / still[2], 2.0, rtol=0.05)
    moved = found(0.0, np.array([0.1, 0.0]))
    assert np.all(np.abs(moved) > 0.01)
    pulled = found(1.0, zero)
    assert np.all(np.abs(pulled[2]) > 10 * np.abs(still[2]))


def test_it_is_its_formula(key):
    """(2) of single examples: within a piece, and where the next time is its end."""
    path, params = paths.linear(), jnp.array([0.2, -0.1])
    loss = losses.consistency_flow_matching(network, path, segments=2, step=0.1, alpha=0.3)
    t = jnp.array([0.1, 0.45, 0.7, 0.95])
    x0, x1 = jax.random.normal(key, (2, 4, 3))
    told = jax.jit(loss.__call__)(params, None, {"t": t, "x0": x0, "x1": x1})[1]["per_example"]
    point_of, said_of = jax.jit(lambda t, x0, x1: path(t, x0, x1).x), jax.jit(network)
    t, x0, x1 = (np.asarray(a) for a in (t, x0, x1))
    for i, (r, end) in enumerate([(0.2, 0.5), (0.5, 0.5), (0.8, 1.0), (1.0, 1.0)]):
        row = slice(i, i + 1)
        at = [np.array([a], np.float32) for a in (t[i], r)]
        here, later = (np.asarray(point_of(a, x0[row], x1[row])) for a in at)
        v, w = (np.asarray(said_of(params, a, x)) for a, x in zip(at, (here, later), strict=True))
        f = here + (end - t[i]) * v
        if r < end:
            error = np.mean((f - later - (end - r) * w) ** 2) + 0.3 * np.mean((v - w) ** 2)
        else:
            error = np.mean((f - later) ** 2)
        np.testing.assert_allclose(told[i], error, rtol=1e-4)


def test_a_straight_flow_is_its_minimum(key):
    """Where all data is one point its flow is straight, and both parts vanish."""

    def straight(params, t, x, *, key=None):
        return (params - x) / expand(jnp.maximum(1 - t, 1e-6), x)

    path, target = paths.linear(), jnp.array([0.3, -0.7])
    x1 = jnp.broadcast_to(target, (64, 2))
    batch = jax.jit(draws.standard(path).__call__)(key, {"x1": x1})
    loss = jax.jit(losses.consistency_flow_matching(straight, path, alpha=1.0).__call__)
    assert loss(target, None, batch)[0] < 1e-8
    assert loss(target + 0.1, None, batch)[0] > 1e-3


@pytest.mark.parametrize("change", [{"segments": 0}, {"step": 1.0}, {"alpha": -1.0}])
def test_what_it_refuses(change):
    with pytest.raises(ValueError, match=r"segments >= 1, a whole number, 0 < step < 1"):
        losses.consistency_flow_matching(network, paths.linear(), **change)
