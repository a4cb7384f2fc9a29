"""Sampling with error control, by Diffrax: every sample takes its own steps."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32, event_mean
from jaxflow.checks import check_batch
from jaxflow.records import traceable
from jaxflow.sampling.ends import check_grid
from jaxflow.sampling.fixed_step import all_finite
from jaxflow.sampling.precision import computing
from jaxflow.types import Array, PyTree, Solution, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.marginal import posterior_mean

__all__ = ["adaptive"]

MAX_STEPS = 4096
FIRST_STEP = 0.01


def adaptive(
    velocity: Velocity | Callable[..., PyTree],
    x0: PyTree,
    grid: ArrayLike | Sequence[float] = (0.0, 1.0),
    *,
    solver: diffrax.AbstractERK | None = None,
    rtol: ArrayLike = 1e-5,
    atol: ArrayLike = 1e-5,
    per_sample: bool = True,
    norm: str = "worst",
    adjoint: diffrax.AbstractAdjoint | None = None,
    precision: str = "float32",
    cond: Mapping[str, Any] | None = None,
) -> Solution:
    """Integrate `dx/dt = v(t, x)` from `grid[0]` to `grid[-1]` to a tolerance.

    By default every sample is solved by itself: its steps, its error and its number of calls do
    not depend on its batch-mates, and the velocity is called with a batch of one under `vmap` (so a
    velocity that mixes its batch cannot be solved so). With `per_sample=False` all share a
    step, small enough for the worst of them: cheaper, and the kind to differentiate through.
    Compiled inside, as `fixed_step`.

    Where the grid ends beyond the velocity's interval, the solve stops at the interval's end and
    one call more gives the posterior mean of the data, where the path's velocity tells it.

    Args:
        velocity: a Velocity, or a plain function `(t, x, **cond) -> v`.
        x0: the state at `grid[0]`, an array or any pytree, `[batch, ...]`, as for `fixed_step`.
        grid: the first and last time, and between them times to save, if any.
        solver: an explicit Runge-Kutta method of Diffrax; Tsitouras' 5(4) where None.
        rtol, atol: tolerances on the root mean square over a sample.
        per_sample: own steps for each sample.
        norm: of a shared step's error: "worst" holds every sample within the tolerance, "rms" the
            root mean square over the batch, which is cheaper and lets single samples err by more.
        adjoint: how Diffrax differentiates; by checkpoints, backwards, where None, and
            `diffrax.ForwardMode()` for `jax.jvp`.
        precision: what networks compute in, one of `sampling.PRECISIONS`: float32, since a step's
            error cannot be told below the rounding of the velocity.
        cond: conditions, each `[batch, ...]`.

    Returns:
        The solution. `xs` holds the states at the times of the grid where it has more than two.
        `nfe` counts every call a sample's own steps took, rejected ones included. `success` is
        False where a value is not finite, or the solver ran to its limit of 4096 steps or to steps
        that the times' dtype cannot tell apart.

    Raises:
        ValueError: for a grid that is not monotone in [0, 1], a condition that does not lead
            with the batch, an unknown norm or precision, or a state that is not floating.
        TypeError: for a solver that is not explicit Runge-Kutta, whose calls are not known.
    """
    solver = diffrax.Tsit5() if solver is None else solver
    if not isinstance(solver, diffrax.AbstractERK):
        raise TypeError(
            f"solver must be an explicit Runge-Kutta method of Diffrax, such as Tsit5() or "
            f"Dopri5(); got {solver!r}"
        )
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, but must be one of {', '.join(NORMS)}")
    adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    if not isinstance(adjoint, Hashable) or isinstance(adjoint, diffrax.BacksolveAdjoint):
        raise TypeError(
            f"adjoint must be one of Diffrax's that differentiates the solve itself, such as "
            f"ForwardMode() or DirectAdjoint(); got {adjoint!r}"
        )
    velocity = as_velocity(velocity)
    cond = {} if cond is None else dict(cond)
    check_batch(x0, cond)
    whole = [a for a in jax.tree.leaves(x0) if not jnp.issubdtype(jnp.result_type(a), jnp.floating)]
    if whole:
        raise ValueError(
            f"the state is {jnp.result_type(whole[0])}, but an adaptive solver moves real numbers: "
            "start from floats, as x0.astype(float)"
        )
    times, past = check_grid(velocity, grid)
    velocity, products = computing(velocity, precision, rtol, atol, state=x0)
    with products:
        return _adaptive(
            traceable(velocity), x0, times, cond, (rtol, atol),
            solver=solver, adjoint=adjoint, norm=norm, per_sample=per_sample, past=past,
        )  # fmt: skip


@partial(jax.jit, static_argnames=("solver", "adjoint", "norm", "per_sample", "past"))
def _adaptive(
    velocity: Velocity,
    x0: PyTree,
    times: Array,
    cond: Mapping[str, Any],
    tolerances: tuple[Any, Any],
    *,
    solver: diffrax.AbstractERK,
    adjoint: diffrax.AbstractAdjoint,
    norm: str,
    per_sample: bool,
    past: bool,
) -> Solution:
    n = check_batch(x0, cond)
    dtypes = jax.tree.map(lambda a: a.dtype, x0)
    start = jax.tree.map(at_least_float32, x0)
    times = jnp.asarray(times, jnp.result_type(*jax.tree.leaves(start)))
    inside = jnp.clip(times, *velocity.interval)

    def field(t: Any, y: PyTree, cond: Mapping[str, Any]) -> PyTree:
        t = jnp.full((check_batch(y, cond),), t)
        return jax.tree.map(lambda v, a: v.astype(a.dtype), velocity(t, y, **cond), y)

    def field_of_one(t: Any, y: PyTree, cond: Mapping[str, Any]) -> PyTree:
        return _without_batch(field(t, *_as_batch((y, cond))))

    def solve(field: Callable[..., PyTree], norm: Callable[..., Array]) -> Callable[..., Any]:
        controller = diffrax.PIDController(
            rtol=tolerances[0],
            atol=tolerances[1],
            norm=norm,
            dtmin=jnp.finfo(times.dtype).eps * jnp.abs(inside[-1] - inside[0]),
            force_dtmin=False,
        )
        return lambda x, cond: diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            solver,
            inside[0],
            inside[-1],
            FIRST_STEP * (inside[-1] - inside[0]),
            x,
            cond,
            saveat=diffrax.SaveAt(ts=inside) if len(inside) > 2 else diffrax.SaveAt(t1=True),
            stepsize_controller=controller,
            adjoint=adjoint,
            max_steps=MAX_STEPS,
            throw=False,
        )

    if per_sample:
        # The state has no axis for a batch of one: with it, small networks take 4 % longer.
        of_one = solve(field_of_one, lambda y: _worst(_as_batch(y)))
        solved = jax.vmap(of_one)(start, cond)
        xs = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), solved.ys)
    else:
        solved = solve(field, NORMS[norm])(start, cond)
        xs = solved.ys
    x = jax.tree.map(lambda a: a[-1], xs)
    calls = _calls(solver, solved.stats["num_steps"])
    if past:
        x = posterior_mean(velocity, jnp.full((n,), inside[-1]), x, **cond)
        xs = jax.tree.map(lambda a, end: a.at[-1].set(end), xs, x)
        calls = calls + 1
    x, xs = (jax.tree.map(lambda a, d: a.astype(d), y, dtypes) for y in (x, xs))
    finished = jnp.broadcast_to(solved.result == diffrax.RESULTS.successful, (n,))
    nfe = jnp.broadcast_to(calls, (n,)).astype(jnp.int32)
    saved = len(times) > 2
    return Solution(
        x, times if saved else None, xs if saved else None, nfe, finished & all_finite(x)
    )


def _calls(solver: diffrax.AbstractERK, steps: Array) -> Array:
    """Calls in `steps` steps: a method whose last stage is the next one's first saves a call."""
    tableau: Any = solver.tableau
    stages = tableau.num_stages
    return (stages - 1) * steps + 1 if tableau.fsal else stages * steps


def _as_batch(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[None], tree)


def _without_batch(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: a[0], tree)


def mean_squares(y: PyTree) -> Array:
    """Mean square of each sample over all its values, `[batch]`."""
    leaves = jax.tree.leaves(y)
    sizes = [a[0].size for a in leaves]
    totals = [event_mean(jnp.square(a)) * size for a, size in zip(leaves, sizes, strict=True)]
    return jnp.sum(jnp.stack(totals), axis=0) / sum(sizes)


def _worst(y: PyTree) -> Array:
    """The largest root mean square of a sample."""
    return _root(jnp.max(mean_squares(y)))


def _rms(y: PyTree) -> Array:
    """The root mean square over all samples."""
    return _root(jnp.mean(mean_squares(y)))


def _root(square: Array) -> Array:
    """With a gradient at zero; infinite for NaN."""
    square = jnp.where(jnp.isnan(square), jnp.inf, square)
    zero = square == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


NORMS = {"worst": _worst, "rms": _rms}
