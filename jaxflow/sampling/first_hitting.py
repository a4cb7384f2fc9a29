r"""Sampling masked tokens without a grid: one token a call, at the time at which it is unmasked.

Under the process of a mask source each token is unmasked at a time of its own, whatever the others
do, and its rate does not depend on time but through its clock. So

(1) $T_i = \kappa^{-1}(u_i)$ with $u_i \sim U[0, 1)$, and in the order of these times each token is
    a draw from $p_{1 \mid T_i}(\cdot \mid x)$ of what is unmasked before it

which is the process itself: no time is discretised. It costs a call for each masked token.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import bisect, per_sample
from jaxflow.records import traceable
from jaxflow.sampling.leaps.process import Process, check_masks, check_start
from jaxflow.sampling.precision import computing
from jaxflow.tokens import drawn
from jaxflow.types import AnyArray, Array, Data, Keys, Path, Solution, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["first_hitting"]


def first_hitting(
    logits: Velocity | Callable[..., Any],
    x0: Data,
    *,
    keys: Keys,
    path: Path,
    given: AnyArray | None = None,
    cond: Mapping[str, Any] | None = None,
    precision: str = "network",
) -> Solution:
    """Unmask tokens one at a time by (1): exact for a perfect network.

    Args:
        logits, x0, keys, path, given, cond, precision: as for `jumps`. The path is a mixture whose
            source is `sources.mask(token)`.

    Returns:
        The solution; `nfe` is the number of tokens that were masked.

    Raises:
        ValueError: as `jumps`, or for a path of another source.

    Zheng et al., Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit
    Inaccurate Categorical Sampling, 2024, arXiv:2409.02908.

    >>> from jaxflow import paths, sources
    >>> path, keys = paths.mixture(source=sources.mask(2)), jax.random.split(jax.random.key(0), 3)
    >>> heads = lambda t, x: jnp.broadcast_to(jnp.array([0.0, 30.0]), (*x.shape, 2))
    >>> first_hitting(heads, path.source.sample(keys, (4,)), keys=keys, path=path).x[0].tolist()
    [1, 1, 1, 1]
    """
    posterior = as_velocity(logits)
    cond = check_start(path, x0, keys, given, cond)
    check_masks(path, "first_hitting")
    posterior, products = computing(posterior, precision)
    with products:
        return _first_hitting(*traceable((posterior, path)), x0, keys, cond, given)


@jax.jit
def _first_hitting(
    posterior: Any, path: Any, x0: Data, keys: Keys, cond: Mapping[str, Any], given: Array | None
) -> Solution:
    n, process = len(x0), Process(path, posterior, cond, given)
    x = jnp.asarray(x0)
    u = per_sample(lambda key: jax.random.uniform(key, x.shape[1:]), keys)
    times = bisect(lambda t: path.kappa_at(t, x), u, *path.interval)
    masked = ~process.fixed(x).reshape(n, -1)
    times = jnp.where(masked, times.reshape(n, -1), jnp.inf)
    order = jnp.argsort(times, axis=-1)

    def unmask(i: Array, x: Array) -> Array:
        place = order[:, i]
        t = jnp.take_along_axis(times, place[:, None], axis=-1)[:, 0]
        logits = process(jnp.minimum(t, path.interval[1]), x)
        here = jnp.take_along_axis(
            logits.reshape(n, -1, logits.shape[-1]), place[:, None, None], axis=1
        )
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        token = drawn(own, here)[:, 0].astype(x.dtype)
        flat = x.reshape(n, -1)
        old = jnp.take_along_axis(flat, place[:, None], axis=-1)[:, 0]
        new = jnp.where(jnp.isfinite(t), token, old)
        return flat.at[jnp.arange(n), place].set(new).reshape(x.shape)

    counts = jnp.sum(masked, axis=-1, dtype=jnp.int32)
    x = jax.lax.fori_loop(0, jnp.max(counts), unmask, x)
    success = jnp.all(x >= 0, axis=tuple(range(1, x.ndim)))
    return Solution(x, None, None, counts, success)
