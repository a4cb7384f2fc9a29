r"""Schedules of affine paths: $x_t = \alpha(t)\, x_1 + \sigma(t)\, x_0$.

| schedule | $\alpha(t)$ | $\sigma(t)$ | interval |
|---|---|---|---|
| linear | $t$ | $1 - (1 - \sigma_{min}) t$ | $[0, 1]$ |
| cosine | $\sin(\pi t / 2)$ | $\cos(\pi t / 2)$ | $[0, 1]$ |
| polynomial | $t^n$ | $1 - t^n$ | $[0, 1]$ |
| vp | $e^{-T/2}$ | $\sqrt{1 - e^{-T}}$ | $[0, 1 - 10^{-5}]$ |
| linear_vp | $t$ | $\sqrt{1 - t^2}$ | $[0, 1 - 10^{-5}]$ |

with $T = \beta_{min} s + (\beta_{max} - \beta_{min}) s^2 / 2$ and $s = 1 - t$.

`interval` is where both derivatives are finite: the noise of the last two vanishes as a square
root, so their velocity is infinite at `t = 1`. Values at the ends are exact all the same.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, bisect
from jaxflow.types import Array, Interval, Path, Schedule, Time

__all__ = [
    "Cosine",
    "Custom",
    "Linear",
    "LinearVP",
    "Polynomial",
    "VP",
    "coefficients",
    "determinant",
    "nonzero_interval",
    "schedule_of",
    "signal",
    "time_of_signal",
]

SMALLEST_DIVISOR = 1e-4
_BEFORE_ONE = 1.0 - 1e-5


def schedule_of(path: Path) -> Schedule:
    """The schedule of an affine path.

    Raises:
        ValueError: where the path has none.
    """
    schedule = getattr(path, "schedule", None)
    if schedule is None:
        raise ValueError(f"an affine path is needed, with a schedule; {path!r} has none")
    return schedule


def coefficients(schedule: Schedule, t: Time) -> tuple[Array, Array, Array, Array]:
    """`(alpha, sigma, d alpha / dt, d sigma / dt)` at `t`, moved into the schedule's interval."""
    t = jnp.clip(at_least_float32(t), *schedule.interval)
    alpha, alpha_dot = jax.jvp(schedule.alpha, (t,), (jnp.ones_like(t),))
    sigma, sigma_dot = jax.jvp(schedule.sigma, (t,), (jnp.ones_like(t),))
    return alpha, sigma, alpha_dot, sigma_dot


def determinant(schedule: Schedule, t: Time) -> Time:
    """`alpha d sigma / dt - sigma d alpha / dt`; where it is 0, velocities do not tell pairs."""
    alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule, t)
    return alpha * sigma_dot - sigma * alpha_dot


def signal(schedule: Schedule, t: Time) -> tuple[Array, Array, Array, Array]:
    """`(r, m, dr / dt, dm / dt)`, where `m = alpha + sigma` and `r = alpha / m` is the signal."""
    alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule, t)
    m = alpha + sigma
    return alpha / m, m, (alpha_dot * sigma - alpha * sigma_dot) / m**2, alpha_dot + sigma_dot


def time_of_signal(schedule: Schedule, r: Array) -> Time:
    """The time at which the signal's share is `r`; the nearer end where it never is."""
    return bisect(lambda t: signal(schedule, t)[0], r, *schedule.interval)


@functools.lru_cache
def nonzero_interval(schedule: Schedule, divisor: Callable[[Schedule, Time], Time]) -> Interval:
    """The schedule's interval, less its ends where `|divisor|` is below 1e-4.

    >>> nonzero_interval(Linear(), lambda schedule, t: schedule.sigma(t))
    (0.0, 0.9999)
    """
    low, high = schedule.interval
    half = (high - low) / 2

    def margin(end: float, inwards: float) -> float:
        def size(step: Array) -> Array:
            return jnp.abs(divisor(schedule, end + inwards * step))

        step = bisect(size, jnp.asarray(SMALLEST_DIVISOR, jnp.float64), 0.0, half)
        return 0.0 if size(jnp.zeros_like(step)) >= SMALLEST_DIVISOR else float(step)

    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return round(low + margin(low, 1.0), 9), round(high - margin(high, -1.0), 9)


def _sqrt(square: Time) -> Time:
    """Square root whose gradient is zero, not infinite, at zero."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def _power(t: Time, n: float) -> Time:
    """`t^n` for `n >= 1`, whose second derivative is zero, not infinite, at zero."""
    if float(n).is_integer():
        return t ** int(n)
    positive = t > 0
    return jnp.where(positive, jnp.where(positive, t, 1.0) ** n, 0.0)


@dataclass(frozen=True)
class Linear:
    """The straight line, with noise `sigma_min` left at the data."""

    sigma_min: float = 0.0
    interval: Interval = field(default=(0.0, 1.0), init=False, repr=False)

    def alpha(self, t: Time) -> Time:
        """Share of the data."""
        return t

    def sigma(self, t: Time) -> Time:
        """Share of the noise."""
        return 1 - (1 - self.sigma_min) * t


@dataclass(frozen=True)
class Cosine:
    """The great circle, `alpha^2 + sigma^2 = 1` at constant speed."""

    interval: Interval = field(default=(0.0, 1.0), init=False, repr=False)

    def alpha(self, t: Time) -> Time:
        """Share of the data."""
        return jnp.sin(jnp.pi / 2 * t)

    def sigma(self, t: Time) -> Time:
        """Share of the noise; exactly zero at `t = 1`."""
        return jnp.sin(jnp.pi / 2 * (1 - t))


@dataclass(frozen=True)
class Polynomial:
    """The straight line, travelled at speed `n t^(n - 1)`."""

    n: float
    interval: Interval = field(default=(0.0, 1.0), init=False, repr=False)

    def alpha(self, t: Time) -> Time:
        """Share of the data."""
        return _power(t, self.n)

    def sigma(self, t: Time) -> Time:
        """Share of the noise."""
        return 1 - _power(t, self.n)


@dataclass(frozen=True)
class VP:
    """The variance-preserving diffusion with a linear rate, run backwards."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    interval: Interval = field(default=(0.0, _BEFORE_ONE), init=False, repr=False)

    def _integral(self, t: Time) -> Time:
        s = 1 - t
        return s * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * s)

    def alpha(self, t: Time) -> Time:
        """Share of the data; .0066 at `t = 0` for the usual rates."""
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: Time) -> Time:
        """Share of the noise."""
        return _sqrt(-jnp.expm1(-self._integral(t)))


@dataclass(frozen=True)
class LinearVP:
    """Variance preserving with `alpha = t`."""

    interval: Interval = field(default=(0.0, _BEFORE_ONE), init=False, repr=False)

    def alpha(self, t: Time) -> Time:
        """Share of the data."""
        return t

    def sigma(self, t: Time) -> Time:
        """Share of the noise."""
        return _sqrt((1 - t) * (1 + t))


@dataclass(frozen=True)
class Custom:
    """Any two differentiable functions of time.

    Functions are compared by identity: define them once, at the top of a module, so that jit
    does not retrace.
    """

    alpha: Callable[[Time], Time]
    sigma: Callable[[Time], Time]
    interval: Interval = (0.0, 1.0)
