"""How a grid meets the ends of a velocity's interval."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxflow.arrays import is_concrete
from jaxflow.checks import check_made
from jaxflow.paths.ends import is_affine
from jaxflow.types import Array, Velocity

__all__ = ["check_grid", "check_order"]


def check_grid(velocity: Velocity, grid: Any, x: Any = None) -> tuple[Array | np.ndarray, bool]:
    """The grid as an array, and whether it goes on from the last finite time to a posterior mean.

    Where the velocity's path knows none (an interpolant), a flow ends at its last finite time.

    With a state `x`, it may be a grid a sample, `[times, batch]`, or one for each leading axis of
    the event too, `[times, batch, *lead]`, where a 1 stands for all; such times may stand still.

    Raises:
        TypeError: for what is no sequence of times.
        ValueError: for a grid of another shape, or one that is not strictly monotone in [0, 1],
            has a time beyond the interval other than its last, or goes beyond it where the velocity
            has no path to give a posterior mean, or for some samples alone.
    """
    check_made("grid", grid)
    low, high = velocity.interval
    if not is_concrete(grid):
        if (low, high) != (0.0, 1.0):
            raise ValueError(
                f"the velocity is finite on [{low}, {high}] alone, so its grid must be known when "
                "the sampler is traced: pass the grid as a numpy array, not as an argument of jit"
            )
        grid = jnp.asarray(grid)
        _check_shape(grid.shape, x)
        return grid, False
    times = check_order(grid, x)
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
    return times, past and is_affine(velocity.path)


def check_order(grid: Any, x: Any = None) -> np.ndarray:
    """A grid whose values are known, in float64.

    Raises:
        TypeError: for what is no sequence of times.
        ValueError: for one of another shape, or that is not monotone in [0, 1].
    """
    try:
        times = np.asarray(grid, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"a grid is a sequence of times, as sampling.grids.uniform(20); got {grid!r}"
        ) from None
    _check_shape(times.shape, x)
    earlier, later = times[:-1], times[1:]
    follows = np.less_equal if times.ndim > 2 else np.less
    if not (follows(earlier, later).all() or follows(later, earlier).all()):
        raise ValueError(f"the times of a grid strictly increase, or strictly decrease; got {grid}")
    ends = times[:: len(times) - 1]
    if not ((ends >= 0).all() and (ends <= 1).all()):
        raise ValueError(f"times lie in [0, 1]; the grid runs from {times.min()} to {times.max()}")
    return times


def _check_shape(shape: tuple[int, ...], x: Any) -> None:
    leads = () if x is None else [jnp.shape(leaf)[: len(shape) - 1] for leaf in jax.tree.leaves(x)]
    fits = len(shape) == 1 or (bool(leads) and all(_broadcasts(shape[1:], lead) for lead in leads))
    if not fits or not shape or shape[0] < 2:
        n = None if x is None else jnp.shape(jax.tree.leaves(x)[0])[0]
        many = "" if x is None else f", or [times, {n}], one grid a sample, or [times, {n}, *lead]"
        raise ValueError(f"a grid is a sequence of two or more times{many}; got shape {shape}")


def _broadcasts(shape: tuple[int, ...], lead: tuple[int, ...]) -> bool:
    return len(shape) == len(lead) and all(a in (1, b) for a, b in zip(shape, lead, strict=True))
