"""Where a schedule's slopes are finite, and where what a conversion divides by is not small.

Any schedule is taken up by `as_schedule`, which finds its ends once, so that they are known where
its arrays (learned ones) are traced.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import is_concrete
from jaxflow.paths.schedules import (
    EDM,
    VE,
    VP,
    At,
    Cosine,
    Custom,
    InverseCosine,
    Linear,
    LinearVP,
    Polynomial,
    coefficients,
    determinant,
)
from jaxflow.records import record, static
from jaxflow.types import Interval, Path, Schedule

__all__ = [
    "SMALLEST_DIVISOR",
    "Known",
    "as_schedule",
    "interval_of",
    "is_affine",
    "is_of_tokens",
    "nonzero_interval",
    "schedule_of",
    "where_large",
]

DIVISORS = ("alpha", "sigma", "determinant")
SMALLEST_DIVISOR = 1e-4


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


_SOUND = (Linear, Cosine, Polynomial, VP, LinearVP, InverseCosine, VE, EDM, Known)


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
    """The times where a path's velocity is finite: for several parts, in all of them.

    That of the schedule, or what a path without one says by an `interval` of its own.
    """
    parts = getattr(path, "parts", None)
    if parts is not None:
        lows, highs = zip(*(interval_of(part) for part in parts.values()), strict=True)
        return max(lows), min(highs)
    if getattr(path, "schedule", None) is None:
        return getattr(path, "interval", (0.0, 1.0))
    return schedule_of(path).interval


def is_affine(path: Path | None) -> bool:
    """Whether the path, or each of its parts, has a schedule: velocities tell the data there."""
    parts = getattr(path, "parts", None)
    if parts is not None:
        return all(is_affine(part) for part in parts.values())
    return getattr(path, "schedule", None) is not None


def is_of_tokens(path: Any) -> bool:
    """Whether the path is one of tokens, whose samples jump."""
    return hasattr(path, "divergence")


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

    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        return where_large(size, schedule.interval)


def where_large(size: Callable[[np.ndarray], np.ndarray], interval: Interval) -> Interval:
    """The interval, less its ends where `size` is below 1e-4."""
    low, high = interval
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
