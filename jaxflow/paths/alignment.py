r"""The alignment of two sequences with the fewest edits.

Of the tails $a_{i:}$ and $b_{j:}$ of two sequences, the least number of insertions, substitutions
and deletions that make the one the other is

(1) $D_{ij} = \min\{ D_{i+1, j+1} + 1(a_i \ne b_j),\ D_{i+1, j} + 1,\ D_{i, j+1} + 1 \}$

found row by row, from the last. Within a row the third depends on its right neighbour, so that

(2) $D_{ij} = \min_{k \ge j} \left[ E_{ik} + k \right] - j$ with $E$ the least of the first two

Of the alignments with the fewest edits it is, read from the beginning, the one that keeps or
substitutes a token where it may, deletes one where it may else, and inserts last. For two sequences
of at most $L$ tokens those are at most $L$ edits, $n_0 + \#\mathrm{ins} = n_1 + \#\mathrm{del}$
places, and so at most $3 L / 2$ of them.

Levenshtein, Binary codes capable of correcting deletions, insertions, and reversals, 1966; Wagner &
Fischer, The string-to-string correction problem, 1974.
"""

import jax
import jax.numpy as jnp

from jaxflow.types import Array, Int

__all__ = ["alignment", "alignment_length", "compacted"]

_KEEP, _DELETE, _INSERT = range(3)


def alignment_length(length: int) -> int:
    """The most places of an alignment of two sequences of a length."""
    return length + length // 2


def alignment(
    x0: Int[Array, "batch length"], x1: Int[Array, "batch length"], nothing: int
) -> tuple[Int[Array, "batch places"], Int[Array, "batch places"]]:
    """Both sequences, padded at their ends by `nothing`, with blanks of it in the alignment.

    Costs memory of `batch * length**2` bytes, and `2.5 * length` steps one after the other.

    >>> a, b = alignment(jnp.array([[0, 1, 2]]), jnp.array([[1, 2, 0]]), 3)
    >>> a.tolist(), b.tolist()
    ([[0, 1, 2, 3]], [[3, 1, 2, 0]])
    """
    return jax.vmap(lambda a, b: _walk(a, b, nothing))(x0, x1)


def compacted(z: Int[Array, "batch places"], nothing: int) -> Int[Array, "batch places"]:
    """The tokens in their order, without blanks between them.

    >>> compacted(jnp.array([[3, 0, 3, 1]]), 3).tolist()
    [[0, 1, 3, 3]]
    """
    order = jnp.argsort(z == nothing, axis=1, stable=True)
    return jnp.take_along_axis(z, order, axis=1)


def _ways(a: Array, b: Array, nothing: int) -> Int[Array, "length ends"]:
    """Which of the three in (1) is the least, the first of them where several are."""
    length = len(a)
    j, far = jnp.arange(length + 1), 4 * length
    n0, n1 = jnp.sum(a != nothing), jnp.sum(b != nothing)
    last = jnp.where(j <= n1, n1 - j, far)

    def row(below: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        token, i = at
        differs = jnp.where(j < n1, token != jnp.append(b, nothing), far)
        keep = jnp.append(below[1:], far) + differs
        delete = below + 1
        here = jax.lax.cummin(jnp.minimum(keep, delete) + j, reverse=True) - j  # (2)
        way = jnp.where(here == keep, _KEEP, jnp.where(here == delete, _DELETE, _INSERT))
        own = i < n0
        return jnp.where(own, here, last), jnp.where(own, way, _INSERT).astype(jnp.int8)

    return jax.lax.scan(row, last, (a, jnp.arange(length)), reverse=True)[1]


def _walk(a: Array, b: Array, nothing: int) -> tuple[Array, Array]:
    """From the beginning of both sequences to their ends, by the least edits."""
    length = len(a)
    ways = jnp.pad(_ways(a, b, nothing), ((0, 1), (0, 0)), constant_values=_INSERT)
    a, b = (jnp.append(x, jnp.asarray(nothing, x.dtype)) for x in (a, b))
    n0, n1 = jnp.sum(a != nothing), jnp.sum(b != nothing)

    def step(at: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        i, j = at
        more = (i < n0) | (j < n1)
        first, second = more & (ways[i, j] != _INSERT), more & (ways[i, j] != _DELETE)
        pair = jnp.where(first, a[i], nothing), jnp.where(second, b[j], nothing)
        return (i + first, j + second), pair

    start = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return jax.lax.scan(step, start, length=alignment_length(length))[1]
