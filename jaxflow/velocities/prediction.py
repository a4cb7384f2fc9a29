r"""What a network predicts, and how one prediction becomes another.

On an affine path $x = \alpha x_1 + \sigma x_0$ every prediction determines one pair of
posterior means $(\hat x_1, \hat x_0)$, and the pair determines every prediction:

(1) data: $\hat x_1$, so $\hat x_0 = (x - \alpha \hat x_1) / \sigma$

(2) noise: $\hat x_0$, so $\hat x_1 = (x - \sigma \hat x_0) / \alpha$

(3) score: $s = -\hat x_0 / \sigma$ (for a standard normal source), then (2)

(4) velocity: $v = \dot\alpha \hat x_1 + \dot\sigma \hat x_0$, so with
    $D = \alpha \dot\sigma - \sigma \dot\alpha$:
    $\hat x_1 = (\dot\sigma x - \sigma v) / D$ and $\hat x_0 = (\alpha v - \dot\alpha x) / D$
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand
from jaxflow.names import check_known
from jaxflow.paths.schedules import coefficients, determinant, nonzero_interval, schedule_of
from jaxflow.types import Array, Data, Interval, Path, Schedule, Time

__all__ = ["KINDS", "check_kind", "conversion_interval", "convert"]

KINDS = ("velocity", "data", "noise", "score")


def _one(schedule: Schedule, t: Time) -> Time:
    return jnp.ones_like(t)


def _alpha(schedule: Schedule, t: Time) -> Time:
    return schedule.alpha(t)


def _sigma(schedule: Schedule, t: Time) -> Time:
    return schedule.sigma(t)


_DIVISOR_OF_SOURCE = {"velocity": determinant, "data": _sigma, "noise": _alpha, "score": _alpha}
_DIVISOR_OF_TARGET = {"velocity": _one, "data": _one, "noise": _one, "score": _sigma}


def check_kind(argument: str, kind: str) -> None:
    """Refuse an unknown kind of prediction.

    Raises:
        ValueError: naming the known kinds and the nearest.
    """
    check_known(argument, kind, KINDS)


def conversion_interval(path: Path, source: str, target: str) -> Interval:
    """The times where `source` can be converted to `target` on `path`.

    A data prediction tells nothing of the noise where `sigma = 0`, a noise prediction nothing of
    the data where `alpha = 0`: there the interval stops 1e-4 short.

    >>> from jaxflow import paths
    >>> conversion_interval(paths.linear(), "data", "velocity")
    (0.0, 0.9999)
    """
    check_kind("source", source)
    check_kind("target", target)
    schedule = getattr(path, "schedule", None)
    if source == target:
        return schedule.interval if schedule is not None else (0.0, 1.0)
    schedule = schedule_of(path)
    low, high = nonzero_interval(schedule, _DIVISOR_OF_SOURCE[source])
    low_, high_ = nonzero_interval(schedule, _DIVISOR_OF_TARGET[target])
    return max(low, low_), min(high, high_)


def convert(value: Data, t: Time, x: Data, *, path: Path, source: str, target: str) -> Data:
    """What a prediction at `(t, x)` says in another form, by (1) to (4).

    Converting a kind to itself returns the value. Times beyond `conversion_interval` are read as
    its nearer end, so that neither value nor gradient is NaN there.

    Args:
        value: the prediction, `[batch, *event]`.
        t: times, `[batch]`.
        x: where it was made.
        path: an affine path.
        source, target: "velocity", "data", "noise" or "score"; a score supposes a standard
            normal source.

    Raises:
        ValueError: for an unknown kind, or a path without schedule.

    >>> from jaxflow import paths
    >>> t, x, v = jnp.array([0.5]), jnp.array([[1.0]]), jnp.array([[2.0]])
    >>> convert(v, t, x, path=paths.linear(), source="velocity", target="data")
    Array([[2.]], dtype=float32)
    """
    interval = conversion_interval(path, source, target)
    if source == target:
        return value
    t = jnp.clip(at_least_float32(t), *interval)
    alpha, sigma, alpha_dot, sigma_dot = (expand(c, x) for c in coefficients(schedule_of(path), t))
    x1, x0 = _PAIR[source](value, x, alpha, sigma, alpha_dot, sigma_dot)
    if target == "velocity":
        result = alpha_dot * x1 + sigma_dot * x0
    elif target == "score":
        result = -x0 / sigma
    else:
        result = x1 if target == "data" else x0
    return result.astype(value.dtype)


Pair = tuple[Array, Array]


def _from_velocity(v: Array, x: Array, a: Array, s: Array, a_dot: Array, s_dot: Array) -> Pair:
    d = a * s_dot - s * a_dot
    return (s_dot * x - s * v) / d, (a * v - a_dot * x) / d


def _from_data(x1: Array, x: Array, a: Array, s: Array, a_dot: Array, s_dot: Array) -> Pair:
    return x1, (x - a * x1) / s


def _from_noise(x0: Array, x: Array, a: Array, s: Array, a_dot: Array, s_dot: Array) -> Pair:
    return (x - s * x0) / a, x0


def _from_score(score: Array, x: Array, a: Array, s: Array, a_dot: Array, s_dot: Array) -> Pair:
    return _from_noise(-s * score, x, a, s, a_dot, s_dot)


_PAIR: dict[str, Callable[..., Pair]] = {
    "velocity": _from_velocity,
    "data": _from_data,
    "noise": _from_noise,
    "score": _from_score,
}
