r"""Weights that papers give for the error of the noise, in whichever space a loss squares errors.

At one point $x_t = \alpha x_1 + \sigma x_0$ an error $e$ of the noise is one of

(1) data $-\frac{\sigma}{\alpha} e$, velocity $\frac{\alpha \dot\sigma - \sigma \dot\alpha}{\alpha}
    e$, score $-\frac1\sigma e$, Salimans & Ho's v $\frac{\alpha^2 + \sigma^2}{\alpha} e$

so a weight $w$ of the noise's square is $w$ over the square of that factor elsewhere. With the
signal-to-noise ratio $\rho = \alpha^2 / \sigma^2$ and $\lambda = \ln \rho$:

| weight | of the noise's error |
|---|---|
| likelihood | $\frac12 \dot\lambda$ |
| sigmoid | $\frac12 \dot\lambda\, \operatorname{sigmoid}(b - \lambda)$ |
| min_snr | $\min(1, \gamma / \rho)$ |
| edm | $1 + 1 / (\sigma_{data}^2\, \rho)$ |

where $\dot\lambda = 2\, |\alpha \dot\sigma - \sigma \dot\alpha| / (\alpha \sigma)$. The factor
$\dot\lambda$ makes the first two independent of the schedule: they weigh levels of noise, however
long a path stays at each. Times where $\alpha$, $\sigma$ or the determinant are below $10^{-4}$ are
read as the nearest where they are not.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.paths.ends import DIVISORS, nonzero_interval, schedule_of
from jaxflow.paths.schedules import coefficients
from jaxflow.records import record, static
from jaxflow.types import Array, Interval, Path, Schedule, Time
from jaxflow.velocities.prediction import check_kind

__all__ = ["edm", "likelihood", "min_snr", "sigmoid"]


@record
class OfNoise:
    """A weight of the noise's error, carried to the space `regress` by (1)."""

    schedule: Schedule
    weight: Any
    regress: str = static()
    interval: Interval = static()

    def __call__(self, t: Time) -> Array:
        t = jnp.clip(at_least_float32(t), *self.interval)
        alpha, sigma, alpha_dot, sigma_dot = coefficients(self.schedule, t)
        det = jnp.abs(alpha * sigma_dot - sigma * alpha_dot)
        factor = {
            "noise": jnp.ones_like(t),
            "data": sigma / alpha,
            "velocity": det / alpha,
            "score": 1 / sigma,
            "salimans_ho": (alpha**2 + sigma**2) / alpha,
        }[self.regress]
        return self.weight((alpha / sigma) ** 2, 2 * det / (alpha * sigma)) / factor**2


@record
class Likelihood:
    """Of each level of noise as the likelihood has it."""

    def __call__(self, snr: Array, rate: Array) -> Array:
        return rate / 2


@record
class Sigmoid:
    """Less of low noise."""

    bias: float = static()

    def __call__(self, snr: Array, rate: Array) -> Array:
        return rate / 2 * jax.nn.sigmoid(self.bias - jnp.log(snr))


@record
class MinSNR:
    """The data's error, by a signal-to-noise ratio that is cut off."""

    gamma: float = static()

    def __call__(self, snr: Array, rate: Array) -> Array:
        return jnp.minimum(1.0, self.gamma / snr)


@record
class EDM:
    """The data's error, so weighed that an untrained preconditioned network has one everywhere."""

    sigma_data: float = static()

    def __call__(self, snr: Array, rate: Array) -> Array:
        return 1 + 1 / (self.sigma_data**2 * snr)


def _of_noise(path: Path, weight: Any, regress: str) -> OfNoise:
    check_kind("regress", regress)
    schedule = schedule_of(path)
    lows, highs = zip(*(nonzero_interval(schedule, name) for name in DIVISORS), strict=True)
    return OfNoise(schedule, weight, regress, (max(lows), min(highs)))


def likelihood(path: Path, *, regress: str = "velocity") -> OfNoise:
    """The weight under which the loss bounds the negative log-likelihood, up to a constant.

    The mean squared error of the noise so weighed, of uniform times, is the continuous-time bound
    in nats a dimension. In the space of velocities it is not bounded as the noise vanishes: draw
    times that lean to the noise and weigh them by `importance`.

    Kingma et al., Variational Diffusion Models, 2021, arXiv:2107.00630; Song et al.,
    Maximum Likelihood Training of Score-Based Diffusion Models, 2021, arXiv:2101.09258.

    Args:
        path: an affine path.
        regress: the space in which the loss squares errors.

    Raises:
        ValueError: for a path without schedule, or an unknown space.
    """
    return _of_noise(path, Likelihood(), regress)


def sigmoid(path: Path, bias: float, *, regress: str = "velocity") -> OfNoise:
    """The likelihood's weight, less of levels whose log signal-to-noise ratio is beyond `bias`.

    Kingma & Gao, Understanding Diffusion Objectives as the ELBO, 2023, arXiv:2303.00848; Hoogeboom
    et al., Simpler Diffusion, 2024, arXiv:2410.19324.

    Args:
        path: an affine path.
        bias: the log signal-to-noise ratio at which the weight is halved; lower for larger images.
        regress: the space in which the loss squares errors.

    Raises:
        ValueError: for a path without schedule, an unknown space, or a bias that is not finite.
    """
    if not math.isfinite(bias):
        raise ValueError(f"sigmoid needs a finite bias; got {bias}")
    return _of_noise(path, Sigmoid(bias), regress)


def min_snr(path: Path, gamma: float = 5.0, *, regress: str = "velocity") -> OfNoise:
    """The error of the data, weighed by a signal-to-noise ratio that is cut off at `gamma`.

    Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy, 2023,
    arXiv:2303.09556.

    Args:
        path: an affine path.
        gamma: the largest ratio.
        regress: the space in which the loss squares errors.

    Raises:
        ValueError: for a path without schedule, an unknown space, or a gamma that is not positive.
    """
    if not 0 < gamma < math.inf:
        raise ValueError(f"min_snr needs gamma > 0; got {gamma}")
    return _of_noise(path, MinSNR(gamma), regress)


def edm(path: Path, sigma_data: float = 0.5, *, regress: str = "data") -> OfNoise:
    """The weight of a preconditioned network, whose own output then has an error weighed by one.

    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
    arXiv:2206.00364, table 1: `(r^2 + s^2) / (r s)^2` of the data's error, at `r = sigma / alpha`.

    Args:
        path: an affine path.
        sigma_data: `s`, the standard deviation of the data.
        regress: the space in which the loss squares errors.

    Raises:
        ValueError: for a path without schedule, an unknown space, or a deviation that is not
            positive.
    """
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"edm needs sigma_data > 0; got {sigma_data}")
    return _of_noise(path, EDM(sigma_data), regress)
