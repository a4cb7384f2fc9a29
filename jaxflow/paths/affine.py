r"""Affine paths between a source and data.

(1) $x_t = \alpha(t)\, x_1 + \sigma(t)\, x_0$

(2) $u_t = \dot\alpha(t)\, x_1 + \dot\sigma(t)\, x_0$

(3) $\nabla \log p_t(x_t \mid x_1) = -x_0 / \sigma(t)$ for a standard normal source
"""

import math
from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand
from jaxflow.paths import schedules
from jaxflow.paths.ends import as_schedule, nonzero_interval
from jaxflow.paths.schedules import coefficients
from jaxflow.records import record
from jaxflow.types import Data, Dependent, Key, PathSample, Schedule, Time

__all__ = [
    "Affine",
    "affine",
    "cosine",
    "edm",
    "inverse_cosine",
    "linear",
    "linear_vp",
    "polynomial",
    "ve",
    "vp",
]


@record
class Affine:
    """The path `x_t = alpha(t) x1 + sigma(t) x0` of a schedule."""

    schedule: Schedule

    def latent(self, key: Key, x0: Data) -> None:
        """An affine path has no randomness of its own."""
        return None

    def __call__(self, t: Time, x0: Data, x1: Data, z: Dependent | None = None) -> PathSample:
        """The point of (1), its velocity (2) and its score (3).

        `x` is exact at every `t`; beyond the schedule's interval the velocity and the score are
        those of its nearer end, so that no value or gradient is NaN. The score supposes a standard
        normal `x0` that is independent of `x1`; draws that pair otherwise leave a `Dependent` in
        the place of `z`, and the score is None.

        Raises:
            ValueError: where `x0` and `x1` differ in shape, `t` does not lead them, or they are
                not floating.
        """
        if x0.shape != x1.shape:
            raise ValueError(f"x0 has shape {x0.shape} but x1 {x1.shape}: a path joins equals")
        if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (x0, x1)):
            raise ValueError(
                f"x0 is {x0.dtype} and x1 {x1.dtype}, but an affine path blends real numbers: "
                "scale the data to floats first, as x1 / 127.5 - 1"
            )
        t = at_least_float32(t)
        schedule = self.schedule
        _, _, alpha_dot, sigma_dot = coefficients(schedule, t)

        def blend(a: Time, b: Time) -> Data:
            return (expand(a, x1) * x1 + expand(b, x0) * x0).astype(x1.dtype)

        x = blend(schedule.alpha(t), schedule.sigma(t))
        u = blend(alpha_dot, sigma_dot)
        if isinstance(z, Dependent):
            return PathSample(t, x, u, x0, x1)
        noisy = jnp.clip(t, *nonzero_interval(schedule, "sigma"))
        score = (-x0 / expand(schedule.sigma(noisy), x0)).astype(x1.dtype)
        return PathSample(t, x, u, x0, x1, score)


def affine(schedule: Any) -> Affine:
    """The path of any schedule: an object with `alpha(t)`, `sigma(t)` and `interval`.

    Args:
        schedule: such an object, a record where it holds arrays (which are leaves of the path
            then, to be learned or not); or a function from `t` to `(alpha, sigma)`.
            `schedules.Custom(alpha, sigma, interval)` makes one of two functions.

    Raises:
        TypeError: where one of the three is missing.
        ValueError: where a value or slope is not finite on the interval.

    >>> affine(lambda t: (t, 1 - t))(jnp.array([0.25]), jnp.zeros((1, 1)), jnp.ones((1, 1))).x
    Array([[0.25]], dtype=float32)
    """
    return Affine(as_schedule(schedule))


def linear(sigma_min: float = 0.0) -> Affine:
    """Straight lines, `x_t = t x1 + (1 - (1 - sigma_min) t) x0`.

    Lipman et al., Flow Matching for Generative Modeling, 2023, arXiv:2210.02747, eq. 22; with
    `sigma_min = 0` the rectified flow of Liu et al., 2023, arXiv:2209.03003, eq. 1.

    Raises:
        ValueError: where `sigma_min` is outside `[0, 1)`.

    >>> linear()(jnp.array([0.25]), jnp.zeros((1, 2)), jnp.ones((1, 2))).x
    Array([[0.25, 0.25]], dtype=float32)
    """
    if not 0 <= sigma_min < 1:
        raise ValueError(f"linear needs 0 <= sigma_min < 1; got {sigma_min}")
    return Affine(schedules.Linear(sigma_min))


def cosine() -> Affine:
    """Great circles, `x_t = sin(pi t / 2) x1 + cos(pi t / 2) x0`.

    Albergo & Vanden-Eijnden, Building Normalizing Flows with Stochastic Interpolants, 2023,
    arXiv:2209.15571, eq. 5.
    """
    return Affine(schedules.Cosine())


def polynomial(n: float) -> Affine:
    """The straight line at a speed that grows, `x_t = t^n x1 + (1 - t^n) x0`.

    Raises:
        ValueError: where `n < 1`, since the velocity at `t = 0` would be infinite.
    """
    if n < 1:
        raise ValueError(f"polynomial needs n >= 1 for a finite velocity at t = 0; got {n}")
    return Affine(schedules.Polynomial(n))


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Affine:
    """The variance-preserving diffusion with rate `beta_min + (1 - t) (beta_max - beta_min)`.

    Its start is `N(alpha(0) x1, sigma(0)^2)`, close to but not exactly the standard normal.
    Song et al., Score-Based Generative Modeling through SDEs, 2021, arXiv:2011.13456, eq. 33,
    with time mirrored.

    Raises:
        ValueError: unless `0 < beta_min <= beta_max`.
    """
    if not 0 < beta_min <= beta_max:
        raise ValueError(f"vp needs 0 < beta_min <= beta_max; got {beta_min}, {beta_max}")
    return Affine(schedules.VP(beta_min, beta_max))


def linear_vp() -> Affine:
    """Variance preserving with `alpha = t`, `x_t = t x1 + sqrt(1 - t^2) x0`."""
    return Affine(schedules.LinearVP())


def inverse_cosine() -> Affine:
    """Variance preserving with `alpha^2 = (2 / pi) arcsin(sqrt t)`, slow in the middle.

    The inverse function of the cosine path's `alpha^2 = sin^2(pi t / 2)`, so that many times have
    about as much noise as data. Its velocity is infinite at both ends, where a step of a solver
    goes astray: train on it, and sample by `velocities.change_path` on another.

    Hudson et al., SODA: Bottleneck Diffusion Models for Representation Learning, 2023,
    arXiv:2311.17901, mirrored in time, where `alpha^2` is written `arccos(2 t - 1) / pi`.
    """
    return Affine(schedules.InverseCosine())


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Affine:
    """The variance-exploding diffusion, `x_t = x1 + sigma_max (sigma_min / sigma_max)^t x0`.

    It starts at noise of size `sigma_max`, `paths.start(path, x0)`, and ends with `sigma_min` of
    it left. Song et al., Score-Based Generative Modeling through SDEs, 2021, arXiv:2011.13456,
    eq. 31, with time mirrored.

    Raises:
        ValueError: unless `0 < sigma_min < sigma_max`.

    >>> ve(1.0, 4.0)(jnp.array([0.5]), jnp.ones((1, 1)), jnp.zeros((1, 1))).x
    Array([[2.]], dtype=float32)
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"ve needs 0 < sigma_min < sigma_max; got {sigma_min}, {sigma_max}")
    return Affine(schedules.VE(sigma_min, sigma_max))


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Affine:
    """Noise whose `rho`-th root falls evenly, `x_t = x1 + sigma(t) x0`.

    With `sigma(t) = (sigma_max^(1 / rho) (1 - t) + sigma_min^(1 / rho) t)^rho`, so that equal steps
    of time are the steps of Karras et al. It starts at `paths.start(path, x0)` and ends with
    `sigma_min` of noise left. With `rho = 1` Euler's step is that of DDIM; `sigma_min` may be 0
    for `rho >= 1`.

    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
    arXiv:2206.00364, eq. 5, read at every time, where theirs is the noise itself.

    Raises:
        ValueError: unless `0 <= sigma_min < sigma_max` and `rho > 0`, or 1 where `sigma_min` is 0.
    """
    least = 0 if sigma_min > 0 else 1
    if not (0 <= sigma_min < sigma_max < math.inf and 0 < rho < math.inf and rho >= least):
        raise ValueError(
            "edm needs 0 <= sigma_min < sigma_max and rho > 0, or rho >= 1 where sigma_min is 0; "
            f"got {sigma_min}, {sigma_max}, rho={rho}"
        )
    return Affine(schedules.EDM(sigma_min, sigma_max, rho))
