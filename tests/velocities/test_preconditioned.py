"""Preconditioning: unit variances by algebra, the paper's table, and what it makes of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow import draws, losses, paths, velocities
from jaxflow.networks import ConcatMLP, linen, self_conditioned
from tests.problems import CURVES, points

T = np.array([0.05, 0.3, 0.5, 0.8, 0.95])
DATA = 0.7


def zero(params, t, x, *, key=None):
    return jnp.zeros_like(x)


def scales(path):
    return map(np.asarray, jax.jit(velocities.preconditioned(zero, path, DATA).scales)(T))


@pytest.mark.parametrize("name", CURVES)
def test_inputs_and_targets_have_unit_variance(name, x64):
    """`x1` and `x0` are independent with variances `d^2` and 1, so those of sums are sums."""
    curve = CURVES[name]
    a, s = (np.array([f(t) for t in T]) for f in curve[1:3])
    c_skip, c_out, c_in, c_noise = scales(curve.path)
    np.testing.assert_allclose(c_in**2 * (a**2 * DATA**2 + s**2), 1.0, rtol=1e-12)
    left = (1 - c_skip * a) ** 2 * DATA**2 + (c_skip * s) ** 2
    np.testing.assert_allclose(left / c_out**2, 1.0, rtol=1e-11)
    for other in (0.99, 1.01):  # the skip leaves the least to the network
        more = (1 - other * c_skip * a) ** 2 * DATA**2 + (other * c_skip * s) ** 2
        assert np.all(more > left)
    correlation = (1 - c_skip * a) * a * DATA**2 - c_skip * s**2  # of the target with x
    np.testing.assert_allclose(correlation / left, 0.0, atol=1e-9)
    np.testing.assert_allclose(c_noise, np.log(s / a) / 4, atol=1e-12)


@pytest.mark.parametrize("name", ["edm", "ve"])
def test_it_is_table_1_where_the_data_are_whole(name, x64):
    curve = CURVES[name]
    s = np.array([curve.sigma(t) for t in T])
    expected = (
        DATA**2 / (s**2 + DATA**2),
        s * DATA / np.sqrt(DATA**2 + s**2),
        1 / np.sqrt(DATA**2 + s**2),
        np.log(s) / 4,
    )
    for one, two in zip(scales(curve.path), expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-11)


@pytest.mark.parametrize("name", ["linear", "vp", "edm"])
def test_data_of_that_variance_leaves_nothing_to_learn(name, x64):
    """Of `N(0, d^2)` the posterior mean is linear: the network that predicts it is zero."""
    path, x = CURVES[name].path, jnp.asarray(points(5))
    exact = velocities.gaussian_mixture(
        path, weights=np.ones(1), means=np.zeros((1, 2)), covariances=np.array([DATA**2])
    )
    network = velocities.preconditioned(zero, path, DATA)
    flow = velocities.from_network(network, None, path=path, prediction="data")

    @jax.jit
    def read(t, x):
        return network(None, t, x), exact.posterior_mean(t, x), flow(t, x), exact(t, x)

    found, mean, velocity, expected = read(jnp.asarray(T), x)
    np.testing.assert_allclose(found, mean, rtol=1e-9)
    np.testing.assert_allclose(velocity, expected, atol=1e-6)


def test_the_network_sees_what_it_says(x64):
    """`F(c_noise, c_in x)`, and its target is what the loss leaves it: the loss of D is
    `c_out^2` times that of F.
    """
    path, seen = paths.cosine(), {}

    def inner(params, t, x, *, key=None, label):
        seen.update(t=t, x=x, key=key, label=label)
        return params * x

    network = velocities.preconditioned(inner, path, DATA)
    t, x0, x1 = jnp.asarray(T), *(jnp.asarray(points(5, seed=i)) for i in (1, 2))
    batch = {"t": t, "x0": x0, "x1": x1, "cond": {"label": jnp.arange(5)}}
    loss = losses.flow_matching(network, path, prediction="data")
    _, aux = loss(0.3, jax.random.key(1), batch)
    c_skip, c_out, c_in, c_noise = (c[:, None] for c in network.scales(t))
    x = path(t, x0, x1).x
    np.testing.assert_allclose(seen["x"], c_in * x)
    np.testing.assert_allclose(seen["t"], c_noise[:, 0])
    assert seen["key"] == jax.random.key(1)
    target = (x1 - c_skip * x) / c_out
    expected = jnp.mean(c_out**2 * (0.3 * c_in * x - target) ** 2, axis=1)
    np.testing.assert_allclose(aux["per_example"], expected, rtol=1e-9)


def test_it_trains_as_any_network():
    """Its parameters are the network's; values and gradients are finite at both ends."""
    module = linen(ConcatMLP(width=8, depth=1))
    for path in (paths.linear(), paths.edm(), paths.vp()):
        network = velocities.preconditioned(module, path)
        x = jax.random.normal(jax.random.key(0), (4, 2))
        params = network.init(jax.random.key(1), jnp.zeros(4), x)
        loss = losses.flow_matching(network, path, prediction="data")
        batch = draws.standard(path)(jax.random.key(2), {"x1": x})
        batch["t"] = jnp.array([0.0, 0.4, 0.7, 1.0])
        for leaf in jax.tree.leaves(
            jax.jit(jax.value_and_grad(loss, has_aux=True))(params, None, batch)
        ):
            assert jnp.all(jnp.isfinite(leaf))
    assert network.gathers == module.gathers
    on_host = network.init_on_host(jax.random.key(1), jnp.zeros(4), x)
    jax.tree.map(np.testing.assert_array_equal, on_host, params)


def test_it_counts_the_calls_of_what_it_wraps():
    """Either way around, a network that reads its own estimate is called twice."""
    path = paths.linear()
    for network, calls in ((zero, 1), (self_conditioned(zero), 2)):
        wrapped = velocities.preconditioned(network, path)
        velocity = velocities.from_network(wrapped, None, path=path, prediction="data")
        assert velocity.evaluations == calls
    outer = self_conditioned(velocities.preconditioned(zero, path))
    assert velocities.from_network(outer, None).evaluations == 2


@pytest.mark.usefixtures("unchecked")
def test_errors():
    with pytest.raises(ValueError, match=r"^preconditioned needs sigma_data > 0; got 0\.0$"):
        velocities.preconditioned(zero, paths.edm(), 0.0)
    with pytest.raises(ValueError, match=r"^an affine path is needed"):
        velocities.preconditioned(zero, len)
