"""Wasserstein, MMD and energy distances against closed forms for Gaussians."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from scipy.stats import wasserstein_distance

from jaxflow.metrics import (
    energy_distance,
    median_distance,
    mmd_squared,
    sliced_wasserstein,
    wasserstein,
)

REPLICATES, N, M, DIM = 400, 24, 30, 3


def mean_absolute(mean, variance):
    """`E|z|` for a normal `z`."""
    spread = math.sqrt(variance)
    return spread * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * variance)) + mean * erf(
        mean / (spread * math.sqrt(2))
    )


def expected_energy(shift, scale):
    """Between N(0, 1) and N(shift, scale^2) on the line."""
    across = mean_absolute(shift, 1 + scale**2)
    return 2 * across - mean_absolute(0.0, 2.0) - mean_absolute(0.0, 2 * scale**2)


def expected_mmd(shift, scale, bandwidths, dim):
    """Between N(0, I) and N(shift, scale^2 I), `shift` in every coordinate."""

    def kernel(shift, variance):
        return np.mean(
            [
                (h**2 / (h**2 + variance)) ** (dim / 2)
                * math.exp(-dim * shift**2 / (2 * (h**2 + variance)))
                for h in bandwidths
            ]
        )

    return kernel(0, 2) + kernel(0, 2 * scale**2) - 2 * kernel(shift, 1 + scale**2)


def replicate(statistic, key, shift, scale, dim):
    """`statistic` of many pairs of small samples: its mean, and the standard error of that."""
    x_key, y_key = jax.random.split(key)
    x = jax.random.normal(x_key, (REPLICATES, N, dim))
    y = shift + scale * jax.random.normal(y_key, (REPLICATES, M, dim))
    values = np.asarray(jax.vmap(statistic)(x, y), np.float64)
    return values.mean(), values.std(ddof=1) / math.sqrt(REPLICATES)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.3, 1.5)])
def test_energy_distance_is_unbiased(key, shift, scale):
    mean, error = replicate(energy_distance, key, shift, scale, dim=1)
    assert abs(mean - expected_energy(shift, scale)) < 4 * error


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.3, 1.5)])
def test_mmd_squared_is_unbiased(key, shift, scale):
    bandwidths = (0.5, 2.0)
    mean, error = replicate(
        lambda x, y: mmd_squared(x, y, bandwidths=bandwidths), key, shift, scale, DIM
    )
    assert abs(mean - expected_mmd(shift, scale, bandwidths, DIM)) < 4 * error


@pytest.mark.parametrize("statistic", [energy_distance, mmd_squared])
def test_unbiased_estimates_tell_distributions_apart(key, statistic):
    null, error = replicate(statistic, key, 0.0, 1.0, DIM)
    apart, _ = replicate(statistic, key, 1.0, 1.0, DIM)
    assert apart > null + 20 * error


def pairwise(x, y):
    return np.linalg.norm(x[:, None] - y[None], axis=-1)


def test_chunks_leave_no_row_out(key):
    """Sizes that are no multiple of a chunk, against sums over all pairs in float64."""
    x = np.asarray(jax.random.normal(key, (300, 2, 2)), np.float64)
    y = 0.5 + np.asarray(jax.random.normal(jax.random.key(1), (260, 2, 2)), np.float64)
    a, b = x.reshape(300, 4), y.reshape(260, 4)
    xx, yy, xy = pairwise(a, a), pairwise(b, b), pairwise(a, b)
    off = [1 - np.eye(300), 1 - np.eye(260)]
    energy = 2 * xy.mean() - (xx * off[0]).sum() / (300 * 299) - (yy * off[1]).sum() / (260 * 259)
    h = np.median(pairwise(np.r_[a, b], np.r_[a, b])[np.triu_indices(560, 1)])
    kxx, kyy, kxy = (np.exp(-(d**2) / (2 * h**2)) for d in (xx, yy, xy))
    mmd = (kxx * off[0]).sum() / (300 * 299) + (kyy * off[1]).sum() / (260 * 259) - 2 * kxy.mean()
    with jax.enable_x64(True):
        x, y = jnp.asarray(x), jnp.asarray(y)
        np.testing.assert_allclose(energy_distance(x, y), energy, rtol=1e-10)
        np.testing.assert_allclose(median_distance(x, y), h, rtol=1e-12)
        np.testing.assert_allclose(mmd_squared(x, y), mmd, rtol=1e-10)


def test_the_median_does_not_meet_one_class_of_many(key):
    """Labels come in turn, four to a round: half of all pairs and more are of two classes."""
    label = np.arange(4000) % 4
    x = 20.0 * label[:, None] + np.asarray(jax.random.normal(key, (4000, 2)))
    y = x[::-1] + 0.0
    some = np.random.default_rng(1).choice(4000, 500, replace=False)
    expected = np.median(pairwise(x[some], x[some])[np.triu_indices(500, 1)])
    found = median_distance(x, y)
    assert abs(found - expected) < 1.0
    h = float(found)
    kernel = mmd_squared(x, x + 5.0, bandwidths=[h])
    np.testing.assert_allclose(mmd_squared(x, x + 5.0), kernel, rtol=0.05)


def test_a_copy_is_no_distance_away(key):
    """Coincident samples count as such, though their distance is expanded."""
    x = 30 + jax.random.normal(key, (2, 50))
    apart = np.linalg.norm(np.subtract(*np.asarray(x, float)))
    found = energy_distance(jnp.repeat(x, 2, axis=0), jnp.repeat(x, 2, axis=0))
    np.testing.assert_allclose(found, -apart / 3, rtol=1e-6)
    assert median_distance(jnp.repeat(x[:1], 9, axis=0), x[:2]) == 0


def test_a_far_origin_costs_no_precision(key):
    x, y = (jax.random.normal(k, (64, DIM)) for k in jax.random.split(key))
    far = 1024.0
    near = energy_distance(x, y + 0.5)
    np.testing.assert_allclose(energy_distance(x + far, y + 0.5 + far), near, atol=2e-3)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 17), (1, 30), (12, 8)])
def test_wasserstein_equals_scipy(n, m):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=n), rng.normal(size=m) + 1
    with jax.enable_x64(True):
        ours = wasserstein(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(ours, wasserstein_distance(x, y), rtol=1e-12)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.5])
def test_wasserstein_of_a_shift_is_the_shift(key, order):
    x = jax.random.normal(key, (50,))
    np.testing.assert_allclose(wasserstein(x, x[::-1] + 2.5, order=order), 2.5, rtol=1e-5)
    np.testing.assert_allclose(wasserstein(x, jnp.repeat(x, 3) - 2.5, order=order), 2.5, rtol=1e-5)


def test_sliced_wasserstein_of_a_shift(key):
    """`SW_2^2 = |shift|^2 / d`, where only the directions are random."""
    x = jax.random.normal(key, (20, 2, 3))
    shift = jnp.arange(6.0).reshape(2, 3)
    square, d, projections = float(jnp.sum(shift**2)), 6, 2000
    found = sliced_wasserstein(key, x, x + shift, projections=projections) ** 2
    error = square * math.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / projections)
    assert abs(found - square / d) < 4 * error


def test_sliced_wasserstein_in_one_dimension_is_wasserstein(key):
    x, y = jax.random.normal(key, (20, 1)), jax.random.uniform(key, (30, 1))
    sliced = sliced_wasserstein(key, x, y, order=1.0, projections=3)
    np.testing.assert_allclose(sliced, wasserstein(x[:, 0], y[:, 0]), rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: wasserstein(x[:, 0], y[:, 0], order=0.5), "order is 0.5: a Wasserstein"),
        (lambda x, y: wasserstein(x[:, 0], y[:, 0], order=math.nan), "order is nan: a Wasserstein"),
        (lambda x, y: wasserstein(x[:, 0], y[:, 0], order=math.inf), "order is inf: a Wasserstein"),
        (lambda x, y: wasserstein(x[0, 0], y[0, 0]), r"got shape \(\): at least 1 samples"),
        (
            lambda x, y: sliced_wasserstein(jax.random.key(0), x, y, projections=0),
            "projections is 0: at least one",
        ),
        (
            lambda x, y: sliced_wasserstein(jax.random.key(0), x, y[:, :2]),
            r"samples of shape \(3,\) and \(2,\) cannot be compared",
        ),
        (lambda x, y: energy_distance(x[:1], y), r"got shape \(1, 3\): at least 2 samples"),
        (lambda x, y: mmd_squared(x, y[:1]), r"got shape \(1, 3\): at least 2 samples"),
        (lambda x, y: median_distance(x, y[:, :2]), "cannot be compared"),
        *(
            (lambda x, y, h=h: mmd_squared(x, y, bandwidths=h), "give one or more positive numbers")
            for h in ([1.0, -1.0], [], [math.nan], 0.0)
        ),
    ],
)
def test_wrong_inputs_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(jnp.ones((4, 3)), jnp.ones((5, 3)))
