r"""Schedules of affine paths: $x_t = \alpha(t)\, x_1 + \sigma(t)\, x_0$.

| schedule | $\alpha(t)$ | $\sigma(t)$ | interval |
|---|---|---|---|
| linear | $t$ | $1 - (1 - \sigma_{min}) t$ | $[0, 1]$ |
| cosine | $\sin(\pi t / 2)$ | $\cos(\pi t / 2)$ | $[0, 1]$ |
| polynomial | $t^n$ | $1 - t^n$ | $[0, 1]$ |
| vp | $e^{-T/2}$ | $\sqrt{1 - e^{-T}}$ | $[0, 1 - 10^{-5}]$ |
| linear_vp | $t$ | $\sqrt{1 - t^2}$ | $[0, 1 - 10^{-5}]$ |
| inverse_cosine | $\sqrt \theta$ | $\sqrt{1 - \theta}$ | $[10^{-5}, 1 - 10^{-5}]$ |
| ve | $1$ | $\sigma_{max} (\sigma_{min} / \sigma_{max})^t$ | $[0, 1]$ |
| edm | $1$ | $\sigma_{max} (1 - (1 - q) t)^\rho$ | $[0, 1]$ |

with $T = \beta_{min} s + (\beta_{max} - \beta_{min}) s^2 / 2$ and $s = 1 - t$,
$\theta = \tfrac2\pi \arcsin \sqrt t$ and $q = (\sigma_{min} / \sigma_{max})^{1 / \rho}$.

`interval` is where both derivatives are finite: the noise of vp and linear_vp vanishes as a square
root, so their velocity is infinite at `t = 1`, and that of inverse_cosine at both ends, where
shares grow as $t^{1/4}$. Values at the ends are exact all the same. Each knows the time of a
log signal-to-noise ratio $\log(\alpha^2 / \sigma^2)$ in closed form, `time_of_log_snr`.

Any other schedule, one with learned arrays too, is taken up by `as_schedule`, which finds its ends
once, so that they are known where its arrays are traced.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, bisect
from jaxflow.records import record, static
from jaxflow.types import AnyArray, Array, Float, Interval, Schedule

__all__ = [
    "Cosine",
    "Custom",
    "EDM",
    "InverseCosine",
    "Linear",
    "LinearVP",
    "Polynomial",
    "VE",
    "VP",
    "coefficients",
    "determinant",
    "signal",
    "time_of_signal",
]

_BEFORE_ONE = 1.0 - 1e-5

At = Float[AnyArray, "*at"]


def coefficients(schedule: Schedule, t: At) -> tuple[Array, Array, Array, Array]:
    """`(alpha, sigma, d alpha / dt, d sigma / dt)` at `t`, moved into the schedule's interval."""
    t = jnp.clip(at_least_float32(t), *schedule.interval)
    alpha, alpha_dot = jax.jvp(schedule.alpha, (t,), (jnp.ones_like(t),))
    sigma, sigma_dot = jax.jvp(schedule.sigma, (t,), (jnp.ones_like(t),))
    return alpha, sigma, alpha_dot, sigma_dot


def determinant(schedule: Schedule, t: At) -> At:
    """`alpha d sigma / dt - sigma d alpha / dt`; where it is 0, velocities do not tell pairs."""
    alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule, t)
    return alpha * sigma_dot - sigma * alpha_dot


def signal(schedule: Schedule, t: At) -> tuple[Array, Array, Array, Array]:
    """`(r, m, dr / dt, dm / dt)`, where `m = alpha + sigma` and `r = alpha / m` is the signal."""
    alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule, t)
    m = alpha + sigma
    return alpha / m, m, (alpha_dot * sigma - alpha * sigma_dot) / m**2, alpha_dot + sigma_dot


def time_of_signal(schedule: Schedule, r: At) -> At:
    """The time at which the signal's share is `r`; the nearer end where it never is."""
    return bisect(lambda t: signal(schedule, t)[0], r, *schedule.interval)


def _sqrt(square: At) -> At:
    """Square root whose gradient is zero, not infinite, at zero."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def _power(t: At, n: float) -> At:
    """`t^n` for `n >= 1`, whose second derivative is zero, not infinite, at zero."""
    if float(n).is_integer():
        return t ** int(n)
    positive = t > 0
    return jnp.where(positive, jnp.where(positive, t, 1.0) ** n, 0.0)


@record
class Linear:
    """The straight line, with noise `sigma_min` left at the data."""

    sigma_min: float = static(default=0.0)

    interval = (0.0, 1.0)

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return t

    def sigma(self, t: At) -> At:
        """Share of the noise."""
        return 1 - (1 - self.sigma_min) * t

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        return 1 / (jnp.exp(-value / 2) + 1 - self.sigma_min)


@record
class Cosine:
    """The great circle, `alpha^2 + sigma^2 = 1` at constant speed."""

    interval = (0.0, 1.0)

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return jnp.sin(jnp.pi / 2 * t)

    def sigma(self, t: At) -> At:
        """Share of the noise; exactly zero at `t = 1`."""
        return jnp.sin(jnp.pi / 2 * (1 - t))

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        return 2 / jnp.pi * jnp.arctan(jnp.exp(value / 2))


@record
class Polynomial:
    """The straight line, travelled at speed `n t^(n - 1)`."""

    n: float = static()

    interval = (0.0, 1.0)

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return _power(t, self.n)

    def sigma(self, t: At) -> At:
        """Share of the noise."""
        return 1 - _power(t, self.n)

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        return jax.nn.sigmoid(value / 2) ** (1 / self.n)


@record
class VP:
    """The variance-preserving diffusion with a linear rate, run backwards."""

    beta_min: float = static(default=0.1)
    beta_max: float = static(default=20.0)

    interval = (0.0, _BEFORE_ONE)

    def _integral(self, t: At) -> At:
        s = 1 - t
        return s * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * s)

    def alpha(self, t: At) -> At:
        """Share of the data; .0066 at `t = 0` for the usual rates."""
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: At) -> At:
        """Share of the noise."""
        return _sqrt(-jnp.expm1(-self._integral(t)))

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        total, slope = jax.nn.softplus(-value), self.beta_max - self.beta_min
        return 1 - 2 * total / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * total))


@record
class LinearVP:
    """Variance preserving with `alpha = t`."""

    interval = (0.0, _BEFORE_ONE)

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return t

    def sigma(self, t: At) -> At:
        """Share of the noise."""
        return _sqrt((1 - t) * (1 + t))

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        return jnp.sqrt(jax.nn.sigmoid(value))


@record
class InverseCosine:
    """Variance preserving, with the square of the data's share `arcsin(sqrt t)` of a right angle.

    As a function of time that square is the inverse of the cosine schedule's: it dwells where the
    other hurries, in the middle.
    """

    interval = (1.0 - _BEFORE_ONE, _BEFORE_ONE)

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return _sqrt(2 / jnp.pi * jnp.arctan2(_sqrt(t), _sqrt(1 - t)))

    def sigma(self, t: At) -> At:
        """Share of the noise, `alpha(1 - t)`."""
        return _sqrt(2 / jnp.pi * jnp.arctan2(_sqrt(1 - t), _sqrt(t)))

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        return jnp.sin(jnp.pi / 2 * jax.nn.sigmoid(value)) ** 2


@record
class VE:
    """The variance-exploding diffusion, run backwards: whole data, and noise that falls."""

    sigma_min: float = static(default=0.01)
    sigma_max: float = static(default=50.0)

    interval = (0.0, 1.0)

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: At) -> At:
        """Share of the data, always 1."""
        return jnp.ones_like(t)

    def sigma(self, t: At) -> At:
        """Size of the noise, from `sigma_max` to `sigma_min`."""
        return self.sigma_max * jnp.exp(-self._rate * t)

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        return (math.log(self.sigma_max) + value / 2) / self._rate


@record
class EDM:
    """Whole data, and noise whose `rho`-th root falls evenly."""

    sigma_min: float = static(default=0.002)
    sigma_max: float = static(default=80.0)
    rho: float = static(default=7.0)

    interval = (0.0, 1.0)

    @property
    def _fall(self) -> float:
        return 1 - (self.sigma_min / self.sigma_max) ** (1 / self.rho)

    def alpha(self, t: At) -> At:
        """Share of the data, always 1."""
        return jnp.ones_like(t)

    def sigma(self, t: At) -> At:
        """Size of the noise, from `sigma_max` to `sigma_min`."""
        return self.sigma_max * _power(1 - self._fall * t, self.rho)

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        root = jnp.exp((-value / 2 - math.log(self.sigma_max)) / self.rho)
        return (1 - root) / self._fall


@record
class Custom:
    """Any two functions of time, differentiable inside the interval; either may be constant.

    Functions are compared by identity: define them once, at the top of a module, so that jit
    does not retrace. What is to be learned belongs in a record with `alpha`, `sigma` and
    `interval`, whose arrays then are leaves of the path.
    """

    alpha: Callable[[At], At] = static()
    sigma: Callable[[At], At] = static()
    interval: Interval = static(default=(0.0, 1.0))
