"""The few array operations that every room shares."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Inexact

from jaxflow.types import AnyArray, Array, Data, Key, Keys, Shaped, Time

__all__ = [
    "as_floats",
    "at_least_float32",
    "batch_size",
    "bisect",
    "check_keys",
    "event_mean",
    "event_shape",
    "event_sum",
    "expand",
    "is_concrete",
    "mixed_bits",
    "null_like",
    "parameter_summary",
    "per_sample",
    "root",
    "squared_distances",
    "two_keys",
    "where_rows",
]

# Up to so many numbers a sample the host takes differences, one by one. For more it multiplies by
# BLAS, whose threads wait for each other by spinning while a training step has the cores: by
# differences 64 numbers take half as long again on idle cores, and 784 five times as long.
FEW = 64


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


def at_least_float32(x: ArrayLike) -> Array:
    """Raise half precision to float32; leave float32, float64 and integers."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def as_floats(x: Any) -> Inexact[Array, "..."]:
    """At least float32, whole numbers too: what may be subtracted or inverted."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def event_sum(x: Data) -> Shaped[Array, "batch"]:
    """Sum over everything but the batch, in at least float32."""
    return jnp.sum(at_least_float32(x), axis=tuple(range(1, jnp.ndim(x))))


def event_mean(x: Data) -> Inexact[Array, "batch"]:
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


def null_like(name: str, null: Any, value: Any) -> Any:
    """The null of a condition in the shape of the condition.

    Args:
        name: of the condition, for the error.
        null: a number, an array for one example, or a tree of them whose structure begins that
            of the condition.
        value: the condition, an array or nested mappings of arrays, each `[batch, ...]`.

    Raises:
        ValueError: where the null does not fit.

    >>> null_like("label", 10, jnp.arange(3))
    Array([10, 10, 10], dtype=int32)
    """
    try:
        return jax.tree.map(
            lambda n, v: jnp.broadcast_to(jnp.asarray(n, v.dtype), v.shape),
            jax.tree.broadcast(null, value),
            jax.tree.map(jnp.asarray, value),
        )
    except (ValueError, TypeError):
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (null, value)]
        raise ValueError(
            f"the null of the condition {name!r} has shape {shapes[0]}, but the condition "
            f"{shapes[1]}: give a number, or a value for one example"
        ) from None


def root(square: Array) -> Array:
    """The square root, 0 in value and gradient where nothing is left, or less by rounding."""
    some = square > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


def where_rows(condition: Array, yes: Any, no: Any) -> Any:
    """`yes` in the examples that meet a condition `[batch]`, `no` in the others, leaf by leaf.

    >>> where_rows(jnp.array([True, False]), jnp.ones((2, 2)), jnp.zeros((2, 2))).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """

    def chosen(a: AnyArray, b: AnyArray) -> Array:
        return jnp.where(condition.reshape(-1, *(1,) * (jnp.ndim(a) - 1)), a, b)

    return jax.tree.map(chosen, yes, no)


def per_sample(sample: Callable[[Key], Any], keys: Keys) -> Any:
    """`sample(key)` for every key, so that a sample never depends on its batch.

    Raises:
        ValueError: where `keys` is not a vector of typed keys.
    """
    check_keys(keys)
    return jax.vmap(sample)(keys)


def two_keys(keys: Keys) -> tuple[Keys, Keys]:
    """Two keys a sample of each."""
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def event_shape(x: Any) -> Any:
    """The shape of one sample, or a mapping of those of its parts.

    >>> event_shape({"image": jnp.zeros((4, 8, 8)), "label": jnp.zeros(4)})
    {'image': (8, 8), 'label': ()}
    """
    return jax.tree.map(lambda a: jnp.shape(a)[1:], x)


def check_keys(keys: Any, n: int | None = None) -> None:
    """Refuse what is not a vector of typed keys, one for each of `n` samples.

    Raises:
        ValueError: with the shape.
    """
    dtype = getattr(keys, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed or keys.ndim != 1 or n not in (None, len(keys)):
        raise ValueError(
            f"keys has shape {jnp.shape(keys)}: one typed key a sample is needed, "
            f"as jax.random.split(jax.random.key(0), {'batch' if n is None else n}) gives"
        )


def is_concrete(x: Any) -> bool:
    """Whether the values of `x` are known now, outside of any trace."""
    return not isinstance(x, Tracer)


def bisect(f: Callable[[Array], Array], y: ArrayLike, low: float, high: float) -> Array:
    """Solve `f(x) = y` for an increasing `f` on `[low, high]`, to the last bit of the dtype.

    It halves the floating-point numbers between the ends, not their distance, so a root close to
    zero is met as exactly as any other. Values of `y` outside the range of `f` give the nearer end,
    and NaN gives NaN. Differentiable in `y` and in what `f` holds, by the implicit function
    theorem.

    >>> float(bisect(lambda x: x**0.1, jnp.array(0.1), 0.0, 1.0))
    1.000000...e-10
    """
    y = as_floats(y)
    target = jax.lax.stop_gradient(y)
    first, last = (_place(np.asarray(end, y.dtype)) for end in (low, high))

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = ends
        middle = (a >> 1) + (b >> 1) + (a & b & 1)
        below = f(_number(middle, y.dtype)) < target
        return jnp.where(below, middle, a), jnp.where(below, b, middle)

    places = tuple(jnp.full(y.shape, place, place.dtype) for place in (first, last))
    steps = (int(last) - int(first)).bit_length()
    a, b = (_number(place, y.dtype) for place in jax.lax.fori_loop(0, steps, halve, places))
    x = jnp.where(target - f(a) <= f(b) - target, a, b)
    end = jnp.full_like(y, high)
    x = jax.lax.stop_gradient(jnp.where(f(end) <= target, end, x))
    value, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
    rest = y - value
    moves = (x > low) & (x < high) & (slope > 0)
    step = (rest - jax.lax.stop_gradient(rest)) / jnp.where(moves, slope, 1.0)
    return jnp.where(jnp.isnan(y), y, x + jnp.where(moves, step, 0.0))


def _place(x: np.ndarray) -> Any:
    """A floating-point number's place among all those of its dtype, which are in order."""
    bits = x.view(f"int{8 * x.itemsize}")[()]
    return bits if bits >= 0 else np.iinfo(bits).min - bits


def _number(place: Array, dtype: Any) -> Array:
    """The floating-point number at a place, the inverse of `_place`."""
    bits = jnp.where(place >= 0, place, jnp.iinfo(place.dtype).min - place)
    return jax.lax.bitcast_convert_type(bits, dtype)


def squared_distances(
    x: Shaped[AnyArray, "n *event"], y: Shaped[AnyArray, "m *event"]
) -> Inexact[Any, "n m"]:
    """`|x_i - y_j|^2` summed over the event, never negative, in at least float32.

    On a device, and for many numbers, the square is expanded about the mean of `y`, so that a far
    origin cancels no digits, at the highest precision of an accelerator. A distance that rounding
    cannot tell from zero is zero, with its gradient. Two NumPy arrays stay on the host.

    >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
    array([[25.,  1.]])
    """
    on_host = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    xp: Any = np if on_host else jnp
    x, y = (a.reshape(len(a), math.prod(a.shape[1:])) for a in (xp.asarray(x), xp.asarray(y)))
    x, y = (a.astype(xp.promote_types(a.dtype, np.float32)) for a in (x, y))
    if on_host and x.shape[1] <= FEW:
        from scipy.spatial.distance import cdist  # a third of a second, and few runs need it

        return cdist(x, y, "sqeuclidean").astype(x.dtype, copy=False)
    centre = y.mean(axis=0)
    x, y = x - centre, y - centre
    products = x @ y.T if on_host else jnp.matmul(x, y.T, precision="highest")
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)
    products *= -2
    products += squares
    squares *= 4 * xp.finfo(x.dtype).eps
    return xp.where(products <= squares, 0, products)


def mixed_bits(x: Array) -> Array:
    """A bijection of uint32 in which each bit moves about half of the others."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def parameter_summary(params: Any) -> str:
    """How many parameters there are, for a `repr`."""
    return f"{sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(params)):,} parameters"
