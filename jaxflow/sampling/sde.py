r"""Stochastic sampling by Diffrax: methods of high order, on a Brownian path that grids share.

(1) $dX = (v + \frac{g^2}{2} s)\, dt + g\, dW$ has the marginals of $dX = v\, dt$ for any $g(t)$,
    with $s$ their score; backwards in time it is $dX = (v - \frac{g^2}{2} s)\, dt + g\, d\bar W$

The Brownian path of a sample is that of its key, told down to $2^{-16}$ of the way, whatever the
steps: solutions on finer grids converge to one path.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32, check_keys, is_concrete
from jaxflow.checks import check_batch, check_made
from jaxflow.records import traceable
from jaxflow.sampling.brownian import FINEST, Diffusing, calls_a_step, solve
from jaxflow.sampling.ends import check_grid
from jaxflow.sampling.fixed_step import all_finite
from jaxflow.sampling.methods.moves import check_real
from jaxflow.sampling.methods.stochastic import Drift, drift_of
from jaxflow.sampling.precision import computing
from jaxflow.types import Array, Interval, Keys, Path, PyTree, Solution, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.marginal import posterior_mean
from jaxflow.velocities.prediction import conversion_interval

__all__ = ["sde"]


def sde(
    velocity: Velocity | Callable[..., PyTree],
    x0: PyTree,
    grid: ArrayLike | Sequence[float],
    *,
    keys: Keys | None,
    diffusion: Any,
    path: Path | None = None,
    score: Callable[..., PyTree] | None = None,
    solver: diffrax.AbstractSolver | None = None,
    rtol: ArrayLike | None = None,
    atol: ArrayLike | None = None,
    save: bool = False,
    precision: str = "network",
    cond: Mapping[str, Any] | None = None,
) -> Solution:
    """Integrate the SDE (1), which has the marginals of the flow, for any diffusion.

    Every sample is solved by itself, with its own noise and, to a tolerance, its own steps. On a
    grid it does not depend on its batch-mates; to a tolerance it does not either, but for rounding,
    which moves the times of steps on a rough path: at another batch size within the tolerance.

    Where the score is read off the velocity, it is finite up to where the path's noise ends: the
    last step of a grid that goes on to there is the posterior mean of the data, from the time
    before, or to a tolerance from a noise of 1e-4.

    Args:
        velocity: a Velocity, or a plain function `(t, x, **cond) -> v`.
        x0: the state at `grid[0]`, an array or any pytree, `[batch, ...]`.
        grid: increasing or decreasing times, which are the steps; to a tolerance its ends, and the
            times to save.
        keys: one a sample: the Brownian path.
        diffusion: $g$, a number or a function of the times `[batch]`, as those of `diffusions`.
        path: the affine path (or product) that the velocity was learned on, to read the score off
            it; that of the velocity where None. From standard normal noise independent of the data.
        score: instead of a path, the score `(t, x, **cond)`; called where the velocity is, and not
            counted.
        solver: of Diffrax, for additive noise: `ShARK()` where None, `SRA1()` or `SEA()` as other
            methods of strong order 1.5 (1 for the last), `Heun()`, `Euler()`.
        rtol, atol: tolerances of adaptive steps, both or neither.
        save: keep the states at all times of the grid.
        precision: what networks compute in, one of `sampling.PRECISIONS`.
        cond: conditions, each `[batch, ...]`.

    Returns:
        The solution. `nfe` counts every call of the velocity, rejected steps included.

    Raises:
        ValueError: without keys, a path or score; for one tolerance without the other; for a grid
            that is not monotone in [0, 1] or has a step below 2^-16 of its way; and as `adaptive`.
        TypeError: for another solver, or one without an estimate of its error where it is needed.

    Jelincic, Foster & Kidger, Single-seed generation of Brownian paths and integrals for adaptive
    and high order SDE solvers, 2024, arXiv:2405.06464.
    """
    velocity = as_velocity(velocity)
    cond = {} if cond is None else dict(cond)
    n = check_batch(x0, cond)
    if keys is None:
        raise ValueError(
            f"sde draws noise: pass keys=jax.random.split(jax.random.key(0), {n}), one a sample"
        )
    check_keys(keys, n)
    check_real(x0)
    check_made("solver", solver)
    solver = diffrax.ShARK() if solver is None else solver
    _check_solver(solver, rtol, atol)
    given = path if path is not None or score is not None else velocity.path
    drift = drift_of(diffusion, given, score, "sde")
    flow = Diffusing(velocity, drift, _finite(velocity, drift))
    times, past = check_grid(flow, grid)
    _check_steps(times)
    tolerances = None if rtol is None else (rtol, atol)
    flow, products = computing(flow, precision)
    with products:
        return _sde(
            traceable(flow), x0, times, keys, cond, tolerances, solver=solver, past=past, save=save
        )


def _finite(velocity: Velocity, drift: Drift) -> Interval:
    low, high = velocity.interval
    if drift.path is None:
        return low, high
    first, last = conversion_interval(drift.path, "velocity", "score")
    return max(low, first), min(high, last)


def _check_solver(solver: Any, rtol: Any, atol: Any) -> None:
    if not isinstance(solver, diffrax.Euler | diffrax.Heun | diffrax.AbstractSRK):
        raise TypeError(
            "solver must be one of Diffrax's for additive noise whose calls are known: ShARK(), "
            f"SRA1(), SEA(), SPaRK(), Heun() or Euler(); got {solver!r}"
        )
    if (rtol is None) != (atol is None):
        raise ValueError(f"give both tolerances or neither; got rtol={rtol} and atol={atol}")
    tableau: Any = getattr(solver, "tableau", None)
    if rtol is not None and (tableau is None or tableau.b_error is None):
        raise TypeError(
            f"{type(solver).__name__} does not estimate its error: leave out rtol and atol and "
            "give the steps as a grid, or take ShARK() or SRA1()"
        )


def _check_steps(times: Any) -> None:
    if not is_concrete(times):
        return
    steps = np.abs(np.diff(np.asarray(times)))
    if np.min(steps) < FINEST * np.sum(steps):
        raise ValueError(
            "a grid of sde has no step below 2^-16 of its way, to which the Brownian path is told; "
            f"got one of {np.min(steps):.3g}"
        )


@partial(jax.jit, static_argnames=("solver", "past", "save"))
def _sde(
    flow: Diffusing,
    x0: PyTree,
    times: Array,
    keys: Keys,
    cond: Mapping[str, Any],
    tolerances: tuple[Any, Any] | None,
    *,
    solver: Any,
    past: bool,
    save: bool,
) -> Solution:
    n = check_batch(x0, cond)
    dtypes = jax.tree.map(lambda a: a.dtype, x0)
    start = jax.tree.map(at_least_float32, x0)
    times = jnp.asarray(times, jnp.result_type(*jax.tree.leaves(start)))
    inside = jnp.clip(times, *flow.interval)
    if past and tolerances is None:
        inside = inside[:-1]
    xs = jax.tree.map(lambda a: a[:, None], start)
    calls: Any = jnp.zeros(n, jnp.int32)
    finished: Any = jnp.ones(n, bool)
    if len(inside) > 1:
        one = partial(solve, flow, inside, solver, tolerances)
        xs, steps, finished = jax.vmap(one)(start, keys, cond)
        calls = calls_a_step(solver) * steps
    xs = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), xs)
    x = jax.tree.map(lambda a: a[-1], xs)
    if past:
        x = posterior_mean(flow, jnp.full((n,), inside[-1]), x, **cond)
        calls = calls + 1
        if tolerances is None:
            xs = jax.tree.map(lambda a, end: jnp.concatenate([a, end[None]]), xs, x)
        else:
            xs = jax.tree.map(lambda a, end: a.at[-1].set(end), xs, x)
    x, xs = (jax.tree.map(lambda a, d: a.astype(d), y, dtypes) for y in (x, xs))
    nfe = jnp.broadcast_to(calls, (n,)).astype(jnp.int32)
    saved = (times, xs) if save else (None, None)
    return Solution(x, *saved, nfe, finished & all_finite(x))
