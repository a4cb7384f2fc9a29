"""The few array operations that every room shares."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxflow.types import Array, Cond, Data, Float, Key, Keys, Time

__all__ = [
    "at_least_float32",
    "batch_size",
    "bisect",
    "check_batch",
    "event_mean",
    "event_sum",
    "expand",
    "is_concrete",
    "parameter_summary",
    "per_sample",
]


def expand(t: Time, x: Data) -> Array:
    """Give `t` the rank of `x`, so that it multiplies each example by its own time.

    Args:
        t: `[batch]`, or `[batch, *leading event axes]`.
        x: `[batch, *event]`.

    Raises:
        ValueError: where the axes of `t` are not the leading axes of `x`.

    >>> expand(jnp.ones(4), jnp.ones((4, 28, 28))).shape
    (4, 1, 1)
    """
    t = jnp.asarray(t)
    if t.ndim == 0 or t.ndim > x.ndim or t.shape != x.shape[: t.ndim]:
        raise ValueError(
            f"t has shape {t.shape} and x {x.shape}: t needs one time an example, [batch] "
            "(or [batch, *leading event axes]); use jnp.full(len(x), t) for one time for all"
        )
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def at_least_float32(x: Array) -> Array:
    """Raise half precision to float32; leave float32, float64 and integers."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def event_sum(x: Data) -> Float[Array, "batch"]:
    """Sum over everything but the batch, in at least float32."""
    return jnp.sum(at_least_float32(x), axis=tuple(range(1, jnp.ndim(x))))


def event_mean(x: Data) -> Float[Array, "batch"]:
    """Mean over everything but the batch, in at least float32."""
    return jnp.mean(at_least_float32(x), axis=tuple(range(1, jnp.ndim(x))))


def batch_size(x: Any) -> int:
    """The common leading length of all leaves of `x`.

    Raises:
        ValueError: for no leaves, a scalar leaf, or leading lengths that differ.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(f"every array needs the same leading batch axis; got shapes {shapes}")
    return lengths.pop()


def check_batch(x: Any, cond: Cond) -> int:
    """The batch size of `x`, once every condition is known to share it.

    Raises:
        ValueError: where a condition does not lead with the batch.
    """
    n = batch_size(x)
    for name, value in cond.items():
        for shape in (jnp.shape(leaf) for leaf in jax.tree.leaves(value)):
            if not shape or shape[0] != n:
                raise ValueError(
                    f"condition {name!r} has shape {shape}, but the batch is {n}: every condition "
                    "leads with the batch; repeat one value with jnp.full or jnp.repeat"
                )
    return n


def per_sample(sample: Callable[[Key], Array], keys: Keys) -> Array:
    """`sample(key)` for every key, so that a sample never depends on its batch.

    Raises:
        ValueError: where `keys` is not a vector of typed keys.
    """
    if not jnp.issubdtype(jnp.asarray(keys).dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise ValueError(
            f"keys has shape {jnp.shape(keys)}: one typed key a sample is needed, "
            "as jax.random.split(jax.random.key(0), batch) gives"
        )
    return jax.vmap(sample)(keys)


def is_concrete(x: Any) -> bool:
    """Whether the values of `x` are known now, outside of any trace."""
    return not isinstance(x, Tracer)


def bisect(f: Callable[[Array], Array], y: Array, low: float, high: float) -> Array:
    """Solve `f(x) = y` for an increasing `f` on `[low, high]`, to the last bit of the dtype.

    Values of `y` outside the range of `f` give the nearer end. Differentiable in `y` and in what
    `f` holds, by the implicit function theorem.
    """
    y = jnp.asarray(y)
    steps = jnp.finfo(y.dtype).nmant + 4
    target = jax.lax.stop_gradient(y)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        middle = 0.5 * (a + b)
        below = f(middle) < target
        return jnp.where(below, middle, a), jnp.where(below, b, middle)

    a, b = jax.lax.fori_loop(0, steps, halve, (jnp.full_like(y, low), jnp.full_like(y, high)))
    x = jnp.where(f(b) < target, b, jnp.where(f(a) >= target, a, 0.5 * (a + b)))
    x = jax.lax.stop_gradient(x)
    value, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
    rest = y - value
    moves = (x > low) & (x < high) & (slope > 0)
    step = (rest - jax.lax.stop_gradient(rest)) / jnp.where(moves, slope, 1.0)
    return x + jnp.where(moves, step, 0.0)


def parameter_summary(params: Any) -> str:
    """How many parameters there are, for a `repr`."""
    return f"{sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(params)):,} parameters"
