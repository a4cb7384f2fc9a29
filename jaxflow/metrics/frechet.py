r"""The Fréchet distance of two sets of features, in float64 on the host.

(1) $d^2 = |m_a - m_b|^2 + \mathrm{tr}\,(C_a + C_b - 2\,(C_a^{1/2} C_b C_a^{1/2})^{1/2})$

With factors $C_a = A A^T$ and $C_b = B B^T$ the last trace is the sum of the singular values of
$A^T B$: real, never negative, and as exact for singular covariances as for any other.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxflow.metrics.features import rows

__all__ = ["Moments", "frechet", "frechet_from_moments", "moments", "streamed_moments"]


@dataclass(frozen=True)
class Moments:
    """How many features, their mean `[d]`, and the sum of outer products of deviations `[d, d]`."""

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The unbiased covariance.

        Raises:
            ValueError: for fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two features; got {self.count}")
        return self.scatter / (self.count - 1)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together.

        Reference: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
        Sample Variances, 1979; outer products stand for its squares.

        Raises:
            ValueError: for features of another size.
        """
        _check_sizes(self, other)
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def update(self, features: ArrayLike) -> "Moments":
        """The moments once `features [n, *event]` have come too."""
        return self.merge(moments(features))


def moments(features: ArrayLike) -> Moments:
    """The moments of `features [n, *event]`, in float64.

    Raises:
        ValueError: for no features, or a value that is not finite.

    >>> moments([[0.0], [2.0]]).covariance
    array([[2.]])
    """
    x = rows(np.asarray(features, np.float64))
    if not np.isfinite(x).all():
        raise ValueError("features hold values that are not finite: drop those samples and say so")
    mean = x.mean(axis=0)
    return Moments(len(x), mean, (x - mean).T @ (x - mean))


def streamed_moments(batches: Iterable[ArrayLike]) -> Moments:
    """The moments of batches of features, one batch in memory at a time.

    Raises:
        ValueError: for no batch, or batches that `moments` refuses or that differ in size.
    """
    each = map(moments, batches)
    first = next(each, None)
    if first is None:
        raise ValueError("got no batch of features: an iterator that was read before has none left")
    return functools.reduce(Moments.merge, each, first)


def frechet(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """The squared Fréchet distance (1) of two sets of features, in their units squared.

    Args:
        features_a: `[n, *event]`, such as pixels or a network's activations.
        features_b: `[m, *event]` of the same event.

    Raises:
        ValueError: for fewer than two features in a set, events that differ, or values that are
            not finite.

    This is (1), which is known as FID for Inception features, without a square root. Biased upwards
    by an amount of order `1/n + 1/m`: compare only figures of equal sample sizes.

    Reference: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium, 2017, arXiv:1706.08500, equation 6.
    """
    return frechet_from_moments(moments(features_a), moments(features_b))


def frechet_from_moments(a: Moments, b: Moments) -> float:
    """The squared Fréchet distance (1) of two records of moments.

    Raises:
        ValueError: for fewer than two features in a record, or dimensions that differ.
    """
    _check_sizes(a, b)
    factor_a, factor_b = _factor(a.covariance), _factor(b.covariance)
    overlap = np.linalg.svd(factor_a.T @ factor_b, compute_uv=False).sum()
    shift = np.sum((a.mean - b.mean) ** 2)
    return max(0.0, float(shift + np.sum(factor_a**2) + np.sum(factor_b**2) - 2 * overlap))


def _check_sizes(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and of {b.mean.size} numbers: use one kind")


def _factor(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """`A [d, rank]` with `A A^T` the covariance, its rounding noise left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
