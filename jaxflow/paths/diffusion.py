r"""The diffusion whose marginals a path has, and its log signal-to-noise ratio.

Run backwards from the data at $t = 1$ to the noise, an affine path is the forward process of a
diffusion model:

(1) $dX = f(t)\, X\, dt + g(t)\, dW$ with $dt < 0$, where $f = \dot\alpha / \alpha$

(2) $g^2 = 2 \sigma^2 (\dot\alpha / \alpha - \dot\sigma / \sigma)
    = 2 \sigma (\sigma \dot\alpha - \alpha \dot\sigma) / \alpha = \sigma^2 \dot\lambda$

(3) $\lambda(t) = \log(\alpha^2 / \sigma^2)$

since the mean $m$ and variance $S$ of (1) from a point of data obey $\dot m = f m$ and
$\dot S = 2 f S - g^2$, which $\alpha$ and $\sigma^2$ solve. In the papers' time $1 - t$ the drift
is $-f$ and (2) is the same. The velocity of the marginals is

(4) $v(t, x) = f(t)\, x + \tfrac12 g^2(t)\, \nabla \log p_t(x)$
"""

from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import as_floats, at_least_float32, bisect
from jaxflow.paths.ends import Known, nonzero_interval, schedule_of
from jaxflow.paths.schedules import At, coefficients
from jaxflow.types import Array, Interval, Path, Schedule

__all__ = ["drift", "log_snr", "squared_diffusion", "time_at", "time_of_log_snr"]


def drift(path: Path, t: At) -> At:
    """The rate `f(t)` of (1), one a time.

    Infinite where there is no data, at `t = 0` of most paths: from where `alpha < 1e-4` on, and
    beyond the path's interval, it is that of the nearer end.

    Args:
        path: an affine path.
        t: times, of any shape.

    Raises:
        ValueError: where the path has no schedule.

    Song et al., Score-Based Generative Modeling through SDEs, 2021, arXiv:2011.13456, eq. 5,
    with time mirrored.

    >>> from jaxflow import paths
    >>> drift(paths.linear(), jnp.array([0.5]))
    Array([2.], dtype=float32)
    """
    schedule, t = _where(path, t, "alpha")
    alpha, _, alpha_dot, _ = coefficients(schedule, t)
    return alpha_dot / alpha


def squared_diffusion(path: Path, t: At) -> At:
    """The rate `g(t)^2` (2) at which noise is added; ends as for `drift`.

    Kingma et al., Variational Diffusion Models, 2021, arXiv:2107.00630; for vp it is Song's
    `beta(1 - t)`.

    Raises:
        ValueError: where the path has no schedule.

    >>> from jaxflow import paths
    >>> squared_diffusion(paths.vp(beta_min=0.1, beta_max=20.0), jnp.array([0.0])).round(3)
    Array([20.], dtype=float32)
    """
    schedule, t = _where(path, t, "alpha")
    alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule, t)
    return 2 * sigma * (sigma * alpha_dot - alpha * sigma_dot) / alpha


def log_snr(path: Path, t: At) -> At:
    """The log signal-to-noise ratio (3), which rises with time.

    Infinite where there is no data or no noise: from where either is below 1e-4 on it is that of
    the nearer end, at most 18.42 in size for paths of unit shares.

    Raises:
        ValueError: where the path has no schedule.

    >>> from jaxflow import paths
    >>> log_snr(paths.linear(), jnp.array([0.5]))
    Array([0.], dtype=float32)
    """
    schedule, t = _where(path, t, "alpha", "sigma")
    return _ratio(schedule, t)


def time_of_log_snr(path: Path, value: At) -> At:
    """The time at which the log signal-to-noise ratio is `value`, the inverse of `log_snr`.

    In closed form for the paths of `jaxflow.paths`, by halving for those of other schedules; the
    nearer end of `log_snr` for what the path never reaches.

    Raises:
        ValueError: where the path has no schedule.

    >>> from jaxflow import paths
    >>> time_of_log_snr(paths.cosine(), jnp.array([0.0]))
    Array([0.5], dtype=float32)
    """
    return time_at(schedule_of(path), as_floats(value))


def time_at(schedule: Schedule, value: At) -> At:
    """`time_of_log_snr` of a schedule."""
    low, high = _interval(schedule, "alpha", "sigma")
    first, last = _ratio(schedule, jnp.asarray([low, high], value.dtype))
    value = _inside(value, first, last)
    own: Any = schedule.schedule if isinstance(schedule, Known) else schedule
    if hasattr(own, "time_of_log_snr"):
        return _inside(own.time_of_log_snr(value), low, high)
    return bisect(lambda t: _ratio(schedule, t), value, low, high)


def _inside(x: At, low: Any, high: Any) -> Array:
    """Clipped, with the slope of `x` at both ends, where `jnp.clip` takes half of it."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _ratio(schedule: Schedule, t: At) -> Array:
    return 2 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))


def _where(path: Path, t: At, *divisors: str) -> tuple[Schedule, At]:
    """The schedule, and the times moved to where none of the divisors vanishes."""
    schedule = schedule_of(path)
    return schedule, _inside(at_least_float32(t), *_interval(schedule, *divisors))


def _interval(schedule: Schedule, *divisors: str) -> Interval:
    lows, highs = zip(*(nonzero_interval(schedule, name) for name in divisors), strict=True)
    return max(lows), min(highs)
