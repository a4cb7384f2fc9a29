"""Problems whose answers are known: what the tests of the core measure against.

Everything here is written anew, in numpy, from linear-Gaussian algebra: nothing is shared with the
code under test but the names of the paths.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import logsumexp

from jaxflow import paths
from jaxflow.types import Path


class Curve(NamedTuple):
    """A path and what its schedule must be: shares of data and noise, and their slopes."""

    path: Path
    alpha: Callable[[float], float]
    sigma: Callable[[float], float]
    alpha_dot: Callable[[float], float]
    sigma_dot: Callable[[float], float]


def _vp(beta_min: float, beta_max: float) -> Curve:
    def total(t):
        return beta_min * (1 - t) + (beta_max - beta_min) * (1 - t) ** 2 / 2

    def rate(t):
        return beta_min + (beta_max - beta_min) * (1 - t)

    def alpha(t):
        return math.exp(-total(t) / 2)

    def sigma(t):
        return math.sqrt(-math.expm1(-total(t)))

    return Curve(
        paths.vp(beta_min, beta_max),
        alpha,
        sigma,
        lambda t: rate(t) * alpha(t) / 2,
        lambda t: -rate(t) * alpha(t) ** 2 / (2 * sigma(t)),
    )


HALF_PI = math.pi / 2

CURVES = {
    "linear": Curve(paths.linear(), lambda t: t, lambda t: 1 - t, lambda t: 1.0, lambda t: -1.0),
    "linear(.1)": Curve(
        paths.linear(0.1), lambda t: t, lambda t: 1 - 0.9 * t, lambda t: 1.0, lambda t: -0.9
    ),
    "cosine": Curve(
        paths.cosine(),
        lambda t: math.sin(HALF_PI * t),
        lambda t: math.cos(HALF_PI * t),
        lambda t: HALF_PI * math.cos(HALF_PI * t),
        lambda t: -HALF_PI * math.sin(HALF_PI * t),
    ),
    "polynomial(2)": Curve(
        paths.polynomial(2), lambda t: t**2, lambda t: 1 - t**2, lambda t: 2 * t, lambda t: -2 * t
    ),
    "polynomial(1.5)": Curve(
        paths.polynomial(1.5),
        lambda t: t**1.5,
        lambda t: 1 - t**1.5,
        lambda t: 1.5 * t**0.5,
        lambda t: -1.5 * t**0.5,
    ),
    "vp": _vp(0.1, 20.0),
    "linear_vp": Curve(
        paths.linear_vp(),
        lambda t: t,
        lambda t: math.sqrt(1 - t**2),
        lambda t: 1.0,
        lambda t: -t / math.sqrt(1 - t**2),
    ),
}


def _ve(sigma_min: float, sigma_max: float) -> Curve:
    rate = math.log(sigma_max / sigma_min)

    def sigma(t):
        return sigma_max ** (1 - t) * sigma_min**t

    return Curve(
        paths.ve(sigma_min, sigma_max),
        lambda t: 1.0,
        sigma,
        lambda t: 0.0,
        lambda t: -rate * sigma(t),
    )


def _edm(sigma_min: float, sigma_max: float, rho: float) -> Curve:
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    def root(t):
        return high + t * (low - high)

    return Curve(
        paths.edm(sigma_min, sigma_max, rho),
        lambda t: 1.0,
        lambda t: root(t) ** rho,
        lambda t: 0.0,
        lambda t: rho * root(t) ** (rho - 1) * (low - high),
    )


def _inverse_cosine() -> Curve:
    """By the paper's `alpha^2 = arccos(2 s - 1) / pi` at `s = 1 - t`, less exact near the ends."""

    def alpha(t):
        return math.sqrt(math.acos(1 - 2 * t) / math.pi)

    def sigma(t):
        return math.sqrt(math.acos(2 * t - 1) / math.pi)

    def half_rate(t):
        return 0.5 / (math.pi * math.sqrt(t * (1 - t)))

    return Curve(
        paths.inverse_cosine(),
        alpha,
        sigma,
        lambda t: half_rate(t) / alpha(t),
        lambda t: -half_rate(t) / sigma(t),
    )


def _shifted(curve: Curve, shift: float) -> Curve:
    """`u = 1 - t` becomes `shift u / (1 + (shift - 1) u)`, as the paper says it."""

    def time(t):
        return 1 - shift * (1 - t) / (1 + (shift - 1) * (1 - t))

    def rate(t):
        return shift / (1 + (shift - 1) * (1 - t)) ** 2

    return Curve(
        paths.shifted(curve.path, shift),
        lambda t: curve.alpha(time(t)),
        lambda t: curve.sigma(time(t)),
        lambda t: rate(t) * curve.alpha_dot(time(t)),
        lambda t: rate(t) * curve.sigma_dot(time(t)),
    )


CURVES |= {
    "inverse_cosine": _inverse_cosine(),
    "ve": _ve(0.05, 20.0),
    "edm": _edm(0.002, 80.0, 7.0),
    "shifted": _shifted(CURVES["cosine"], 3.0),
}

WEIGHTS = np.array([0.5, 0.2, 0.3])
MEANS = np.array([[1.0, -0.5], [-1.5, 0.3], [0.2, 2.0]])
COVARIANCES = np.array(
    [[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.4]], [[0.1, 0.0], [0.0, 0.6]]]
)


class Marginal(NamedTuple):
    """What is known of a mixture's marginal at one time, at the points asked for."""

    log_prob: np.ndarray
    velocity: np.ndarray
    data: np.ndarray
    noise: np.ndarray
    score: np.ndarray


def marginal(curve: Curve, t: float, x: np.ndarray) -> Marginal:
    """The mixture above on a path at time `t`, at points `x [n, 2]`, by joint Gaussians.

    Within a component `(x_t, x1, x0)` is jointly Gaussian, so each conditional mean is linear in
    `x`, with the regression matrix `Cov(., x_t) Cov(x_t)^-1`.
    """
    a, s = curve.alpha(t), curve.sigma(t)
    log_joint, data, noise, score = [], [], [], []
    for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        total = a**2 * covariance + s**2 * np.eye(2)
        inverse = np.linalg.inv(total)
        offset = x - a * mean
        square = np.einsum("ni,ij,nj->n", offset, inverse, offset)
        log_joint.append(
            math.log(weight) - square / 2 - np.log(np.linalg.det(total)) / 2 - math.log(2 * math.pi)
        )
        data.append(mean + offset @ (a * covariance @ inverse).T)
        noise.append(offset @ (s * inverse).T)
        score.append(-offset @ inverse)
    log_prob = logsumexp(log_joint, axis=0)
    share = np.exp(np.array(log_joint) - log_prob)[..., None]
    data, noise, score = (np.sum(share * np.array(part), axis=0) for part in (data, noise, score))
    velocity = curve.alpha_dot(t) * data + curve.sigma_dot(t) * noise
    return Marginal(log_prob, velocity, data, noise, score)


def points(n: int, d: int = 2, seed: int = 0) -> np.ndarray:
    """Points about where the mixture lies."""
    return 1.5 * np.random.default_rng(seed).standard_normal((n, d))


class Gaussian(NamedTuple):
    """Data `N(mean, covariance)`: its flow is affine and known."""

    mean: np.ndarray
    covariance: np.ndarray

    def carry(self, curve: Curve, x: np.ndarray, start: float, stop: float) -> np.ndarray:
        """`x` at time `start`, carried by the flow to `stop`.

        The covariance of the marginal keeps its eigenvectors, and each coordinate along them is
        stretched as its standard deviation is.
        """
        root = self._root(curve, stop) @ np.linalg.inv(self._root(curve, start))
        return curve.alpha(stop) * self.mean + (x - curve.alpha(start) * self.mean) @ root.T

    def log_prob(self, curve: Curve, x: np.ndarray, stop: float, start: float = 0.0) -> np.ndarray:
        """Log-density at `stop` of what the flow makes of the path's noise at `start`."""
        root = self._root(curve, stop) @ np.linalg.inv(self._root(curve, start))
        offset = x - (curve.alpha(stop) * self.mean - curve.alpha(start) * root @ self.mean)
        root = root * curve.sigma(start)
        z = np.linalg.solve(root, offset.T).T
        d = len(self.mean)
        log_root = np.linalg.slogdet(root)[1]
        return -0.5 * np.sum(z**2, axis=1) - log_root - d / 2 * math.log(2 * math.pi)

    def _root(self, curve: Curve, t: float) -> np.ndarray:
        values, axes = np.linalg.eigh(self.covariance)
        return axes @ np.diag(np.sqrt(curve.alpha(t) ** 2 * values + curve.sigma(t) ** 2)) @ axes.T


GAUSSIAN = Gaussian(MEANS[0], COVARIANCES[0])


def some_fast(names: Iterable[str], fast: Iterable[str] = ("linear", "vp")) -> list:
    """Every name as a parameter, all but some of them for the slow run."""
    marks = {True: (), False: (pytest.mark.slow,)}
    return [pytest.param(name, marks=marks[name in fast]) for name in names]
