"""Maximum likelihood: the density of a linear flow is known, and its gradient too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxflow import draws, losses, sampling, training


def growing(params, t, x, *, key=None):
    """`dx/dt = a x + b`, whose flow is `x(1) = e^a x(0) + b (e^a - 1) / a`."""
    return params["a"] * x + params["b"]


def closed_form(params, x1):
    a, b = params["a"], params["b"]
    x0 = (x1 - b * jnp.expm1(a) / a) * jnp.exp(-a)
    log_prob = jnp.sum(jax.scipy.stats.norm.logpdf(x0), -1) - a * x1.shape[-1]
    return -jnp.mean(log_prob) / x1.shape[-1]


PARAMS = {"a": jnp.asarray(0.6), "b": jnp.asarray(-0.4)}


@pytest.mark.parametrize("divergence", [sampling.exact(), sampling.hutchinson(2)])
def test_value_and_gradient_are_those_of_the_density(divergence, key, x64):
    """Both divergences are exact for a multiple of the identity."""
    params = jax.tree.map(lambda a: jnp.asarray(a, float), PARAMS)
    x1 = 1.3 * jax.random.normal(key, (5, 3)) + 0.2
    batch = draws.keys()(key, {"x1": x1})
    loss = losses.maximum_likelihood(
        growing, grid=sampling.grids.uniform(16), method=sampling.rk4(), divergence=divergence
    )
    value, gradient = jax.jit(jax.value_and_grad(lambda p: loss(p, None, batch)[0]))(params)
    expected, slope = jax.jit(jax.value_and_grad(closed_form))(params, x1)
    np.testing.assert_allclose(value, expected, rtol=1e-7)
    np.testing.assert_allclose(list(gradient.values()), list(slope.values()), rtol=1e-5)


def test_it_trains_to_the_spread_of_the_data(key):
    """At the minimum `e^a` is the root mean square; through a program, over all devices."""
    loss = losses.maximum_likelihood(growing, grid=sampling.grids.uniform(4))
    run = training.program(training.trainer(loss, optax.adam(0.05), draw=draws.keys()))
    x1 = 1.5 * np.asarray(jax.random.normal(key, (256, 2)))
    state = run.init({"a": jnp.asarray(0.0), "b": jnp.asarray(0.1)}, key)
    for _ in range(150):
        state, _ = run.step(state, run.place({"x1": x1}))
    np.testing.assert_allclose(np.exp(state.params["a"]), x1.std(), rtol=0.02)


def test_what_it_cannot_do_is_one_sentence(key):
    with pytest.raises(ValueError, match=r"add keys by draws\.keys\(\)"):
        losses.maximum_likelihood(growing)(PARAMS, None, {"x1": jnp.ones((2, 1))})
    with pytest.raises(ValueError, match=r"runs from 0 to 1; got \[0.0, 0.5\]"):
        losses.maximum_likelihood(growing, grid=[0.0, 0.5])
    with pytest.raises(TypeError, match="method"):
        losses.maximum_likelihood(growing, method=sampling.heun)
