r"""Sampling masked tokens as many at a time as nearly do not depend on each other.

Tokens drawn at once from their marginals are as wrong as they depend on each other, in divergence
by their total correlation, which is at most the sum of their entropies but the largest:

(1) in the order of the entropies $H_i$ of $p_{1 \mid t}(\cdot \mid x)$, the lowest first, the
    tokens with $\sum_{j \le i} H_j - \max_{j \le i} H_j \le \gamma$ are drawn, the first always

so that a step that is sure of much draws much: the calls are the sample's own, and it stops as
soon as what is left is sure.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow.arrays import as_floats, bisect, event_mean, is_concrete
from jaxflow.records import traceable
from jaxflow.sampling.leaps.process import Process, check_masks, check_start
from jaxflow.sampling.precision import computing
from jaxflow.tokens import entropy
from jaxflow.types import AnyArray, Array, Data, Keys, Path, Solution, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["entropy_bounded"]


def entropy_bounded(
    logits: Velocity | Callable[..., Any],
    x0: Data,
    *,
    keys: Keys,
    path: Path,
    bound: ArrayLike,
    given: AnyArray | None = None,
    cond: Mapping[str, Any] | None = None,
    precision: str = "network",
) -> Solution:
    r"""Unmask by (1): the surest tokens first, as many a call as their entropies allow.

    The order makes samples surer than the data, as `leaps.confident` does, even for a perfect
    network.

    Args:
        logits, x0, keys, path, given, cond, precision: as for `first_hitting`. A network that reads
            the time is told the share of tokens that stand, by the path's schedule.
        bound: $\gamma$ in nats; at 0 one token a call, or more that are certain.

    Returns:
        The solution; `nfe` is each sample's own number of calls.

    Raises:
        ValueError: as `first_hitting`, or for a negative bound.

    Ben-Hamu et al., Accelerated Sampling from Masked Diffusion Models via Entropy Bounded
    Unmasking, 2025, arXiv:2505.24857.

    >>> from jaxflow import paths, sources
    >>> path, keys = paths.mixture(source=sources.mask(2)), jax.random.split(jax.random.key(0), 3)
    >>> heads = lambda t, x: jnp.broadcast_to(jnp.array([0.0, 30.0]), (*x.shape, 2))
    >>> sure = entropy_bounded(
    ...     heads, path.source.sample(keys, (4,)), keys=keys, path=path, bound=0.1
    ... )
    >>> sure.x[0].tolist(), sure.nfe.tolist()
    ([1, 1, 1, 1], [1, 1, 1])
    """
    posterior = as_velocity(logits)
    cond = check_start(path, x0, keys, given, cond)
    check_masks(path, "entropy_bounded")
    if is_concrete(bound) and not np.all(np.asarray(bound) >= 0):
        raise ValueError(f"entropy_bounded needs a bound of 0 or more, in nats; got {bound}")
    posterior, products = computing(posterior, precision)
    with products:
        return _entropy_bounded(*traceable((posterior, path)), x0, keys, cond, given, bound)


@jax.jit
def _entropy_bounded(
    posterior: Any,
    path: Any,
    x0: Data,
    keys: Keys,
    cond: Mapping[str, Any],
    given: Array | None,
    bound: Array,
) -> Solution:
    n, process, bound = len(x0), Process(path, posterior, cond, given), as_floats(bound)

    def masked(x: Data) -> Array:
        return ~process.fixed(x).reshape(n, -1)

    def unfinished(carry: tuple[Data, Array, Array]) -> Array:
        x, _, i = carry
        return jnp.any(masked(x)) & (i < masked(x).shape[1])

    def unmask(carry: tuple[Data, Array, Array]) -> tuple[Data, Array, Array]:
        x, nfe, i = carry
        free = masked(x)
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        stands = event_mean(process.fixed(x).astype(jnp.float32))
        t = bisect(lambda t: event_mean(path.kappa_at(t, x)), stands, *path.interval)
        logits = process(t, x)
        x1 = process.data(own, x, logits)
        each = jnp.where(free, entropy(logits).reshape(n, -1), jnp.inf)
        order = jnp.argsort(each, axis=-1)
        ranked = jnp.take_along_axis(each, order, axis=-1)
        before = jnp.cumsum(ranked, axis=-1) - ranked  # they rise: the largest is the last
        chosen = jnp.take_along_axis(before <= bound, jnp.argsort(order, axis=-1), axis=-1)
        moved = jnp.where((free & chosen).reshape(x.shape), x1, x)
        return moved, nfe + jnp.any(free, axis=-1), i + 1

    start = jnp.asarray(x0), jnp.zeros(n, jnp.int32), jnp.int32(0)
    x, nfe, _ = jax.lax.while_loop(unfinished, unmask, start)
    success = jnp.all(x >= 0, axis=tuple(range(1, x.ndim)))
    return Solution(x, None, None, nfe, success)
