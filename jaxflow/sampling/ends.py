"""How a grid meets the ends of a velocity's interval."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import is_concrete
from jaxflow.types import Array, Interval, Velocity

__all__ = ["check_grid", "interval_of"]


def interval_of(velocity: Velocity | Callable[..., Any]) -> Interval:
    """Where the velocity is finite: all of [0, 1] for a plain function."""
    return getattr(velocity, "interval", (0.0, 1.0))


def check_grid(
    velocity: Velocity | Callable[..., Any], grid: Any
) -> tuple[Array | np.ndarray, bool]:
    """The grid as an array, and whether it goes on past the velocity's last finite time.

    Raises:
        ValueError: for a grid that is not a strictly monotone sequence of at least two times in
            [0, 1], has a time beyond the interval other than its last, or goes beyond it where
            the velocity has no path to give a posterior mean, or for some samples alone.
    """
    low, high = interval_of(velocity)
    if not is_concrete(grid):
        if (low, high) != (0.0, 1.0):
            raise ValueError(
                f"the velocity is finite on [{low}, {high}] alone, so its grid must be known when "
                "the sampler is traced: pass the grid as a numpy array, not as an argument of jit"
            )
        return jnp.asarray(grid), False
    times = np.asarray(grid, np.float64)
    steps = np.diff(times, axis=0)
    if times.ndim not in (1, 2) or len(times) < 2 or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(
            "a grid is a strictly increasing or decreasing sequence of two or more times; "
            f"got {grid}"
        )
    if times.min() < 0 or times.max() > 1:
        raise ValueError(f"times lie in [0, 1]; the grid runs from {times.min()} to {times.max()}")
    past = bool(np.any(times[-1] > high))
    if past and getattr(velocity, "path", None) is None:
        raise ValueError(
            f"the velocity is finite up to t = {high} and has no path, so a grid that ends at "
            f"{times[-1]} has no last step: stop the grid at {high}"
        )
    if past and np.any(times[1:-1] > high):
        raise ValueError(
            f"the velocity is finite up to t = {high}: only the last time of a grid may lie beyond "
            f"it, yet {times[-2]} does too; drop it"
        )
    if past and not np.all(times[-1] > high):
        raise ValueError(
            f"the velocity is finite up to t = {high}: the grids of a batch all end beyond it or "
            f"none does; got {times[-1]}"
        )
    return times, past
