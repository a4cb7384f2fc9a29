"""Grids of times for samplers: `n` steps from `start` to `stop`, as `n + 1` increasing times.

With `start > stop` they run backwards. Where a path is infinite at its end, a grid may stop at
`path.schedule.interval[1]`; one that goes on to 1 makes the sampler end on the posterior mean.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxflow.paths.ends import schedule_of
from jaxflow.paths.schedules import Linear, signal, time_of_signal
from jaxflow.types import Path

__all__ = ["cosine", "karras", "shifted", "uniform"]

Grid = Float[np.ndarray, "times"]


def _unit(n: int) -> Grid:
    if n < 1:
        raise ValueError(f"a grid needs at least one step; got n={n}")
    return np.arange(n + 1) / n


def _between(start: float, stop: float, share: Grid) -> Grid:
    """From `start` to `stop`, both exactly met."""
    return start * (1.0 - share) + stop * share


def uniform(n: int, start: float = 0.0, stop: float = 1.0) -> Grid:
    """Equal steps.

    >>> uniform(4)
    array([0.  , 0.25, 0.5 , 0.75, 1.  ])

    Raises:
        ValueError: where `n < 1`.
    """
    return _between(start, stop, _unit(n))


def shifted(n: int, shift: float, start: float = 0.0, stop: float = 1.0) -> Grid:
    """Steps that are finer near the noise for `shift > 1`.

    With `u` the remaining noise time, `u -> shift u / (1 + (shift - 1) u)`. Esser et al., Scaling
    Rectified Flow Transformers, 2024, arXiv:2403.03206, eq. 23 (whose t is our 1 - t).

    Raises:
        ValueError: where `n < 1` or `shift <= 0`.
    """
    if not 0 < shift < math.inf:
        raise ValueError(f"shifted needs shift > 0; got {shift}")
    u = 1.0 - _unit(n)
    return _between(start, stop, 1.0 - shift * u / (1.0 + (shift - 1.0) * u))


def cosine(n: int, start: float = 0.0, stop: float = 1.0) -> Grid:
    """`1 - cos(pi u / 2)`: steps that grow from the noise to the data.

    Raises:
        ValueError: where `n < 1`.
    """
    return _between(start, stop, 1.0 - np.sin(np.pi / 2 * (1.0 - _unit(n))))


def karras(
    n: int,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    path: Path | None = None,
) -> Grid:
    """Equal steps in the `rho`-th root of the noise-to-signal ratio, between pure noise and data.

    The ratio of a path is `sigma(t) / alpha(t)`; the first time is 0, the last 1, and those
    between run from `sigma_max` to `sigma_min`, or where the path's interval ends before 1 to the
    ratio there if that is larger (.0045 for `linear_vp`). Karras et al., Elucidating the Design
    Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364, eq. 5.

    Args:
        n: steps, at least 3.
        sigma_min, sigma_max: ratios.
        rho: 1 for equal steps of the ratio, 7 for finer steps near the data.
        path: an affine path; the linear one where None.

    Raises:
        ValueError: where `n < 3`, `rho` is not positive, the ratios are not
            `0 < sigma_min < sigma_max`, or two of them are met at the same time.
    """
    if n < 3 or not 0 < sigma_min < sigma_max < math.inf or not 0 < rho < math.inf:
        raise ValueError(
            "karras needs n >= 3, 0 < sigma_min < sigma_max and rho > 0; "
            f"got n={n}, sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}"
        )
    schedule = Linear() if path is None else schedule_of(path)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        end = signal(schedule, jnp.asarray(schedule.interval[1], jnp.float64))[0]
        low = max(sigma_min, float(1.0 / end - 1.0))
        ratios = np.linspace(sigma_max ** (1 / rho), low ** (1 / rho), n - 1) ** rho
        share = np.asarray(time_of_signal(schedule, jnp.asarray(1.0 / (1.0 + ratios))))
    times = np.concatenate([[0.0], share, [1.0]])
    if not np.all(np.diff(times) > 0):
        raise ValueError(
            f"karras(n={n}, sigma_min={sigma_min}, sigma_max={sigma_max}) repeats a time, since "
            "ratios next to each other cannot be told apart on its path: take fewer steps, a "
            "larger sigma_min or a smaller sigma_max"
        )
    return times
