"""Bits per dimension of codes whose length is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxflow.metrics import bits_per_dim, importance_weighted


@pytest.mark.parametrize(
    ("low", "high", "levels"),
    [(-1.0, 1.0, 256), (0.0, 1.0, 256), (0.0, 256.0, 256), (-1.0, 1.0, 2)],
)
def test_the_uniform_density_needs_every_bit(low, high, levels):
    shape = (8, 8, 3)
    log_prob = jnp.full(5, -np.prod(shape) * np.log(high - low))
    found = bits_per_dim(log_prob, shape, level_width=(high - low) / levels)
    np.testing.assert_allclose(found, np.full(5, np.log2(levels)), rtol=1e-6)


def test_a_density_constant_on_cells_reaches_the_entropy():
    """Where the density is `P(k) / w` on the cell of level `k`, the bound is the entropy itself."""
    p = np.array([0.5, 0.25, 0.125, 0.125])
    width = 2 / 4
    with jax.enable_x64(True):
        bits = bits_per_dim(jnp.asarray(np.log(p / width)), (1,), level_width=width)
    np.testing.assert_allclose(p @ np.asarray(bits), 1.75, rtol=1e-12)


def test_more_copies_tighten_the_bound_up_to_the_code_itself(key, x64):
    """A normal density over cells of width one: the bits fall with every doubling of the copies,
    and never below those of the cell's own mass.
    """
    level, sigma, n, most = 1.0, 0.4, 20_000, 64
    u = jax.random.uniform(key, (most, n, 1))
    log_prob = jax.scipy.stats.norm.logpdf(level - 0.5 + u, scale=sigma)[..., 0]
    mass = np.diff(jax.scipy.stats.norm.cdf(jnp.array([level - 0.5, level + 0.5]) / sigma))[0]
    means, errors = [], []
    for copies in (1, 2, 4, 8, 16, 32, 64):
        bits = bits_per_dim(importance_weighted(log_prob[:copies]), (1,), level_width=1.0)
        means.append(float(bits.mean()))
        errors.append(float(bits.std() / np.sqrt(n)))
    assert all(a > b for a, b in itertools.pairwise(means))
    assert means[-1] > -np.log2(mass) - 4 * errors[-1]
    assert means[-1] + np.log2(mass) < 0.02 < means[0] + np.log2(mass)


def test_half_precision_is_raised():
    assert bits_per_dim(jnp.zeros(2, jnp.bfloat16), (2,)).dtype == jnp.float32


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"event_shape is \(3, 0\): bits"):
        bits_per_dim(jnp.zeros(1), (3, 0))
    for width in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"level_width is {width}: levels lie"):
            bits_per_dim(jnp.zeros(1), (3,), level_width=width)
