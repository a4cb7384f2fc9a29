"""A keyed shuffle of `0 .. n - 1` that is evaluated only where it is asked for.

An index is split as `left + a right` with `a b >= n`, and each round adds to one half a hash of
the other, modulo `a` or `b`: a bijection of `0 .. a b - 1`. What falls beyond `n` is sent through
again until it comes back, which keeps it a bijection of `0 .. n - 1`; with `a` and `b` near
`sqrt(n)` that concerns about one index in `sqrt(n)`.

Reference: Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002 (generalised
Feistel and cycle walking).
"""

import math

import jax
import jax.numpy as jnp

from jaxflow.types import Array, Int, Key

__all__ = ["shuffled"]

ROUNDS = 14


def shuffled(
    key: Key, epoch: Int[Array, "..."], index: Int[Array, "..."], n: int
) -> Int[Array, "..."]:
    """Where the permutation of `0 .. n - 1` belonging to `(key, epoch)` sends `index`.

    Args:
        key: one typed key for all epochs.
        epoch: whole numbers, one an index or one for all.
        index: whole numbers below `n`.

    >>> order = shuffled(jax.random.key(0), jnp.array(3), jnp.arange(10), 10)
    >>> sorted(order.tolist()) == list(range(10))
    True
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    seeds = jax.random.bits(key, (ROUNDS,), jnp.uint32)
    epoch = _hash(jnp.asarray(epoch).astype(jnp.uint32))
    keys = [_hash(seed ^ epoch) for seed in seeds]

    def send(x: Array) -> Array:
        left, right = x % a, x // a
        for i in range(0, ROUNDS, 2):
            left = (left + _hash(right ^ keys[i]) % a) % a
            right = (right + _hash(left ^ keys[i + 1]) % b) % b
        return left + a * right

    def again(x: Array) -> Array:
        return jnp.where(x >= n, send(x), x)

    start = send(jnp.asarray(index).astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: jnp.any(x >= n), again, start).astype(jnp.int32)


def _hash(x: Array) -> Array:
    """An invertible mixing of 32 bits, each of which moves about half of the others."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
