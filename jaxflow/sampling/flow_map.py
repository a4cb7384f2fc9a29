"""Sampling by a flow map: one call a step, however long the step."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32
from jaxflow.checks import check_batch, check_made
from jaxflow.records import traceable
from jaxflow.sampling.ends import check_order
from jaxflow.sampling.fixed_step import all_finite
from jaxflow.sampling.precision import computing
from jaxflow.types import Array, FlowMap, PyTree, Solution

__all__ = ["flow_map"]


def flow_map(
    flow_map: FlowMap,
    x0: PyTree,
    grid: ArrayLike | Sequence[float],
    *,
    cond: Mapping[str, Any] | None = None,
    precision: str = "network",
) -> Solution:
    """Carry `x0` along a grid of times by `X(s, t, x)`, one call a step.

    Compiled inside, as `fixed_step`.

    Args:
        flow_map: `(s, t, x, **cond) -> x at t`, as `velocities.flow_map` makes of a network.
        x0: the state at `grid[0]`, an array or any pytree, `[batch, ...]`.
        grid: two or more times, as `grids.uniform(1)` for a single step.
        cond: conditions, each `[batch, ...]`.
        precision: as for `fixed_step`.

    Returns:
        The solution; `nfe` is the number of steps.

    Raises:
        ValueError: for a grid that is not monotone in [0, 1], a condition that does not lead with
            the batch, or an unknown precision.

    >>> from jaxflow.sampling import grids
    >>> decay = lambda s, t, x: x * jnp.exp(s - t)[:, None]
    >>> bool(jnp.allclose(flow_map(decay, jnp.ones((1, 1)), grids.uniform(3)).x, jnp.exp(-1)))
    True
    """
    check_made("flow_map", flow_map)
    cond = {} if cond is None else dict(cond)
    check_batch(x0, cond)
    flow_map, products = computing(flow_map, precision)
    with products:
        return _flow_map(traceable(flow_map), x0, check_order(grid), cond)


@jax.jit
def _flow_map(flow_map: FlowMap, x0: PyTree, grid: Array, cond: Mapping[str, Any]) -> Solution:
    n = check_batch(x0, cond)
    start = jax.tree.map(at_least_float32, x0)
    times = jnp.broadcast_to(jnp.asarray(grid, jnp.float32)[:, None], (len(grid), n))

    def step(x: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, None]:
        return flow_map(*at, x, **cond), None

    x, _ = jax.lax.scan(step, start, (times[:-1], times[1:]))
    x = jax.tree.map(lambda a, b: a.astype(b.dtype), x, x0)
    nfe = jnp.full((n,), len(grid) - 1, jnp.int32)
    return Solution(x, None, None, nfe, all_finite(x))
