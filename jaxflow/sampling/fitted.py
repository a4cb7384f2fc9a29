r"""A grid for a given velocity, method and number of steps, by dynamic programming.

On a fine grid $\tau_0, \dots, \tau_m$ the states $x_i$ of some samples are known from a solve to a
tolerance. A step of the method from $\tau_i$ to $\tau_j$, begun on the exact state, errs by

(1) $e_{ij} = \mathrm{rms}\,(\mathrm{step}(\tau_i, \tau_j, x_i) - x_j)$ over samples and events

and among all grids of $n$ steps through the fine times the one with the least total

(2) $\sum_k e_{i_k i_{k+1}}$

is found exactly, in $O(n m^2)$: the least total of $k + 1$ steps to $\tau_j$ is the least over
$i < j$ of that of $k$ steps to $\tau_i$, plus $e_{ij}$. What a flow makes of an error later is left
out of (2), which bounds the error of the end where the flow does not stretch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxflow.arrays import at_least_float32, event_mean
from jaxflow.checks import check_batch, check_made
from jaxflow.records import traceable
from jaxflow.sampling.adaptive import adaptive
from jaxflow.sampling.ends import check_grid
from jaxflow.sampling.methods import heun
from jaxflow.types import Array, Method, PyTree, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.marginal import posterior_mean

__all__ = ["fitted"]


def fitted(
    velocity: Velocity | Callable[..., PyTree],
    x0: PyTree,
    n: int,
    method: Method | None = None,
    *,
    start: float = 0.0,
    stop: float = 1.0,
    fine: int = 64,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    cond: Mapping[str, Any] | None = None,
) -> Float[np.ndarray, "times"]:
    """The grid of `n` steps on which the errors of a method's steps have the least total, (2).

    Measured once on a few samples, at `fine^2` steps of the method each, and used for all others.

    Args:
        velocity: a Velocity, or a plain function `(t, x, **cond) -> v`.
        x0: some states at `start`, `[batch, ...]`: tens of them, since the error of a step may
            vanish by chance for a few.
        n: steps.
        method: the one that will be used, without memory or noise, as `heun()` (where None) and
            `ddim(path)`; for a multistep method, that of one step which it is nearest to.
        start, stop: ends; with `start > stop` the grid runs backwards.
        fine: steps of the fine grid, in which the times are chosen.
        rtol, atol: tolerances of the exact states, well below the errors of the steps.
        cond: conditions, each `[batch, ...]`.

    Raises:
        ValueError: where `n` is not in 1 to `fine`, a step keeps a memory or draws noise, a sample
            cannot be solved to the tolerance, or the ends are none of a grid.

    Of a kind with Watson et al., Learning to Efficiently Sample from Diffusion Probabilistic
    Models, 2021, arXiv:2106.03802, whose dynamic program has the terms of a likelihood's bound.

    >>> kink = lambda t, x: jnp.maximum(t - 0.25, 0.0)[:, None]
    >>> fitted(kink, jnp.zeros((1, 1)), 2, fine=8)
    array([0.  , 0.25, 1.  ])
    """
    velocity = as_velocity(velocity)
    check_made("method", method)
    method = heun() if method is None else method
    cond = {} if cond is None else dict(cond)
    check_batch(x0, cond)
    if not 1 <= n <= fine:
        raise ValueError(f"fitted chooses 1 to fine={fine} steps; got n={n}")
    times = start * (1 - np.arange(fine + 1) / fine) + stop * np.arange(fine + 1) / fine
    inside = np.clip(times, *velocity.interval)
    inside[-1] = times[-1]
    inside = np.unique(inside) if start < stop else np.unique(inside)[::-1]
    times, past = check_grid(velocity, inside)
    if len(times) <= n:
        raise ValueError(f"only {len(times) - 1} of the fine={fine} steps lie where it is finite")
    exact = adaptive(velocity, x0, times, rtol=rtol, atol=atol, cond=cond)
    if not bool(jnp.all(exact.success)):
        raise ValueError("fitted needs exact states, but a sample could not be solved: raise rtol")
    xs = exact.xs if len(times) > 2 else jax.tree.map(lambda *a: jnp.stack(a), x0, exact.x)
    errors = _errors(traceable((velocity, method)), xs, np.asarray(times), cond, past=past)
    grid = np.asarray(times)[_least(np.asarray(errors, np.float64), n)]
    grid[0], grid[-1] = start, stop
    return grid


@partial(jax.jit, static_argnames="past")
def _errors(
    kind: tuple[Velocity, Method], xs: PyTree, times: Array, cond: Mapping[str, Any], *, past: bool
) -> Float[Array, "from to"]:
    """The errors (1); those of steps backwards mean nothing."""
    velocity, method = kind
    xs = jax.tree.map(at_least_float32, xs)
    count, batch = jax.tree.leaves(xs)[0].shape[:2]
    times = jnp.asarray(times, jnp.result_type(*jax.tree.leaves(xs)))

    def v(t: Array, x: PyTree) -> PyTree:
        return velocity(t, x, **cond)

    def step(i: Array, j: Array) -> PyTree:
        t, s = jnp.full((batch,), times[i]), jnp.full((batch,), times[j])
        x = jax.tree.map(lambda a: a[i], xs)
        memory = method.init(v, t, x)
        if jax.tree.leaves(memory):
            raise ValueError(
                "fitted measures steps one by one, but this method remembers those before: give a "
                "method of one step, as heun() or ddim(path)"
            )
        moved, _ = method.step(v, t, s, x, memory)
        if past:
            mean = posterior_mean(velocity, t, x, **cond)
            moved = jax.tree.map(lambda a, b: jnp.where(j == count - 1, b, a), moved, mean)
        return moved

    def error(i: Array, j: Array) -> Array:
        apart = jax.tree.map(lambda a, b: event_mean((a - b[j]) ** 2), step(i, j), xs)
        sizes = [a[0, 0].size for a in jax.tree.leaves(xs)]
        squares = [jnp.mean(a) * k for a, k in zip(jax.tree.leaves(apart), sizes, strict=True)]
        return jnp.sqrt(sum(squares) / sum(sizes))

    def row(i: Array) -> Array:
        return jax.lax.map(lambda j: error(i, j), jnp.arange(count), batch_size=8)

    return jax.lax.map(row, jnp.arange(count))


def _least(errors: Float[np.ndarray, "from to"], n: int) -> list[int]:
    """The places of the `n` steps from the first time to the last with the least total error."""
    count = len(errors)
    errors = np.where(np.arange(count)[:, None] < np.arange(count), errors, np.inf)
    totals, before = np.full(count, np.inf), []
    totals[0] = 0.0
    for _ in range(n):
        through = totals[:, None] + errors
        before.append(np.argmin(through, axis=0))
        totals = np.min(through, axis=0)
    places = [count - 1]
    for previous in reversed(before):
        places.append(int(previous[places[-1]]))
    return places[::-1]
