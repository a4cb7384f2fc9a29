r"""Sampling sequences by edits: insertions, substitutions and deletions, on a grid of times.

In a step from $t$ to $s$, with the rates $\lambda$ by the clock of `paths.edits` at its beginning
and $h = (\kappa_s - \kappa_t) / (1 - \kappa_t)$, each place edits by itself,

(1) a token comes after it with the probability $\min(1, h \lambda^{\mathrm{ins}})$

(2) its own is deleted or substituted with the probability
    $\min(1, h\, (\lambda^{\mathrm{del}} + \lambda^{\mathrm{sub}}))$, either in proportion

and all edits are made at once. Rates are expected numbers of missing edits, of which the share $h$
is made in a step of the path: the probabilities are linear in them so that a token which is sure to
be missing has come by the end of a grid that ends at 1. Where $\kappa_t = t$ they are
$\min(1, (s - t)\, u_t)$.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import check_keys, per_sample
from jaxflow.checks import check_batch, check_made
from jaxflow.paths.alignment import compacted
from jaxflow.paths.edits import DELETE, INSERT, SUBSTITUTE
from jaxflow.records import traceable
from jaxflow.sampling.jumps import check_rising
from jaxflow.sampling.precision import computing
from jaxflow.tokens import drawn
from jaxflow.types import Array, Data, Keys, Solution, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["edits"]


def edits(
    rates: Velocity | Callable[..., Any],
    x0: Data,
    grid: ArrayLike | Sequence[float],
    *,
    keys: Keys,
    path: Any,
    cond: Mapping[str, Any] | None = None,
    save: bool = False,
    precision: str = "network",
) -> Solution:
    """Carry sequences along a grid of times by the edits of a network.

    Compiled inside, as `fixed_step`; a sample depends on its own key alone. Of first order in the
    step, the last included: a place that lacks two tokens at the beginning of a step gets one.

    Args:
        rates: `(t, x, **cond) -> mapping` of `"log_rates"`, `"insert"` and `"substitute"`
            (`paths.Edits.log_rates`), as `velocities.from_network(network, params)`.
        x0: the sequences at `grid[0]`, `[batch, length]`, from the path's source. Their `length` is
            the room there is: `path.padded(x0)` gives that of a pair of this length.
        grid: two or more increasing times.
        keys: one a sample.
        path: `paths.edits(vocabulary)`, that the network was trained on.
        cond: conditions, each `[batch, ...]`.
        save: keep the sequences at all times of the grid.
        precision: what networks compute in, one of `sampling.PRECISIONS`.

    Returns:
        The solution, its `x [batch, length]` padded at the end. `nfe` is the number of steps.
        `success` is False where insertions did not fit in `length`, of which the first of a step
        are made and the others are not, or where rates or logits are not numbers.

    Raises:
        ValueError: for what is no sequences of the path's vocabulary, a grid that does not rise in
            [0, 1], keys or conditions that do not lead with the batch, rates of other shapes, or
            another path.

    Havasi et al., Edit Flows: Flow Matching with Edit Operations, 2025, arXiv:2506.09018,
    section 3.3 and appendix C, on the clock.

    >>> from jaxflow import paths, sampling
    >>> path, keys = paths.edits(2), jax.random.split(jax.random.key(0), 1)
    >>> def grow(t, x):  # a 1 before the first token, surely, and no other edit
    ...     log_rates = jnp.full((*x.shape, 3), -jnp.inf)
    ...     log_rates = jnp.pad(log_rates, ((0, 0), (1, 0), (0, 0))).at[:, 0].set(jnp.log(2.0))
    ...     logits = jnp.broadcast_to(jnp.array([-jnp.inf, 0.0]), (*log_rates.shape[:2], 2))
    ...     return {"log_rates": log_rates, "insert": logits, "substitute": logits}
    >>> edits(grow, jnp.array([[0, 2, 2]]), [0.5, 1.0], keys=keys, path=path).x
    Array([[1, 0, 2]], dtype=int32)
    """
    rates = as_velocity(rates)
    check_made("path", path)
    if not hasattr(path, "missing"):
        raise ValueError(
            f"{path!r} is no path of edits, paths.edits(vocabulary): its samplers are jumps for "
            "tokens, fixed_step and adaptive for real numbers"
        )
    path.check_sequences(x0=x0)
    cond = {} if cond is None else dict(cond)
    check_keys(keys, check_batch(x0, cond))
    times = check_rising(grid)
    rates, products = computing(rates, precision)
    with products:
        return _edits(*traceable((rates, path)), x0, times, keys, cond, save=save)


@partial(jax.jit, static_argnames=("save",))
def _edits(
    rates: Any,
    path: Any,
    x0: Data,
    grid: Array,
    keys: Keys,
    cond: Mapping[str, Any],
    *,
    save: bool,
) -> Solution:
    n, steps = len(x0), len(grid) - 1
    given_grid = jnp.asarray(grid, jnp.float32)
    times = jnp.broadcast_to(given_grid[:, None], (len(grid), n))

    def step(carry: tuple[Data, Array], at: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        (x, success), (t, s, i) = carry, at
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        x, fine = _step(path, own, path.share(t, s), x, rates(t, x, **cond))
        return (x, success & fine), x if save else None

    x = jnp.asarray(x0, jnp.int32)
    start = x, jnp.ones(n, bool)
    end, xs = jax.lax.scan(step, start, (times[:-1], times[1:], jnp.arange(steps)))
    if save:
        xs = jnp.concatenate([x[None], xs])
    nfe = jnp.full((n,), steps, jnp.int32)
    return Solution(end[0], given_grid if save else None, xs, nfe, end[1])


def _step(
    path: Any, keys: Keys, share: Array, x: Data, said: Mapping[str, Array]
) -> tuple[Data, Array]:
    """The edits (1) and (2) of all places at once, and whether they could be made."""
    chances = share[:, None, None] * jnp.exp(path.log_rates(x, said))
    one, two, three, four = jnp.moveaxis(jax.vmap(partial(jax.random.split, num=4))(keys), 1, 0)
    comes = _uniform(one, chances[:, :, INSERT]) < chances[:, :, INSERT]
    deletion, substitution = chances[:, 1:, DELETE], chances[:, 1:, SUBSTITUTE]
    change = deletion + substitution
    u = _uniform(two, change) * jnp.maximum(change, 1.0)
    goes, changes = u < deletion, (u >= deletion) & (u < change)
    nothing, own = path.vocabulary, x != path.vocabulary
    fits = jnp.cumsum(comes, axis=1) <= x.shape[1] - jnp.sum(own & ~goes, axis=1, keepdims=True)
    inserted = drawn(three, said["insert"])
    substituted = drawn(four, said["substitute"][:, 1:], x)
    fine = jnp.all(jnp.isfinite(chances), axis=(1, 2))
    fine &= ~jnp.any(comes & (~fits | (inserted < 0)), axis=1)
    fine &= ~jnp.any(changes & (substituted < 0), axis=1)
    new = jnp.where(comes & fits & (inserted >= 0), inserted, nothing)
    kept = jnp.where(changes & (substituted >= 0), substituted, x)
    kept = jnp.where(goes, nothing, kept)
    between = jnp.stack([kept, new[:, 1:]], axis=-1).reshape(len(x), -1)
    both = compacted(jnp.concatenate([new[:, :1], between], axis=1), nothing)
    return both[:, : x.shape[1]], fine


def _uniform(keys: Keys, like: Array) -> Array:
    return per_sample(lambda key: jax.random.uniform(key, like.shape[1:]), keys)
