"""Samples as rows: what every metric reads."""

from typing import TypeVar

import jax
import numpy as np

__all__ = ["rows", "same_event"]

AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)


def rows(x: AnyArray, *, at_least: int = 1) -> AnyArray:
    """`x` as `[n, d]`: one row a sample.

    Raises:
        ValueError: for a scalar, or fewer than `at_least` samples.
    """
    if x.ndim == 0 or len(x) < at_least:
        raise ValueError(
            f"got shape {x.shape}: at least {at_least} samples are needed, [n, *event]"
        )
    return x.reshape(len(x), -1)


def same_event(x: jax.Array | np.ndarray, y: jax.Array | np.ndarray) -> None:
    """Raises: ValueError, where the samples of `x` and `y` differ in shape."""
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"samples of shape {x.shape[1:]} and {y.shape[1:]} cannot be compared: "
            "pass two arrays [n, *event] and [m, *event] of the same event"
        )
