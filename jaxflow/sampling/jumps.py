r"""Sampling tokens: the jump process of a posterior, on a grid of times.

The rates are those of the path, `paths.mixture` or `paths.metric`, with the network's posterior in
them; how a step is made, a leap says. Where a grid ends at the data its last step is a draw from
the posterior, whatever the leap, at one call.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.checks import check_made
from jaxflow.records import traceable
from jaxflow.sampling.ends import check_order
from jaxflow.sampling.leaps import euler
from jaxflow.sampling.leaps.process import Process, check_start
from jaxflow.sampling.precision import computing
from jaxflow.types import AnyArray, Array, Data, Keys, Method, Path, Solution, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["check_rising", "jumps", "walked"]


def jumps(
    logits: Velocity | Callable[..., Any],
    x0: Data,
    grid: ArrayLike | Sequence[float],
    *,
    keys: Keys,
    path: Path,
    method: Method | None = None,
    given: AnyArray | None = None,
    cond: Mapping[str, Any] | None = None,
    save: bool = False,
    precision: str = "network",
) -> Solution:
    """Carry tokens along a grid of times by the jumps that a network's posterior defines.

    Compiled inside, as `fixed_step`; a sample depends on its own key alone.

    Args:
        logits: `(t, x, **cond) -> logits [batch, *event, vocabulary]` of each token of the data, as
            `velocities.from_network(network, params)`: logits, never probabilities. They need not
            be normalised. A mask is the token after the vocabulary and has no logit.
        x0: the tokens at `grid[0]`, from the path's source.
        grid: two or more increasing times.
        keys: one a sample.
        path: of tokens, that the network was trained on.
        method: one of `leaps`; Euler's where None.
        given: bools `[batch, *event]`, which tokens of `x0` are the data's and stay: a prompt, or
            all but what is to be filled in.
        cond: conditions, each `[batch, ...]`.
        save: keep the tokens at all times of the grid.
        precision: what networks compute in, one of `sampling.PRECISIONS`.

    Returns:
        The solution. `nfe` is `steps * method.calls`, the last step being one call where it ends at
        the data. `success` is False where a token could not be drawn: of logits that are not
        numbers.

    Raises:
        ValueError: for tokens that are not whole numbers, a grid that does not rise in [0, 1], keys
            or conditions that do not lead with the batch, `given` of another shape, logits of
            another shape than the tokens', or a path of real numbers.

    >>> from jaxflow import paths, sampling, sources
    >>> path, keys = paths.mixture(source=sources.mask(2)), jax.random.split(jax.random.key(0), 3)
    >>> heads = lambda t, x: jnp.broadcast_to(jnp.array([0.0, 30.0]), (*x.shape, 2))
    >>> x0 = path.source.sample(keys, (4,))
    >>> jumps(heads, x0, sampling.grids.uniform(3), keys=keys, path=path).x[0].tolist()
    [1, 1, 1, 1]
    """
    posterior = as_velocity(logits)
    check_made("method", method)
    cond = check_start(path, x0, keys, given, cond)
    times = check_rising(grid)
    posterior, products = computing(posterior, precision)
    arguments = traceable((posterior, path, euler() if method is None else method))
    with products:
        return _jumps(
            *arguments, x0, times, keys, cond, given, to_end=bool(times[-1] == 1), save=save
        )


def check_rising(grid: ArrayLike | Sequence[float]) -> Any:
    """The times of a grid that rises.

    Raises:
        ValueError: for one that does not, or leaves [0, 1].
    """
    times = check_order(grid)
    if times[0] > times[-1]:
        raise ValueError(f"tokens are sampled towards the data: let the grid rise; got {grid}")
    return times


@partial(jax.jit, static_argnames=("to_end", "save"))
def _jumps(
    posterior: Any,
    path: Any,
    method: Method,
    x0: Data,
    grid: Array,
    keys: Keys,
    cond: Mapping[str, Any],
    given: Array | None,
    *,
    to_end: bool,
    save: bool,
) -> Solution:
    x0 = jnp.asarray(x0)

    def run(part: Any) -> tuple[Data, Any]:
        x0, keys, cond, given = part
        process = Process(path, posterior, cond, given)
        return walked(process, method, x0, grid, keys, to_end=to_end, save=save)

    x, xs = in_groups(run, (x0, keys, cond, given), getattr(method.step, "holds", 1))
    steps = len(grid) - 1 - to_end
    calls = steps * method.calls + to_end
    times = jnp.asarray(grid, jnp.float32) if save else None
    success = jnp.all(x >= 0, axis=tuple(range(1, x.ndim)))
    nfe = jnp.full((len(x),), calls, jnp.int32)
    return Solution(x, times, xs, nfe, success)


def in_groups(run: Callable[..., Any], samples: Any, groups: int) -> tuple[Data, Any]:
    """The ends `[batch, ...]` and saves `[times, batch, ...]` of samples, some at a time.

    So that a leap that holds so many arrays of logits holds no more than one of all samples. All at
    once where the groups are no even ones, or the logits are of these samples together, as those
    guided by a scale a sample.
    """
    n = len(samples[0])

    def split(a: Array) -> Array:
        return jnp.swapaxes(a.reshape(n // groups, groups, *a.shape[1:]), 0, 1)

    if groups == 1 or n % groups or not _runs(run, jax.tree.map(lambda a: split(a)[0], samples)):
        return run(samples)
    x, xs = jax.lax.map(run, jax.tree.map(split, samples))
    x = jnp.swapaxes(x, 0, 1).reshape(n, *x.shape[2:])
    if xs is not None:
        xs = jnp.moveaxis(xs, 0, 2).reshape(xs.shape[1], n, *xs.shape[3:])
    return x, xs


def _runs(run: Callable[..., Any], samples: Any) -> bool:
    try:
        jax.eval_shape(run, samples)
    except (TypeError, ValueError):
        return False
    return True


def walked(
    process: Process, method: Method, x0: Data, grid: Array, keys: Keys, *, to_end: bool, save: bool
) -> tuple[Data, Any]:
    """The end of the grid, and all that is saved, for use inside of jit."""
    n = len(x0)
    times = jnp.broadcast_to(jnp.asarray(grid, jnp.float32)[:, None], (len(grid), n))

    def step(carry: tuple[Data, Any], at: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        x, memory = carry
        t, s, i = at
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        x, memory = method.step(process, t, s, x, memory, own)
        return (x, memory), x if save else None

    walked = times[:-1] if to_end else times
    steps = len(walked) - 1
    carry = x0, method.init(process, times[0], x0)
    (x, _), xs = jax.lax.scan(step, carry, (walked[:-1], walked[1:], jnp.arange(steps)))
    if to_end:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, steps)
        x = process.data(own, x, process(times[-2], x))
    if save:
        xs = jnp.concatenate([x0[None], xs, *([x[None]] if to_end else [])])
    return x, xs
