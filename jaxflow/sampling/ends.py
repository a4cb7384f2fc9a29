"""How a grid meets the ends of a velocity's interval."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import is_concrete
from jaxflow.types import Array, Velocity

__all__ = ["check_grid"]


def check_grid(
    velocity: Velocity, grid: Any, batch: int | None = None
) -> tuple[Array | np.ndarray, bool]:
    """The grid as an array, and whether it goes on past the velocity's last finite time.

    With a `batch`, it may be a grid a sample, `[times, batch]`.

    Raises:
        ValueError: for a grid of another shape, or one that is not strictly monotone in [0, 1],
            has a time beyond the interval other than its last, or goes beyond it where the velocity
            has no path to give a posterior mean, or for some samples alone.
    """
    low, high = velocity.interval
    if not is_concrete(grid):
        if (low, high) != (0.0, 1.0):
            raise ValueError(
                f"the velocity is finite on [{low}, {high}] alone, so its grid must be known when "
                "the sampler is traced: pass the grid as a numpy array, not as an argument of jit"
            )
        grid = jnp.asarray(grid)
        _check_shape(grid.shape, batch)
        return grid, False
    times = np.asarray(grid, np.float64)
    _check_shape(times.shape, batch)
    steps = np.diff(times, axis=0)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(f"the times of a grid strictly increase, or strictly decrease; got {grid}")
    if times.min() < 0 or times.max() > 1:
        raise ValueError(f"times lie in [0, 1]; the grid runs from {times.min()} to {times.max()}")
    past = bool(np.any(times[-1] > high))
    if past and velocity.path is None:
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


def _check_shape(shape: tuple[int, ...], batch: int | None) -> None:
    known = [shape[:1]] if batch is None else [shape[:1], (*shape[:1], batch)]
    if shape not in known or not shape or shape[0] < 2:
        many = "" if batch is None else f", or [times, {batch}], one grid a sample"
        raise ValueError(f"a grid is a sequence of two or more times{many}; got shape {shape}")
