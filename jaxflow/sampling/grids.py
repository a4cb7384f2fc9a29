"""Grids of times for samplers: `n` steps from `start` to `stop`, as `n + 1` increasing times.

With `start > stop` they run backwards. Where a path is infinite at its end, a grid may stop at
`path.schedule.interval[1]`; one that goes on to 1 makes the sampler end on the posterior mean.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxflow import times
from jaxflow.paths.ends import schedule_of
from jaxflow.paths.schedules import Linear, signal, time_of_signal
from jaxflow.sampling.fitted import fitted
from jaxflow.types import Path

__all__ = ["beta", "cosine", "fitted", "flux", "karras", "linear_quadratic", "shifted", "uniform"]

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


def flux(n: int, tokens: int, start: float = 0.0, stop: float = 1.0) -> Grid:
    """Steps that are the finer near the noise the more tokens there are: those of FLUX.1.

    It is `shifted` with `shift = exp(mu)` and `mu` linear in the number of tokens, from .5 at 256
    to 1.15 at 4096, as in `get_schedule` of Black Forest Labs' code for FLUX.1
    (github.com/black-forest-labs/flux, 2024), whose t is our 1 - t.

    Args:
        n: steps.
        tokens: of the latent image, as 4096 for 1024 x 1024 pixels.
        start, stop: ends.

    Raises:
        ValueError: where `n < 1` or `tokens < 1`.

    >>> bool(np.allclose(flux(4, 256), shifted(4, np.exp(0.5))))
    True
    """
    if tokens < 1:
        raise ValueError(f"flux needs at least one token; got {tokens}")
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    return shifted(n, math.exp(mu), start, stop)


def cosine(n: int, start: float = 0.0, stop: float = 1.0) -> Grid:
    """`1 - cos(pi u / 2)`: steps that grow from the noise to the data.

    Raises:
        ValueError: where `n < 1`.
    """
    return _between(start, stop, 1.0 - np.sin(np.pi / 2 * (1.0 - _unit(n))))


def beta(n: int, a: float = 0.6, b: float = 0.6, start: float = 0.0, stop: float = 1.0) -> Grid:
    """Quantiles of the beta distribution at `i / n`: steps fine at both ends for `a, b < 1`.

    Lee et al., Beta Sampling is All You Need, 2024, arXiv:2407.12173, where noise stands at 1:
    their (alpha, beta) are our (b, a).

    Args:
        n: steps.
        a, b: parameters in our t; smaller `a` for finer steps near the noise, smaller `b` near the
            data. .6 is what users of the paper's method take.
        start, stop: ends.

    Raises:
        ValueError: where `n < 1`, a parameter is not positive, or the distribution is so narrow or
            so wide that two quantiles are one number.

    >>> bool(np.allclose(beta(4, 1.0, 1.0), uniform(4)))
    True
    """
    share = _unit(n)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        inner = np.asarray(times.beta(a, b).quantile(share[1:-1])) if n > 1 else share[1:-1]
    unit = np.concatenate([[0.0], inner, [1.0]])
    if not np.all(np.diff(unit) > 0):
        raise ValueError(
            f"beta(n={n}, a={a}, b={b}) repeats a time: take fewer steps, or a and b nearer to 1"
        )
    return _between(start, stop, unit)


def linear_quadratic(
    n: int,
    threshold: float = 0.025,
    linear: int | None = None,
    start: float = 0.0,
    stop: float = 1.0,
) -> Grid:
    """Small equal steps to `threshold`, then steps that grow linearly, the first as those before.

    With `m` linear steps and `q = n - m` more, `j` of them done,
    `t = threshold (1 + j / m) + (1 - threshold n / m) (j / q)^2`.

    Polyak et al., Movie Gen: A Cast of Media Foundation Models, 2024, arXiv:2410.13720, where 25 of
    50 steps are the first of 1000 equal ones (`threshold = .025`) and the rest are placed
    quadratically; that the two parts meet with one slope is as in the code of Mochi
    (github.com/genmoai/mochi, 2024).

    Args:
        n: steps, at least 2.
        threshold: where the linear steps end.
        linear: how many they are; half of all where None.
        start, stop: ends.

    Raises:
        ValueError: where there is no step of either kind, or the linear steps are so large that the
            others would shrink.

    >>> linear_quadratic(4, 0.1)
    array([0.  , 0.05, 0.1 , 0.35, 1.  ])
    """
    m = n // 2 if linear is None else linear
    if not 0 < m < n:
        raise ValueError(
            f"linear_quadratic needs steps of both kinds; got n={n} and linear={linear}"
        )
    if not 0 < threshold <= m / n:
        raise ValueError(
            f"linear_quadratic needs 0 < threshold <= linear / n = {m / n:.4g}, so that steps do "
            f"not shrink; got threshold={threshold}"
        )
    done = np.maximum(np.arange(n + 1) - m, 0)
    share = threshold * np.arange(n + 1) / m + (1 - threshold * n / m) * (done / (n - m)) ** 2
    share[-1] = 1.0
    return _between(start, stop, share)


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
    grid = np.concatenate([[0.0], share, [1.0]])
    if not np.all(np.diff(grid) > 0):
        raise ValueError(
            f"karras(n={n}, sigma_min={sigma_min}, sigma_max={sigma_max}) repeats a time, since "
            "ratios next to each other cannot be told apart on its path: take fewer steps, a "
            "larger sigma_min or a smaller sigma_max"
        )
    return grid
