"""Checksums of arrays, made where they lie, and the record of them that a checkpoint keeps."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt32

from jaxflow.arrays import mixed_bits
from jaxflow.types import Array, PyTree

__all__ = ["check_sums", "fingerprint", "with_sums"]

_MULTIPLIER = 2654435761


@jax.jit
def fingerprint(tree: PyTree) -> UInt32[Array, "leaves"]:
    """A checksum a leaf, in integers modulo 2^32, so that no sharding changes it.

    Every word is mixed with its place by a bijection of 32 bits before it is added: a changed word
    always changes the sum, and any other change all but one time in 2^32.
    """
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _checksum(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place * jnp.uint32(_MULTIPLIER) + index
    return jnp.sum(mixed_bits(words ^ mixed_bits(place + 1)), dtype=jnp.uint32)


def with_sums(tree: PyTree, meta: dict[str, Any]) -> dict[str, Any]:
    """A record of the checksums of arrays by their paths, and of `meta` with its own."""
    sums = dict(zip(_names(tree), map(int, np.asarray(fingerprint(tree))), strict=True))
    return {"fingerprint": sums, "meta": meta, "meta_sum": _text_sum(meta)}


def check_sums(tree: PyTree, record: Mapping[str, Any]) -> None:
    """Compare arrays, all or a part of those recorded, with their record.

    Raises:
        ValueError: naming what does not match.
    """
    if _text_sum(record["meta"]) != record["meta_sum"]:
        raise ValueError("what was saved beside its arrays does not match its checksum")
    sums = zip(_names(tree), map(int, np.asarray(fingerprint(tree))), strict=True)
    wrong = [name for name, value in sums if record["fingerprint"].get(name) != value]
    if wrong:
        raise ValueError(f"its array {wrong[0]} does not match its checksum")


def _text_sum(meta: Any) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _names(tree: PyTree) -> list[str]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
