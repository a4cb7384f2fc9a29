"""Tokens as the largest of Gaussian entries: their law, and what a network is trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxflow import draws, losses, networks, paths, sources, times
from jaxflow.paths.duo import clock_of
from jaxflow.types import Held


def path_of(vocabulary, **kwargs):
    return paths.duo(source=sources.uniform_tokens(vocabulary), **kwargs)


def test_two_tokens_in_closed_form():
    """The larger of two is the data's where their difference is positive."""
    ratio = np.linspace(0.1, 6, 30)
    found = -np.expm1(-clock_of(ratio, 2))
    np.testing.assert_allclose(found, scipy.special.erf(ratio / 2), rtol=1e-12)
    path, t = path_of(2), jnp.linspace(0.01, 0.999, 50)
    ratio = path.ratio(t, jnp.zeros((50, 1), int))[:, 0]
    np.testing.assert_allclose(ratio, 2 * scipy.special.erfinv(np.asarray(t)), atol=3e-5)


def test_three_tokens_in_closed_form():
    """Without a mean a third each; with one, by the orthant of a correlated pair of normals."""
    ratio = np.array([0.5, 2.0])
    pair = scipy.stats.multivariate_normal(cov=[[2, 1], [1, 2]])
    right = pair.cdf(np.stack([ratio, ratio], -1))
    np.testing.assert_allclose(-np.expm1(-clock_of(ratio, 3)), (3 * right - 1) / 2, atol=1e-6)
    np.testing.assert_allclose(clock_of(np.zeros(1), 50_257), 0, atol=1e-9)


@pytest.mark.parametrize("vocabulary", [3, 27, 5000])
@pytest.mark.parametrize("temperature", [0.0, 1e-3])
def test_tokens_have_the_law_of_the_mixture(vocabulary, temperature):
    path, n, t = path_of(vocabulary, temperature=temperature), 20_000, 0.4
    n = n if vocabulary < 100 else 2_000

    @jax.jit
    def points(path, key):
        x1 = jnp.full((n, 1), 2)
        batch = draws.standard(path, times=times.constant(t))(key, {"x1": x1})
        return path(batch["t"], batch["x0"], x1, batch["z"]).x

    x = np.asarray(points(path, jax.random.key(0)))
    if temperature:
        np.testing.assert_allclose(np.sum(x, axis=-1), 1, rtol=1e-5)
        x = np.argmax(x, axis=-1)
    share = t + (1 - t) / vocabulary
    right = np.sum(x == 2)
    assert abs(right - n * share) < 4 * np.sqrt(n * share * (1 - share))
    if vocabulary == 3:
        counts = np.bincount(x[:, 0], minlength=3)
        law = np.array([(1 - t) / 3, (1 - t) / 3, share])
        assert scipy.stats.chisquare(counts, n * law).pvalue > 1e-4


def test_the_loss_of_a_network_of_soft_tokens(key):
    """It is that of the tokens where a network reads the largest alone, and has a gradient."""
    path, x1 = path_of(5), jax.random.randint(key, (8, 4), 0, 5)
    batch = jax.jit(draws.standard(path).__call__)(key, {"x1": x1})
    batch["t"] = batch["t"].at[:2].set(jnp.array([0.0, 1.0]))
    made = networks.linen(networks.Transformer(5, width=8, depth=1, heads=2))
    params = made.init(key, batch["t"], batch["x0"])
    network = jax.jit(lambda params, t, x, *, key=None: made(params, t, x))
    params = jax.tree.map(lambda a: a + 0.1, params)
    run = jax.jit(
        jax.value_and_grad(lambda p: losses.generalised_kl(network, path)(p, None, batch)[0])
    )
    value, gradient = run(params)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((value, gradient)))

    def of_largest(params, t, x, *, key=None):
        return network(params, t, jnp.argmax(x, -1) if x.ndim == 3 else x)

    of_paths = (path, path_of(5, temperature=0.0))

    @jax.jit
    def soft_hard_and_apart(params, batch):
        soft, hard = (
            losses.generalised_kl(of_largest, p)(params, None, batch)[0] for p in of_paths
        )
        tokens = path(batch["t"], batch["x0"], x1, batch["z"]).x.argmax(-1)
        said = network(params, batch["t"], tokens)
        return soft, hard, path.hard.divergence(batch["t"], tokens, x1, said)

    soft, hard, apart = soft_hard_and_apart(params, batch)
    np.testing.assert_allclose(soft, hard, rtol=1e-6)
    np.testing.assert_allclose(hard, np.mean(apart), rtol=1e-6)


def test_refusals(key):
    with pytest.raises(ValueError, match=r"uniform_tokens\(vocabulary\); got Mask"):
        paths.duo(source=sources.mask(5))
    with pytest.raises(ValueError, match="got Tokens"):
        paths.duo(source=sources.tokens([1.0, 2.0]))
    with pytest.raises(ValueError, match="0 or more; got -1"):
        path_of(3, temperature=-1.0)
    x = jnp.zeros((2, 4), int)
    with pytest.raises(ValueError, match=r"z=path\.latent"):
        path_of(3)(jnp.zeros(2), x, x)


def test_the_minimum_of_distillation_in_closed_form(key):
    """Of one of two tokens: the later token is known in law given the one there is now."""
    path, step, t, n = path_of(2, temperature=0.0), 0.25, 0.4, 4000
    loss = losses.discrete_consistency(table, path, step=step)
    spread = scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)  # of the difference of both entries
    z = np.stack([-spread, spread], -1)[:, None] / np.sqrt(2)
    z, x1 = np.tile(z, (2, 1, 1)), np.repeat([0, 1], n)[:, None]
    batch = {"t": jnp.full(2 * n, t), "x0": x1, "x1": x1, "z": jnp.asarray(z, jnp.float32)}
    said = np.array([[0.8, 0.2], [0.3, 0.7]])
    held = Held(jnp.int32(0), {"ema": {"table": jnp.log(jnp.asarray(said))}}, None)
    ratio = 2 * scipy.special.erfinv([t, t + step])
    now, later = scipy.stats.norm.cdf(ratio / np.sqrt(2))  # that a token is the data's
    wanted = said + (later - now) * (said[::-1] - said)  # as it only ever becomes the data's
    gradient = jax.jit(jax.grad(lambda p: loss(p, None, batch, held)[0]))
    never = {"table": jnp.array([[-jnp.inf, 0.0], [0.0, -jnp.inf]])}
    sure = Held(held.step, {"ema": never}, None)
    assert loss(never, None, batch, sure)[0] >= 0
    at = gradient({"table": jnp.log(jnp.asarray(wanted, jnp.float32))})["table"]
    np.testing.assert_allclose(at, 0, atol=2e-3)
    moved = gradient({"table": jnp.log(jnp.asarray(said, jnp.float32))})["table"]
    assert np.max(np.abs(moved)) > 0.02


def table(params, t, x, *, key=None):
    return params["table"][x]
