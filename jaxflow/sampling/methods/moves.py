"""How a state moves: by terms a sample, part by part, and by noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxflow.arrays import batch_size, expand, per_sample
from jaxflow.types import Array, Key, Keys, Method, PyTree, Time

__all__ = ["Field", "check_real", "made", "move", "no_memory", "normal", "where"]

Field = Callable[[Time, PyTree], PyTree]


def check_real(x: PyTree) -> None:
    """Refuse a state that no small step would move.

    Raises:
        ValueError: for a leaf that is not floating.
    """
    whole = [a.dtype for a in jax.tree.leaves(x) if not jnp.issubdtype(a.dtype, jnp.inexact)]
    if whole:
        raise ValueError(
            f"the state is {whole[0]}, but this method adds small steps to real numbers: start "
            "from floats, as x0.astype(float), or give a method for tokens"
        )


def move(x: PyTree, *terms: tuple[Time, PyTree]) -> PyTree:
    """`x + sum_i h_i v_i`, in the dtype of `x`.

    Raises:
        ValueError: for a state that is not floating.
    """
    check_real(x)
    for h, v in terms:
        x = jax.tree.map(lambda a, b, h=h: (a + expand(h, a) * b).astype(a.dtype), x, v)
    return x


def where(condition: Any, yes: PyTree, no: PyTree) -> PyTree:
    """Each sample (or leading axis) from one tree or the other, in the dtypes of the second."""

    def choose(a: Array, b: Array) -> Array:
        axes = (1,) * (b.ndim - condition.ndim)
        return jnp.where(condition.reshape(condition.shape + axes), a, b).astype(b.dtype)

    return jax.tree.map(choose, yes, no)


def normal(keys: Keys | None, x: PyTree, method: str) -> PyTree:
    """Standard normal numbers in the shape of `x`, by one key a sample.

    Raises:
        ValueError: without keys.
    """
    if keys is None:
        raise ValueError(
            f"{method} draws noise at every step: pass "
            f"keys=jax.random.split(jax.random.key(0), {batch_size(x)}), one a sample"
        )
    leaves, tree = jax.tree.flatten(x)

    def draw(key: Key) -> list[Array]:
        parts = jax.random.split(key, len(leaves)) if len(leaves) > 1 else [key]
        return [
            jax.random.normal(part, a.shape[1:], a.dtype)
            for part, a in zip(parts, leaves, strict=True)
        ]

    return tree.unflatten(per_sample(draw, keys))


def no_memory(v: Field, t: Time, x: PyTree) -> tuple[()]:
    """What a method that looks at one step alone keeps."""
    return ()


def made(init: Callable[..., Any], step: Callable[..., Any], calls: int, order: int) -> Method:
    """The method of two functions; arrays that a `Partial` of them holds are its leaves."""
    init, step = (f if isinstance(f, Partial) else Partial(f) for f in (init, step))
    return Method(init, step, calls, order)
