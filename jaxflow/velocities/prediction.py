r"""What a network predicts, and how one prediction becomes another.

On an affine path $x = \alpha x_1 + \sigma x_0$ every prediction determines one pair of
posterior means $(\hat x_1, \hat x_0)$, and the pair determines every prediction:

(1) data: $\hat x_1$, so $\hat x_0 = (x - \alpha \hat x_1) / \sigma$

(2) noise: $\hat x_0$, so $\hat x_1 = (x - \sigma \hat x_0) / \alpha$

(3) score: $s = -\hat x_0 / \sigma$ (for a standard normal source that is independent of the data),
    then (2)

(4) velocity: $v = \dot\alpha \hat x_1 + \dot\sigma \hat x_0$, so with
    $D = \alpha \dot\sigma - \sigma \dot\alpha$:
    $\hat x_1 = (\dot\sigma x - \sigma v) / D$ and $\hat x_0 = (\alpha v - \dot\alpha x) / D$

(5) Salimans & Ho's v: $w = \alpha \hat x_0 - \sigma \hat x_1$, so with $N = \alpha^2 + \sigma^2$:
    $\hat x_1 = (\alpha x - \sigma w) / N$ and $\hat x_0 = (\sigma x + \alpha w) / N$,
    nowhere singular. Progressive Distillation for Fast Sampling of Diffusion Models, 2022,
    arXiv:2202.00512, section 4, where $N = 1$; on the cosine path it is $-2 v / \pi$.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand
from jaxflow.names import check_known
from jaxflow.paths.ends import interval_of, is_of_tokens, nonzero_interval, schedule_of
from jaxflow.paths.schedules import coefficients
from jaxflow.types import Array, Interval, Path

__all__ = ["KINDS", "check_kind", "conversion_interval", "convert", "divisors", "salimans_ho"]

KINDS = ("velocity", "data", "noise", "score", "salimans_ho")

_DIVISOR_OF_SOURCE: Mapping[str, str | None] = {
    "velocity": "determinant",
    "data": "sigma",
    "noise": "alpha",
    "score": "alpha",
    "salimans_ho": None,
}


def check_kind(argument: str, kind: str) -> None:
    """Refuse an unknown kind of prediction.

    Raises:
        ValueError: naming the known kinds and the nearest.
    """
    check_known(argument, kind, KINDS)


def divisors(source: str, target: str) -> tuple[str, ...]:
    """What an error of `source` is divided by where it is read as `target`."""
    if source == target == "score":
        return ("sigma",)
    name = _DIVISOR_OF_SOURCE[source]
    free = source == target or {source, target} == {"noise", "score"}
    ours = () if free or name is None else (name,)
    return (*ours, "sigma") if target == "score" else ours


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
    if source == target or is_of_tokens(path):
        return interval_of(path)
    parts = getattr(path, "parts", None)
    if parts is not None:
        every = [conversion_interval(part, source, target) for part in parts.values()]
        return max(low for low, _ in every), min(high for _, high in every)
    schedule = schedule_of(path)
    name = _DIVISOR_OF_SOURCE[source]
    low, high = schedule.interval if name is None else nonzero_interval(schedule, name)
    if target == "score":
        low_, high_ = nonzero_interval(schedule, "sigma")
        return max(low, low_), min(high, high_)
    return low, high


def convert(value: Any, t: Any, x: Any, *, path: Path, source: str, target: str) -> Any:
    """What a prediction at `(t, x)` says in another form, by (1) to (5).

    Converting a kind to itself returns the value. Times beyond `conversion_interval` are read as
    its nearer end, so that neither value nor gradient is NaN there.

    Args:
        value: the prediction, `[batch, *event]`, or a mapping of parts.
        t: times, `[batch]` or `[batch, *lead]`.
        x: where it was made.
        path: an affine path, or a product of them for a mapping of parts, of which those of tokens
            stay as they are: what is said of tokens has one form, their logits.
        source, target: two of `KINDS`; a score supposes a source that is standard normal and
            independent of the data: under optimal transport none is known.

    Raises:
        ValueError: for an unknown kind, or a path without schedule.

    >>> from jaxflow import paths
    >>> t, x, v = jnp.array([0.5]), jnp.array([[1.0]]), jnp.array([[2.0]])
    >>> convert(v, t, x, path=paths.linear(), source="velocity", target="data")
    Array([[2.]], dtype=float32)
    """
    interval = conversion_interval(path, source, target)
    if source == target or is_of_tokens(path):
        return value
    parts = getattr(path, "parts", None)
    if parts is not None:
        kinds = {"source": source, "target": target}
        times = t if isinstance(t, Mapping) else dict.fromkeys(value, t)
        return {k: convert(v, times[k], x[k], path=parts[k], **kinds) for k, v in value.items()}
    t = jnp.clip(at_least_float32(t), *interval)
    alpha, sigma, alpha_dot, sigma_dot = (expand(c, x) for c in coefficients(schedule_of(path), t))
    x1, x0 = _PAIR[source](value, x, alpha, sigma, alpha_dot, sigma_dot)
    if target == "velocity":
        result = alpha_dot * x1 + sigma_dot * x0
    elif target == "score":
        result = -x0 / sigma
    elif target == "salimans_ho":
        result = alpha * x0 - sigma * x1
    else:
        result = x1 if target == "data" else x0
    return result.astype(value.dtype)


def salimans_ho(path: Path, t: Any, x0: Any, x1: Any) -> Any:
    """What a network that predicts (5) is to learn of a pair, `alpha(t) x0 - sigma(t) x1`.

    Raises:
        ValueError: for a path without schedule.
    """
    parts = getattr(path, "parts", None)
    if parts is not None:
        times = t if isinstance(t, Mapping) else dict.fromkeys(x1, t)
        return {k: salimans_ho(parts[k], times[k], x0[k], x1[k]) for k in x1}
    schedule, t = schedule_of(path), at_least_float32(t)
    alpha, sigma = (expand(share(t), x1) for share in (schedule.alpha, schedule.sigma))
    return (alpha * x0 - sigma * x1).astype(x1.dtype)


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


def _from_salimans_ho(w: Array, x: Array, a: Array, s: Array, a_dot: Array, s_dot: Array) -> Pair:
    n = a**2 + s**2
    return (a * x - s * w) / n, (s * x + a * w) / n


_PAIR: dict[str, Callable[..., Pair]] = {
    "velocity": _from_velocity,
    "data": _from_data,
    "noise": _from_noise,
    "score": _from_score,
    "salimans_ho": _from_salimans_ho,
}
