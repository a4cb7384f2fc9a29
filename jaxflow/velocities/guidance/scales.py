"""How strongly: one number, one a sample, or a function of time; and when."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import as_floats, expand
from jaxflow.records import traceable
from jaxflow.types import Array, Interval

__all__ = ["Scale", "as_during", "as_scale", "inside", "scale_at"]

Scale = ArrayLike | Callable[..., Any]


def as_scale(scale: Scale) -> Any:
    """A scale as a leaf, or a function as an argument of jit.

    Raises:
        ValueError: for more than one axis.
    """
    if callable(scale):
        return traceable(scale)
    if jnp.ndim(scale) > 1:
        raise ValueError(
            f"the scale of guidance has shape {jnp.shape(scale)}: give one number, one a sample, "
            "or a function of t"
        )
    return jnp.asarray(scale)


def scale_at(scale: Any, t: Any, x: Any) -> Array:
    """The scale at the times of one part of a sample, of a shape that multiplies `x`, a field.

    Raises:
        ValueError: for a scale of another batch, or a function that is not one of `t` alone.
    """
    if callable(scale):
        value = as_floats(scale(t))
        if value.shape not in ((), jnp.shape(t)):
            raise ValueError(
                f"the scale of times of shape {jnp.shape(t)} has shape {value.shape}: a scale is a "
                "function of t alone, one a time"
            )
    else:
        value = as_floats(scale)
        if value.ndim and value.shape != (len(x),):
            raise ValueError(
                f"the scale of guidance has shape {value.shape}, and the batch is {len(x)}: "
                "give one number, or one a sample, which adaptive takes with per_sample=False"
            )
    return expand(value, x) if value.ndim else value


def as_during(interval: Interval) -> tuple[Array, Array] | None:
    """The times of guidance as leaves, so that others do not retrace; None for all times.

    Raises:
        ValueError: for an interval outside [0, 1], or an empty one.
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(
            f"the interval of guidance is {interval}, but needs 0 <= low < high <= 1: times run "
            "from the noise at 0 to the data at 1"
        )
    if (low, high) == (0, 1):
        return None
    return jnp.asarray(float(low)), jnp.asarray(float(high) if high < 1 else jnp.inf)


def inside(during: tuple[Array, Array], t: Any, x: Any) -> Array:
    """Whether guided, of a shape that goes with `x`: from the first time on to before the last."""
    low, high = during
    t = expand(t, x)
    return (low <= t) & (t < high)
