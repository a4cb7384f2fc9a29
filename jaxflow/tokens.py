r"""Laws of tokens, given by logits over a vocabulary, and draws from them.

Nothing here holds a second array of the size of the logits: sums run over them, and a draw is made
by inversion in two levels,

(1) a block of the vocabulary by the sums of its weights, then a token of the block by its weights,

each by a uniform number of its own. The Gumbel trick wants noise as large as the logits, and in
float32 its noise is cut off at about 17, which sharpens what is drawn (Zheng et al., Masked
Diffusion Models are Secretly Time-Agnostic Masked Models, 2024, arXiv:2409.02908); here
a token is drawn with its probability to about 2^-48.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, per_sample, two_keys
from jaxflow.types import AnyArray, Array, Data, Float, Keys

__all__ = [
    "at_token",
    "but",
    "check_logits",
    "chosen",
    "drawn",
    "entropy",
    "leapt",
    "log_normaliser",
]

BLOCKS = 32
Logits = Float[AnyArray, "batch *event vocabulary"]


def log_normaliser(logits: Logits) -> Float[Array, "batch *event"]:
    """`log sum exp` over the vocabulary, in at least float32; minus infinity where all are."""
    return jax.nn.logsumexp(at_least_float32(logits), axis=-1)


def at_token(logits: Logits, x: Data) -> Float[Array, "batch *event"]:
    """The entry of each token of `x`; minus infinity for one outside the vocabulary, as a mask.

    >>> at_token(jnp.array([[1.0, 2.0], [1.0, 2.0]]), jnp.array([1, 2]))
    Array([  2., -inf], dtype=float32)
    """
    last = logits.shape[-1] - 1
    x = jnp.asarray(x)
    found = jnp.take_along_axis(jnp.asarray(logits), jnp.clip(x, 0, last)[..., None], axis=-1)
    return jnp.where((x >= 0) & (x <= last), at_least_float32(found[..., 0]), -jnp.inf)


def entropy(logits: Logits) -> Float[Array, "batch *event"]:
    """That of each place's law, in nats.

    >>> entropy(jnp.array([[0.0, 0.0], [0.0, -jnp.inf]]))
    Array([0.6931472, 0.       ], dtype=float32)
    """
    wide, normaliser = at_least_float32(logits), log_normaliser(logits)
    law = jnp.exp(wide - normaliser[..., None])
    return normaliser - jnp.sum(jnp.where(law > 0, law * wide, 0.0), axis=-1)


def but(logits: Logits, x: Data) -> Logits:
    """The logits without those of the tokens of `x`, which become minus infinity."""
    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(places == jnp.asarray(x)[..., None], -jnp.inf, at_least_float32(logits))


def check_logits(logits: Any, x: Any) -> None:
    """Refuse what are no logits of each token of `x`.

    Raises:
        ValueError: with both shapes.
    """
    if jnp.shape(logits)[:-1] != jnp.shape(x) or jnp.ndim(logits) < 2:
        raise ValueError(
            f"the network returns shape {jnp.shape(logits)} for tokens of shape {jnp.shape(x)}: "
            "logits have one axis more, the vocabulary, as their last"
        )


def drawn(keys: Keys, logits: Logits, but: Data | None = None) -> Data:
    """A token at each place, in proportion to `exp(logits)`, one key a sample, by (1).

    It is -1 where there is none to draw, as all logits of a place are minus infinity, or one of
    them is not a number.

    Args:
        keys: `[batch]`.
        logits: `[batch, *event, vocabulary]`.
        but: tokens `[batch, *event]` that are not to be drawn.

    >>> drawn(jax.random.split(jax.random.key(0), 2), jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]]))
    Array([0, 1], dtype=int32)
    """
    logits = jnp.asarray(logits)
    top = at_least_float32(jnp.max(logits, axis=-1, keepdims=True))
    top = jnp.where(jnp.isneginf(top), 0.0, top)

    def weigh(places: Array, logits: Array) -> Array:
        weights = jnp.exp(at_least_float32(logits) - top)
        return (
            weights
            if but is None
            else jnp.where(places == jnp.asarray(but)[..., None], 0.0, weights)
        )

    return drawn_by(keys, weigh, logits)[0]


def drawn_by(
    keys: Keys, weigh: Callable[..., Array], *arrays: Logits
) -> tuple[Data, Float[Array, "batch *event"]]:
    """A token at each place in proportion to weights of some arrays, by (1), and their sum.

    Args:
        keys: `[batch]`.
        weigh: `(places, *blocks) -> weights`, of a block of the vocabulary of each array, none of
            them negative: the weights of all are never held at once.
        arrays: `[batch, *event, vocabulary]` each.
    """
    shape = arrays[0].shape
    n = shape[-1]
    size = -(-n // min(BLOCKS, math.isqrt(n - 1) + 1))
    steps = jnp.arange(size)
    u = per_sample(lambda k: jax.random.uniform(k, (2, *shape[1:-1]), jnp.float32), keys)

    def sum_of(start: Array) -> Array:
        inside = jnp.minimum(start, n - size)  # the last block is as long as the others
        blocks = [jax.lax.dynamic_slice_in_dim(a, inside, size, axis=-1) for a in arrays]
        places = inside + steps
        return jnp.sum(jnp.where(places >= start, weigh(places, *blocks), 0.0), axis=-1)

    sums = jnp.moveaxis(jax.lax.map(sum_of, jnp.arange(0, n, size)), 0, -1)
    first = size * chosen(u[:, 0], sums)[..., None]
    places = first + steps.astype(first.dtype)
    inside = jnp.minimum(places, n - 1)
    blocks = [jnp.take_along_axis(a, inside, axis=-1) for a in arrays]
    weights = jnp.where(places < n, weigh(places, *blocks), 0.0)
    token = first[..., 0] + chosen(u[:, 1], weights)
    return jnp.where(token < n, token, -1), jnp.sum(sums, axis=-1)


def leapt(
    keys: Keys,
    span: Float[Array, "batch *event"],
    x: Data,
    total: Float[Array, "batch *event"],
    draw: Callable[[Keys], Data],
) -> Data:
    """Tokens after a time with their rates held, of the first jump of each.

    Args:
        keys: `[batch]`.
        span: the time; infinite for a jump that is certain where any is possible.
        x: where they stand.
        total: the rate at which each jumps.
        draw: where each jumps to, by keys.
    """
    keys, others = two_keys(keys)
    u = per_sample(lambda key: jax.random.uniform(key, x.shape[1:]), keys)
    jumps = (total > 0) & (u < -jnp.expm1(-span * jnp.where(total > 0, total, 1.0)))
    return jnp.where(jumps, draw(others).astype(x.dtype), x)


def chosen(u: Array, weights: Array) -> Array:
    """The first of the last axis whose running sum exceeds the share `u` of the whole.

    So never one of weight 0, whatever `u` in [0, 1). Weights `[n]` are those of every `u`.
    """
    running = jnp.cumsum(weights, axis=-1)
    whole = running[..., -1]
    wanted = jnp.minimum(u * whole, jnp.nextafter(whole, jnp.zeros_like(whole)))
    if weights.ndim == 1:
        return jnp.searchsorted(running, wanted, side="right").astype(jnp.int32)
    return jnp.sum(~(running > wanted[..., None]), axis=-1).astype(jnp.int32)
