"""Samples as rows, and roots of distances: what every metric reads."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxflow.arrays import as_floats
from jaxflow.types import AnyArray, Array, Shaped

__all__ = ["Others", "Samples", "compared", "root", "rows", "same_event"]

Samples = Shaped[AnyArray, "n *event"] | Sequence[Any]
Others = Shaped[AnyArray, "m *event"] | Sequence[Any]
Same = TypeVar("Same", jax.Array, np.ndarray)


def rows(x: Same, *, at_least: int = 1) -> Same:
    """`x` as `[n, d]`: one row a sample.

    Raises:
        ValueError: for a scalar, or fewer than `at_least` samples.
    """
    if x.ndim == 0 or len(x) < at_least:
        raise ValueError(
            f"got shape {x.shape}: at least {at_least} samples are needed, [n, *event]"
        )
    return x.reshape(len(x), math.prod(x.shape[1:]))


def same_event(x: AnyArray, y: AnyArray) -> None:
    """Raises: ValueError, where the samples of `x` and `y` differ in shape."""
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"samples of shape {x.shape[1:]} and {y.shape[1:]} cannot be compared: "
            "pass two arrays [n, *event] and [m, *event] of the same event"
        )


def compared(x: ArrayLike, y: ArrayLike, *, at_least: int = 1) -> tuple[Array, Array]:
    """Two sets of samples of one event, in at least float32: a difference of bytes would wrap.

    Raises:
        ValueError: for a scalar, fewer than `at_least` samples in a set, or events that differ.
    """
    a, b = jnp.asarray(x), jnp.asarray(y)
    same_event(a, b)
    for z in (a, b):
        rows(z, at_least=at_least)
    return as_floats(a), as_floats(b)


def root(x: Array, order: float = 2.0) -> Array:
    """`x^(1 / order)` with a slope of zero at zero, where a distance turns."""
    positive = x > 0
    inside = jnp.where(positive, x, 1.0)
    power = jnp.sqrt(inside) if order == 2 else inside ** (1 / order)
    return jnp.where(positive, power, 0.0 * x)
