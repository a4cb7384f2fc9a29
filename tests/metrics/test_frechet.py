"""The Fréchet distance against its closed forms, and streaming against all at once."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from jaxflow.metrics import Moments, frechet, frechet_from_moments, moments, streamed_moments


def gaussian(mean, covariance):
    """Moments whose mean and covariance are exactly these."""
    return Moments(2, np.asarray(mean, float), np.asarray(covariance, float))


def random_covariance(rng, d, rank=None):
    factor = rng.normal(size=(d, rank or d))
    return factor @ factor.T


def test_one_dimension():
    found = frechet_from_moments(gaussian([1.0], [[4.0]]), gaussian([3.0], [[9.0]]))
    np.testing.assert_allclose(found, (3 - 1) ** 2 + (3 - 2) ** 2, rtol=1e-14)


def test_commuting_covariances():
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    a, b = rng.uniform(0.1, 3, 6), rng.uniform(0.1, 3, 6)
    shift = rng.normal(size=6)
    found = frechet_from_moments(
        gaussian(np.zeros(6), (axes * a) @ axes.T), gaussian(shift, (axes * b) @ axes.T)
    )
    expected = shift @ shift + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_equals_the_matrix_square_root():
    rng = np.random.default_rng(1)
    a, b = random_covariance(rng, 8), random_covariance(rng, 8)
    found = frechet_from_moments(gaussian(np.zeros(8), a), gaussian(np.ones(8), b))
    expected = 8 + np.trace(a + b - 2 * sqrtm(a @ b).real)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_singular_covariances():
    """Of lower rank, on planes that share nothing, and of no extent at all."""
    rng = np.random.default_rng(2)
    low = random_covariance(rng, 40, rank=3)
    zero = np.zeros(40)
    assert abs(frechet_from_moments(gaussian(zero, low), gaussian(zero, low))) < 1e-12 * low.trace()
    first, second = np.diag([2.0, 0.0]), np.diag([0.0, 5.0])
    apart = frechet_from_moments(gaussian([0, 0], first), gaussian([0, 0], second))
    np.testing.assert_allclose(apart, 7, rtol=1e-14)
    point = frechet_from_moments(gaussian([0, 0], np.zeros((2, 2))), gaussian([0, 3], first))
    np.testing.assert_allclose(point, 11, rtol=1e-14)


def test_a_linear_map_is_measured_exactly():
    """`y = s x + c` on the same samples: `d^2 = |mean shift|^2 + (s - 1)^2 tr C`."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 2, 3)).astype(np.float32)
    shift = x.mean(0, dtype=np.float64) + 0.5
    expected = np.sum(shift**2) + np.trace(moments(x).covariance)
    np.testing.assert_allclose(frechet(x, 2 * x + np.float32(0.5)), expected, rtol=1e-6)
    np.testing.assert_allclose(frechet(x, x), 0, atol=1e-12)


@pytest.mark.parametrize("cuts", [[1], [10, 11], [3, 50, 77]])
def test_streaming_equals_all_at_once(cuts):
    x = np.random.default_rng(4).normal(loc=1e4, size=(80, 5))
    whole, batches = moments(x), np.split(x, cuts)
    streamed = streamed_moments(batches)
    assert streamed.count == 80
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(streamed.covariance, np.cov(x.T), rtol=1e-8, atol=1e-8)
    updated = moments(batches[0]).update(np.concatenate(batches[1:]))
    np.testing.assert_allclose(updated.scatter, whole.scatter, rtol=1e-8, atol=1e-8)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match="a covariance needs at least two features; got 1"):
        frechet(np.ones((1, 3)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="features hold values that are not finite"):
        moments([[np.nan]])
    with pytest.raises(ValueError, match="features of 3 and of 2 numbers"):
        frechet(np.ones((4, 3)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="features of 1 and of 3 numbers"):
        streamed_moments([np.ones((2, 1)), np.ones((2, 3))])
    with pytest.raises(ValueError, match="got no batch of features"):
        streamed_moments(iter([]))


def test_rounding_leaves_nothing_negative():
    x = np.random.default_rng(5).normal(size=(20, 6))
    assert all(frechet(x * scale, x[::-1] * scale) >= 0 for scale in np.linspace(0.1, 100, 200))
