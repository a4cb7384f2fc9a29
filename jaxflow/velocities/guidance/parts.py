r"""What an affine path says of a change of a velocity, and samples part by part.

On $x = \alpha x_1 + \sigma x_0$ with $D = \alpha\dot\sigma - \sigma\dot\alpha$, at one $x$

(1) $d\hat x_1 / dv = -\sigma / D$, the data that a change of the velocity changes

(2) $dv / ds = -\sigma D / \alpha$, the velocity that a change of the score
    $s = -\hat x_0 / \sigma$ changes

since $\hat x_1 = (\dot\sigma x - \sigma v) / D$ and $\hat x_0 = (\alpha v - \dot\alpha x) / D$.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand
from jaxflow.paths.ends import schedule_of
from jaxflow.paths.schedules import coefficients
from jaxflow.types import Array, Interval, Path
from jaxflow.velocities.prediction import conversion_interval

__all__ = ["by_part", "common", "data_rate", "held_inside", "velocity_of_score"]


def by_part(function: Callable[..., Any], path: Any, t: Any, x: Any, *fields: Any) -> Any:
    """`function(path, t, x, *fields)` of each part of a sample, with its own path and times.

    Of one array of which several things are said, as the edits of a sequence, of each of these.
    """
    if not isinstance(x, Mapping) and fields and isinstance(fields[0], Mapping):
        return jax.tree.map(lambda *values: function(path, t, x, *values), *fields)
    if not isinstance(x, Mapping):
        return jax.tree.map(lambda x, *values: function(path, t, x, *values), x, *fields)
    paths = getattr(path, "parts", None) or dict.fromkeys(x, path)
    times = t if isinstance(t, Mapping) else dict.fromkeys(x, t)
    return {
        name: by_part(function, paths[name], times[name], x[name], *(f[name] for f in fields))
        for name in x
    }


def held_inside(t: Any, interval: Interval) -> Any:
    """Times beyond the interval at its nearer end, in at least float32."""
    return jax.tree.map(lambda t: jnp.clip(at_least_float32(t), *interval), t)


def common(*intervals: Interval) -> Interval:
    """Where all are.

    Raises:
        ValueError: where they share no time.
    """
    low, high = max(low for low, _ in intervals), min(high for _, high in intervals)
    if not low < high:
        raise ValueError(
            f"the velocities of guidance share no time: their intervals are {intervals}"
        )
    return low, high


def data_rate(path: Path, t: Any, x: Any) -> Array:
    """(1), of a shape that multiplies `x`; 1 - t on a straight line."""
    t = jnp.clip(t, *conversion_interval(path, "velocity", "data"))
    alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule_of(path), t)
    return expand(sigma / (sigma * alpha_dot - alpha * sigma_dot), x)


def velocity_of_score(path: Path, t: Any, x: Any) -> Array:
    """(2), of a shape that multiplies `x`; (1 - t) / t on a straight line."""
    t = jnp.clip(t, *conversion_interval(path, "score", "velocity"))
    alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule_of(path), t)
    return expand(sigma * (sigma * alpha_dot - alpha * sigma_dot) / alpha, x)
