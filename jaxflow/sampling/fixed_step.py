"""Sampling on a fixed grid: one `lax.scan`, whatever the method."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow.arrays import at_least_float32, check_keys, is_concrete
from jaxflow.checks import check_batch, check_made
from jaxflow.records import traceable
from jaxflow.sampling.ends import check_grid
from jaxflow.sampling.methods import heun
from jaxflow.sampling.precision import computing
from jaxflow.types import Array, Bool, Keys, Method, PyTree, Solution, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.marginal import posterior_mean

__all__ = ["fixed_step"]


def fixed_step(
    velocity: Velocity | Callable[..., PyTree],
    x0: PyTree,
    grid: ArrayLike | Sequence[Any],
    *,
    method: Method | None = None,
    cond: Mapping[str, Any] | None = None,
    keys: Keys | None = None,
    save: bool = False,
    precision: str = "network",
) -> Solution:
    """Integrate `dx/dt = v(t, x)` over a grid of times.

    Where the grid ends beyond the velocity's interval (a data prediction at `t = 1`, or a path of
    infinite velocity there), the last step goes to the posterior mean of the data, at one call;
    for a data prediction that is what Euler's step would do. On a path whose velocity tells no data
    (an interpolant) the flow ends at the interval. A start before the interval begins at it.
    Differentiable, at the memory of one state a step. Compiled inside, once for a shape and a kind
    of velocity; new parameters, conditions and times of equal shape run the same program.

    Args:
        velocity: a Velocity, or a plain function `(t, x, **cond) -> v`.
        x0: the state at `grid[0]`, an array or any pytree, `[batch, ...]`; at the beginning of a
            path `paths.start(path, noise)`, which is the noise itself for paths from 0 to 1.
        grid: `[steps + 1]`, increasing or decreasing times; `[steps + 1, batch]` for a grid a
            sample.
        method: one of `methods`; Heun's where None.
        cond: conditions, each `[batch, ...]`.
        keys: one a sample, for a stochastic method; step `i` of sample `n` has the key
            `fold_in(keys[n], i)`.
        save: keep the states at all times of the grid.
        precision: what networks compute in, one of `sampling.PRECISIONS`: as they were made.

    Returns:
        The solution; `nfe` is `steps * method.calls`, or that of one step less and one call where
        the last step is the posterior mean. `success` is False where a value is not finite.

    Raises:
        ValueError: for a grid of another shape, one that is not monotone in [0, 1] or lies beyond
            the interval in more than its end, another grid than that of a method that has one of
            its own (its number of steps alone where times are traced), a condition that does not
            lead with the batch, or an unknown precision.

    >>> from jaxflow import sampling
    >>> exact = jnp.exp(1.0)
    >>> end = fixed_step(lambda t, x: x, jnp.ones((1, 1)), sampling.grids.uniform(20)).x
    >>> bool(jnp.abs(end[0, 0] - exact) < 2e-3)
    True
    """
    velocity = as_velocity(velocity)
    check_made("method", method)
    cond = {} if cond is None else dict(cond)
    n = check_batch(x0, cond)
    if keys is not None:
        check_keys(keys, n)
    times, past = check_grid(velocity, grid, x0)
    method = heun() if method is None else method
    _check_own(method, times)
    velocity, products = computing(velocity, precision)
    arguments = traceable((velocity, method)), x0, times, cond, keys
    with products:
        return _fixed_step(*arguments, past=past, save=save)


@partial(jax.jit, static_argnames=("past", "save"))
def _fixed_step(
    kind: tuple[Velocity, Method],
    x0: PyTree,
    given: Array,
    cond: Mapping[str, Any],
    keys: Keys | None,
    *,
    past: bool,
    save: bool,
) -> Solution:
    velocity, method = kind
    n = check_batch(x0, cond)
    dtypes = jax.tree.map(lambda a: a.dtype, x0)
    x = jax.tree.map(at_least_float32, x0)
    given = jnp.asarray(given, _time_dtype(x))
    times = _each(velocity, given, x, past)

    def v(t: Array, x: PyTree) -> PyTree:
        return velocity(t, x, **cond)

    def step(carry: tuple[PyTree, Any], at: tuple[Array, Array, Array]) -> tuple[Any, PyTree]:
        x, memory = carry
        t, t_next, i = at
        own = None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
        x, memory = method.step(v, t, t_next, x, memory, own)
        return (x, memory), x if save else None

    walked = times[:-1] if past else times
    steps = len(walked) - 1
    carry = x, method.init(v, times[0], x)
    (x, _), xs = jax.lax.scan(
        jax.checkpoint(step, prevent_cse=False), carry, (walked[:-1], walked[1:], jnp.arange(steps))
    )
    calls = steps * method.calls
    if past:
        x = posterior_mean(velocity, times[-2], x, **cond)
        calls += 1
    x = jax.tree.map(lambda a, d: a.astype(d), x, dtypes)
    if save:
        ends = [x0, xs, x] if past else [x0, xs]
        xs = jax.tree.map(lambda first, *rest: _stack(first, *rest), *ends)
    nfe = jnp.full((n,), calls, jnp.int32)
    return Solution(x, given if save else None, xs, nfe, all_finite(x))


def _check_own(method: Method, times: Array | np.ndarray) -> None:
    """Refuse another grid than a method's own, as far as its times are known."""
    own = method.grid
    if own is None:
        return
    if times.shape != own.shape:
        raise ValueError(
            f"the method was made for the {len(own) - 1} steps of its own grid, but the grid has "
            f"shape {times.shape}: pass that of the same record, as learned.grid beside "
            "method=learned.method"
        )
    known = is_concrete(times) and is_concrete(own)
    if known and not np.allclose(times, own, rtol=0.0, atol=1e-6):
        raise ValueError(
            f"the method was made for its own grid {np.asarray(own)} alone; got {times}: pass that "
            "of the same record, as learned.grid beside method=learned.method"
        )


def _time_dtype(x: PyTree) -> Any:
    floats = [a.dtype for a in jax.tree.leaves(x) if jnp.issubdtype(a.dtype, jnp.floating)]
    return jnp.result_type(*floats) if floats else jnp.float32


def _each(velocity: Velocity, given: Array, x: PyTree, past: bool) -> Array:
    """The times of every sample (and leading axis), inside the velocity's interval."""
    low, high = velocity.interval
    times = jnp.clip(given if given.ndim > 1 else given[:, None], low, None if past else high)
    lead = jax.tree.leaves(x)[0].shape[: times.ndim - 1]
    return jnp.broadcast_to(times, (len(times), *lead))


def _stack(first: Array, rest: Array, *last: Array) -> Array:
    pieces = [first[None], rest, *(a[None] for a in last)]
    return jnp.concatenate([jnp.asarray(p, first.dtype) for p in pieces])


def all_finite(x: PyTree) -> Bool[Array, "batch"]:
    """Whether every value of a sample is finite."""
    finite = [jnp.all(jnp.isfinite(a), axis=tuple(range(1, a.ndim))) for a in jax.tree.leaves(x)]
    return jnp.all(jnp.stack(finite), axis=0)
