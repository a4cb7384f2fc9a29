r"""What an affine path is at the two ends of a step, and what a velocity tells there.

With $x = \alpha x_1 + \sigma x_0$ and the half logarithm of the signal-to-noise ratio

(1) $\lambda = \log \alpha - \log \sigma$

a step from $t$ to $s$ has the length $h = \lambda_s - \lambda_t$ and the share of new data

(2) $c = \alpha_s (1 - e^{-h}) = \alpha_s - \alpha_t \sigma_s / \sigma_t$

The right-hand side holds where $\alpha_t = 0$ or $\sigma_s = 0$ too, where $h$ is infinite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxflow.arrays import expand, root
from jaxflow.paths.ends import schedule_of
from jaxflow.sampling.methods.moves import Field, check_real
from jaxflow.types import Array, Path, PyTree, Schedule, Time
from jaxflow.velocities.prediction import conversion_interval, convert

__all__ = [
    "Level",
    "blend",
    "by_part",
    "check_affine",
    "first",
    "level",
    "new_share",
    "noised",
    "predictions",
    "ratio",
    "second",
]


class Level(NamedTuple):
    """Shares of data and noise, and (1), which is infinite where one of them is none."""

    alpha: Any
    sigma: Any
    log_ratio: Array


def level(schedule: Schedule, t: Time) -> Level:
    """That of a path at `t`."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    has_data, has_noise = alpha > 0, sigma > 0
    log_ratio = jnp.log(jnp.where(has_data, alpha, 1.0)) - jnp.log(jnp.where(has_noise, sigma, 1.0))
    log_ratio = jnp.where(has_noise, jnp.where(has_data, log_ratio, -jnp.inf), jnp.inf)
    return Level(alpha, sigma, log_ratio.astype(jnp.result_type(t)))


def ratio(above: Array, below: Array) -> Array:
    """The quotient, or 0 where the divisor is."""
    nonzero = below > 0
    return jnp.where(nonzero, above / jnp.where(nonzero, below, 1.0), 0.0)


def new_share(now: Level, then: Level) -> Array:
    """The share (2) of a step; 0 where there is no noise to begin with."""
    return jnp.where(now.sigma > 0, then.alpha - now.alpha * ratio(then.sigma, now.sigma), 0.0)


def blend(a: Time, x: Array, *more: tuple[Time, Array]) -> Array:
    """`a x + b y + ...`, in the dtype of `x`."""
    total = expand(a, x) * x
    for b, y in more:
        total = total + expand(b, y) * y
    return total.astype(x.dtype)


def noised(now: Level, then: Level, x: Array, z: Array, scale: Any = 1.0) -> Array:
    r"""$k x + \sqrt{\sigma_s^2 - k^2 \sigma_t^2}\; z$ with $k = \alpha_s / \alpha_t$.

    The path's own noising, exactly, from `now` to a level `then` of more noise.
    """
    kept = ratio(then.alpha, now.alpha)
    square = then.sigma**2 - (kept * now.sigma) ** 2
    return blend(kept, x, (scale * root(square), z))


def predictions(path: Path, v: Field, t: Time, x: PyTree) -> tuple[PyTree, PyTree]:
    """The posterior means of data and noise, by one call of the velocity.

    Where a velocity tells them apart by less than 1e-4 (at `t = 0` of a path that starts with no
    speed) they are those of the nearest time where it does.
    """
    check_real(x)
    t = jnp.clip(t, *conversion_interval(path, "velocity", "data"))
    value = jax.tree.map(lambda a, b: a.astype(b.dtype), v(t, x), x)
    data, noise = (
        convert(value, t, x, path=path, source="velocity", target=kind)
        for kind in ("data", "noise")
    )
    return data, noise


def by_part(path: Path, f: Callable[..., Any], *trees: Any) -> Any:
    """`f(schedule, *arrays)`; of a path over several parts a mapping of what it is of each."""
    parts = getattr(path, "parts", None)
    if parts is None:
        return f(schedule_of(path), *trees)
    return {name: by_part(part, f, *(t[name] for t in trees)) for name, part in parts.items()}


def first(path: Path, pairs: Any) -> Any:
    """The first of each pair that `by_part` returned."""
    return _of(path, pairs, 0)


def second(path: Path, pairs: Any) -> Any:
    """The second of each pair that `by_part` returned."""
    return _of(path, pairs, 1)


def _of(path: Path, pairs: Any, i: int) -> Any:
    parts = getattr(path, "parts", None)
    if parts is None:
        return pairs[i]
    return {name: _of(part, pairs[name], i) for name, part in parts.items()}


def check_affine(path: Path) -> None:
    """Refuse a path without schedule.

    Raises:
        ValueError: naming the path.
    """
    by_part(path, lambda schedule: None)
