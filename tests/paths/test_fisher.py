"""Soft tokens on a sphere, with the exact posterior: the flow ends at the law of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxflow import draws, losses, networks, paths, sampling, times, velocities

V = 4
LAW = np.array([0.4, 0.3, 0.2, 0.1])
KAPPAS = {"linear": None, "cosine": paths.kappas.cosine()}


def posterior(path, t, x, law=LAW):
    """Equation (4), of one place or of several that are independent."""
    kappa = path.kappa(t).reshape(-1, *(1,) * (x.ndim - 1))
    theta = jnp.maximum(jnp.arccos(jnp.clip(x, -1, 1)), 1e-5)
    before = theta / (1 - kappa)
    ratio = jnp.log(jnp.sin(jnp.minimum(before, np.pi / 2))) - jnp.log(jnp.sin(theta))
    return jnp.where(before <= np.pi / 2, jnp.log(law) + (V - 2) * ratio, -60.0)


point_of = jax.jit(lambda path, t, x0, x1: path(t, x0, x1))
velocity_of = jax.jit(lambda path, t, x, logits: path.velocity(t, x, logits))
noise_of = jax.jit(lambda path, keys, shape=(): path.source.sample(keys, shape), static_argnums=2)


@pytest.mark.parametrize("name", KAPPAS)
def test_the_velocity_is_that_of_the_path(name, x64):
    """Of a posterior that is sure; points stay on the sphere, from noise to the corner."""
    path = paths.fisher(V, KAPPAS[name])
    keys = jax.random.split(jax.random.key(0), 6)
    x0, x1 = noise_of(path, keys, (3,)).astype(float), np.arange(18).reshape(6, 3) % V
    t = np.linspace(0.0, 0.99, 6)
    point = jax.tree.map(np.asarray, point_of(path, t, x0, x1))
    np.testing.assert_allclose(np.sum(point.x**2, -1), 1, rtol=1e-12)
    with np.errstate(divide="ignore"):
        sure = np.log(np.eye(V)[x1])
    np.testing.assert_allclose(velocity_of(path, t, point.x, sure), point.u, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(point_of(path, np.zeros(6), x0, x1).x, x0, atol=1e-12)
    end = point_of(path, np.ones(6), x0, x1).x
    np.testing.assert_allclose(end, np.eye(V)[x1], atol=1e-12)


def test_the_posterior_is_that_of_its_points():
    """Tokens of points near one another are as often each as it says."""
    path, n, t = paths.fisher(V), 400_000, 0.35
    rng = np.random.default_rng(0)
    x1 = rng.choice(V, n, p=LAW)
    x0 = noise_of(path, jax.random.split(jax.random.key(1), n))
    x = point_of(path, jnp.full(n, t), x0, x1).x
    said = np.asarray(
        jax.jit(lambda t, x: jax.nn.softmax(posterior(path, t, x)))(jnp.full(n, t), x)
    )
    for y in range(V):  # calibrated: of all points that are given a share, so many are of y
        for low, high in ((0.05, 0.2), (0.2, 0.5), (0.5, 0.9)):
            inside = (said[:, y] > low) & (said[:, y] < high)
            if np.sum(inside) > 500:
                p = said[inside, y]
                z = (np.sum(x1[inside] == y) - p.sum()) / np.sqrt(np.sum(p * (1 - p)))
                assert abs(z) < 4


@pytest.mark.parametrize("name", KAPPAS)
def test_the_flow_ends_at_the_law_of_the_data(name):
    path, n = paths.fisher(V, KAPPAS[name]), 20_000
    velocity = velocities.from_logits(
        jax.tree_util.Partial(lambda path, t, x: posterior(path, t, x), path), path
    )
    x0 = noise_of(path, jax.random.split(jax.random.key(2), n))
    run = sampling.fixed_step(velocity, x0, sampling.grids.uniform(200), method=sampling.heun())
    assert np.all(run.success)
    counts = np.bincount(np.argmax(run.x, axis=-1), minlength=V)
    assert scipy.stats.chisquare(counts, n * LAW).pvalue > 1e-4
    assert np.mean(np.max(run.x, axis=-1) > 0.95) > 0.99


def test_a_transformer_learns_soft_tokens():
    """Through the trainer's own draw and loss, and samples by any solver."""
    path = paths.fisher(V)
    network = networks.linen(networks.Transformer(V, width=16, depth=1, heads=2))
    draw = jax.jit(draws.standard(path, times=times.uniform()).__call__)
    batch = draw(jax.random.key(0), {"x1": jnp.arange(24).reshape(4, 6) % V})
    params = jax.jit(network.init)(jax.random.key(1), batch["t"], batch["x0"])
    value, aux = jax.jit(losses.cross_entropy(network, path).__call__)(params, None, batch)
    assert value == pytest.approx(np.log(V), rel=1e-5)
    assert aux["per_example"].shape == (4,)
    velocity = velocities.from_logits(velocities.from_network(network, params), path)
    run = sampling.fixed_step(velocity, batch["x0"], sampling.grids.uniform(4))
    assert run.x.shape == (4, 6, V)
    assert jnp.all(run.success)
    tokens, said = jnp.arange(24).reshape(4, 6) % V, jax.jit(network)
    soft = jax.nn.one_hot(tokens, V)
    moved = jax.tree.map(lambda a: a + 0.1, params)
    np.testing.assert_allclose(
        said(moved, batch["t"], soft), said(moved, batch["t"], tokens), rtol=1e-4, atol=1e-4
    )


def test_refusals():
    path = paths.fisher(V)
    for x0, x1, match in [
        (jnp.zeros((2, 3, V)), jnp.zeros((2, 3)), "whole numbers"),
        (jnp.zeros((2, 3)), jnp.zeros((2, 3), int), "a point of the sphere a token"),
    ]:
        with pytest.raises(ValueError, match=match):
            path(jnp.zeros(2), x0, x1)
    with pytest.raises(ValueError, match="2 or more"):
        paths.fisher(1)
    with pytest.raises(ValueError, match="has no velocity of logits"):
        velocities.from_logits(lambda t, x: x, paths.linear())
