r"""Sampling by a flow map: one call a step, however long the step.

(1) $x' = X(t, r, x)$

A share $\gamma$ of noise new in every step but the last: the map goes beyond $r$, to the time $q$
whose ratio of noise to data is $\sqrt{1 - \gamma^2}$ times that at $r$, and comes back,

(2) $x' = \dfrac{\alpha(r)}{\alpha(q)}\, X(t, q, x) + \gamma\, \sigma(r)\, z$

At $\gamma = 1$ it starts anew from the data of every step, as consistency models do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32, check_keys, event_shape, expand, is_concrete
from jaxflow.checks import check_batch, check_made
from jaxflow.paths.diffusion import log_snr, time_of_log_snr
from jaxflow.paths.ends import interval_of, schedule_of
from jaxflow.records import traceable
from jaxflow.sampling.ends import check_order
from jaxflow.sampling.fixed_step import all_finite
from jaxflow.sampling.precision import computing
from jaxflow.sources import normal
from jaxflow.types import Array, FlowMap, Keys, Path, PyTree, Solution, Velocity

__all__ = ["flow_map"]


def flow_map(
    flow_map: FlowMap,
    x0: PyTree,
    grid: ArrayLike | Sequence[float],
    *,
    cond: Mapping[str, Any] | None = None,
    noise: float = 0.0,
    keys: Keys | None = None,
    path: Path | None = None,
    precision: str = "network",
) -> Solution:
    """Carry `x0` along a grid of times by `X(s, t, x)`, one call a step.

    Compiled inside, as `fixed_step`.

    Args:
        flow_map: `(s, t, x, **cond) -> x at t`, as `velocities.flow_map` makes of a network.
        x0: the state at `grid[0]`, an array or any pytree, `[batch, ...]`.
        grid: two or more times, as `grids.uniform(1)` for a single step.
        cond: conditions, each `[batch, ...]`.
        noise: gamma of (2), in [0, 1]. Of a map that is exact, samples are as good for any.
        keys: one a sample, `[batch]`, of the noise; needed where there is some.
        path: the affine path that noise is given back by; needed where there is some.
        precision: as for `fixed_step`.

    Returns:
        The solution; `nfe` is the number of steps.

    Raises:
        TypeError: for a velocity, which takes one time.
        ValueError: for a grid that is not monotone in [0, 1], or not rising where there is noise; a
            condition that does not lead with the batch; noise outside [0, 1], or without keys or a
            path; or an unknown precision.

    Kim et al., Consistency Trajectory Models, 2023, arXiv:2310.02279, algorithm 3, for any affine
    path; Song et al., Consistency Models, 2023, arXiv:2303.01469, algorithm 1, at `noise=1.0`.

    >>> from jaxflow.sampling import grids
    >>> decay = lambda s, t, x: x * jnp.exp(s - t)[:, None]
    >>> bool(jnp.allclose(flow_map(decay, jnp.ones((1, 1)), grids.uniform(3)).x, jnp.exp(-1)))
    True
    """
    check_made("flow_map", flow_map)
    cond = {} if cond is None else dict(cond)
    n = check_batch(x0, cond)
    grid = check_order(grid)
    if not 0 <= noise <= 1:
        raise ValueError(f"noise is a share of that at a step's end, in [0, 1]; got {noise}")
    again = ()
    if noise > 0:
        again = (noise, _checked_keys(keys, n), _checked_path(path, grid))
    flow_map, products = computing(flow_map, precision)
    with products:
        return _flow_map(traceable(flow_map), x0, grid, cond, again)


def _checked_keys(keys: Keys | None, n: int) -> Keys:
    if keys is None:
        raise ValueError("noise needs keys, one a sample: jax.random.split(key, batch)")
    check_keys(keys, n)
    return keys


def _checked_path(path: Path | None, grid: Any) -> Path:
    if path is None:
        raise ValueError("noise is given back on a path: give path=paths.linear(), say")
    schedule_of(path)
    if is_concrete(grid) and grid[0] > grid[-1]:
        raise ValueError("noise is given back on the way to the data alone: let the grid rise")
    return traceable(path)


@jax.jit
def _flow_map(
    flow_map: FlowMap, x0: PyTree, grid: Array, cond: Mapping[str, Any], again: tuple[Any, ...]
) -> Solution:
    if isinstance(flow_map, Velocity):
        raise TypeError(
            f"{flow_map!r} is a velocity, which leads to no other time: integrate it by "
            "sampling.fixed_step or adaptive, or give velocities.flow_map(network, params)"
        )
    n = check_batch(x0, cond)
    start = jax.tree.map(at_least_float32, x0)
    times = jnp.broadcast_to(jnp.asarray(grid, jnp.float32)[:, None], (len(grid), n))

    def step(x: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, None]:
        return flow_map(*at, x, **cond), None

    def noisy_step(x: PyTree, at: tuple[Array, Array, Array]) -> tuple[PyTree, None]:
        return _renewed(flow_map, x, *at, cond, *again), None

    if again:
        numbers = jnp.arange(len(grid) - 2)
        x, _ = jax.lax.scan(noisy_step, start, (times[:-2], times[1:-1], numbers))
        x, _ = step(x, (times[-2], times[-1]))
    else:
        x, _ = jax.lax.scan(step, start, (times[:-1], times[1:]))
    x = jax.tree.map(lambda a, b: a.astype(b.dtype), x, x0)
    nfe = jnp.full((n,), len(grid) - 1, jnp.int32)
    return Solution(x, None, None, nfe, all_finite(x))


def _renewed(
    flow_map: FlowMap,
    x: PyTree,
    t: Array,
    r: Array,
    number: Array,
    cond: Mapping[str, Any],
    noise: Array,
    keys: Keys,
    path: Path,
) -> PyTree:
    """The step (2)."""
    schedule, end = schedule_of(path), interval_of(path)[1]
    kept = 1 - jnp.square(noise)
    ratio = log_snr(path, r) - jnp.log(jnp.where(kept > 0, kept, 1.0))
    beyond = jnp.where(kept > 0, time_of_log_snr(path, ratio), end)
    made = flow_map(t, beyond, x, **cond)
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    fresh = normal().sample(own, event_shape(x))
    share = schedule.alpha(r) / schedule.alpha(beyond)
    left = jnp.square(schedule.sigma(r)) - jnp.square(share * schedule.sigma(beyond))
    size = jnp.sqrt(jnp.maximum(left, 0.0))

    def back(a: Array, z: Array) -> Array:
        return expand(share, a) * a + (expand(size, a) * z).astype(a.dtype)

    return jax.tree.map(back, made, fresh)
