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

Any other schedule, one with learned arrays too, is taken up by `as_schedule`, which finds its ends
once, so that they are known where its arrays are traced.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import at_least_float32, bisect, is_concrete
from jaxflow.records import record, static
from jaxflow.types import AnyArray, Array, Float, Interval, Path, Schedule

__all__ = [
    "Cosine",
    "Custom",
    "Known",
    "Linear",
    "LinearVP",
    "Polynomial",
    "VP",
    "as_schedule",
    "coefficients",
    "determinant",
    "interval_of",
    "nonzero_interval",
    "schedule_of",
    "signal",
    "time_of_signal",
]

DIVISORS = ("alpha", "sigma", "determinant")
SMALLEST_DIVISOR = 1e-4
_BEFORE_ONE = 1.0 - 1e-5

At = Float[AnyArray, "*at"]


def schedule_of(path: Path) -> Schedule:
    """The schedule of an affine path.

    Raises:
        ValueError: where the path has none.
    """
    schedule = getattr(path, "schedule", None)
    if schedule is None:
        raise ValueError(f"an affine path is needed, with a schedule; {path!r} has none")
    return as_schedule(schedule)


def interval_of(path: Path) -> Interval:
    """The times where a path's velocity is finite: for several parts, in all of them."""
    parts = getattr(path, "parts", None)
    if parts is not None:
        lows, highs = zip(*(interval_of(part) for part in parts.values()), strict=True)
        return max(lows), min(highs)
    return (0.0, 1.0) if getattr(path, "schedule", None) is None else schedule_of(path).interval


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


def nonzero_interval(schedule: Schedule, divisor: str) -> Interval:
    """The schedule's interval, less its ends where a divisor is below 1e-4 in size.

    Args:
        schedule: one of this module's, or taken up by `as_schedule`.
        divisor: one of `DIVISORS`.

    >>> nonzero_interval(Linear(), "sigma")
    (0.0, 0.9999)
    """
    if isinstance(schedule, Known):
        return schedule.nonzero[DIVISORS.index(divisor)]
    return _nonzero_of_sound(schedule, divisor)


@lru_cache
def _nonzero_of_sound(schedule: Schedule, divisor: str) -> Interval:
    return _nonzero(schedule, divisor)


def _nonzero(schedule: Schedule, divisor: str) -> Interval:
    def size(t: np.ndarray) -> np.ndarray:
        at = jnp.asarray(t)
        value = determinant(schedule, at) if divisor == "determinant" else None
        return np.abs(getattr(schedule, divisor)(at) if value is None else value)

    low, high = schedule.interval
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        margins = [_margin(size, low, high), _margin(size, high, low)]
    return round(low + margins[0], 9), round(high - margins[1], 9)


def _margin(size: Callable[[np.ndarray], np.ndarray], end: float, other: float) -> float:
    """The least step from an end inwards after which `size` is large enough."""
    inwards, near, far = np.sign(other - end), 0.0, abs(other - end) / 2
    if size(np.asarray([end]))[0] >= SMALLEST_DIVISOR:
        return 0.0
    for _ in range(6):
        steps = np.linspace(near, far, 257)
        i = int(np.argmax(size(end + inwards * steps) >= SMALLEST_DIVISOR)) or len(steps) - 1
        near, far = steps[i - 1], steps[i]
    return float(far)


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


@record
class Known:
    """A schedule with its ends: `interval`, and where each divisor of a conversion is not small."""

    schedule: Schedule
    interval: Interval = static()
    nonzero: tuple[Interval, ...] = static()

    def alpha(self, t: At) -> At:
        """Share of the data, one a time."""
        return _at_each(self.schedule.alpha(t), t)

    def sigma(self, t: At) -> At:
        """Share of the noise, one a time."""
        return _at_each(self.schedule.sigma(t), t)

    def __repr__(self) -> str:
        return repr(self.schedule)


_SOUND = (Linear, Cosine, Polynomial, VP, LinearVP, Known)


def as_schedule(schedule: Any) -> Any:
    """A schedule whose ends are known and whose slopes there are finite.

    Args:
        schedule: an object with `alpha(t)`, `sigma(t)` and `interval`, a record where it holds
            arrays; or a function from `t` to both shares.

    Returns:
        One of this module's as it is, any other with its ends, rounded inwards in float32.

    Raises:
        TypeError: where one of the three is missing.
        ValueError: for an interval outside [0, 1], a value or slope that is not finite inside it,
            or arrays that are traced.
    """
    if isinstance(schedule, _SOUND):
        return schedule
    missing = [name for name in ("alpha", "sigma", "interval") if not hasattr(schedule, name)]
    if len(missing) == 3 and callable(schedule):
        given: Any = schedule
        schedule = Custom(partial(_share, given, 0), partial(_share, given, 1))
    elif missing:
        raise TypeError(
            f"affine needs a schedule with alpha, sigma and interval; {schedule!r} lacks "
            f"{', '.join(missing)}; schedules.Custom(alpha, sigma) makes one of two functions"
        )
    elif jax.tree_util.all_leaves([schedule]):
        schedule = Custom(schedule.alpha, schedule.sigma, tuple(schedule.interval))
    if not all(map(is_concrete, jax.tree.leaves(schedule))):
        raise ValueError(
            "the ends of a schedule cannot be found while its arrays are traced: build the path "
            "outside, and put the arrays in by dataclasses.replace(path.schedule, schedule=...)"
        )
    return Known(schedule, *_ends(schedule))


def _share(function: Callable[[At], tuple[At, At]], i: int, t: At) -> At:
    return function(t)[i]


def _at_each(share: Any, t: At) -> At:
    return jnp.broadcast_to(jnp.asarray(share, jnp.result_type(t)), jnp.shape(t))


def _ends(schedule: Schedule) -> tuple[Interval, tuple[Interval, ...]]:
    low, high = (float(t) for t in schedule.interval)
    if not 0 <= low < high <= 1:
        raise ValueError(f"the interval of a schedule lies in [0, 1]; got {schedule.interval}")
    interval = _inwards(low, 1.0), _inwards(high, 0.0)
    bounded = Known(schedule, interval, ())
    for double in (False, True):
        _check_slopes(bounded, double)
    return interval, tuple(_nonzero(bounded, divisor) for divisor in DIVISORS)


def _inwards(t: float, towards: float) -> float:
    """The time itself where float32 rounds it inwards, or else its neighbour there."""
    rounded = float(np.float32(t))
    outside = rounded > t if towards < t else rounded < t
    return float(np.nextafter(np.float32(t), np.float32(towards))) if outside else t


def _check_slopes(schedule: Schedule, double: bool) -> None:
    low, high = schedule.interval
    with jax.enable_x64(double), jax.ensure_compile_time_eval():
        schedule = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.result_type(float)), schedule
        )
        times = jnp.linspace(low, high, 65).at[-1].set(high)
        found = [np.asarray(c) for c in coefficients(schedule, times)]
    for name, values in zip(("alpha", "sigma", "d alpha/dt", "d sigma/dt"), found, strict=True):
        if not np.all(np.isfinite(values)):
            i = int(np.argmin(np.isfinite(values)))
            raise ValueError(
                f"{name} of the schedule is {values[i]} at t = {times[i]:.6g}: give it an interval "
                "on which values and slopes are finite, as "
                "schedules.Custom(alpha, sigma, interval=(0.0, 0.99999))"
            )
