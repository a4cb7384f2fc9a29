r"""Distances between two samples: Wasserstein in one dimension and sliced, MMD, energy.

(1) $W_p^p = \int_0^1 |F_x^{-1}(u) - F_y^{-1}(u)|^p\,du$ on the line

(2) $SW_p^p = E_\theta\, W_p^p(\theta \cdot x, \theta \cdot y)$ with $\theta$ uniform on the sphere

(3) $MMD^2 = E\,k(x, x') + E\,k(y, y') - 2 E\,k(x, y)$

(4) $D^2 = 2 E\,|x - y| - E\,|x - x'| - E\,|y - y'|$

(3) and (4) are estimated by U-statistics, whose sums leave out each sample's pair with itself: they
are unbiased, so about half of all comparisons of a distribution with itself come out negative. (1)
and (2) are plug-in estimates of the two empirical distributions: biased upwards, so compare them
with the distance between two real samples of the same sizes.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxflow.arrays import squared_distances
from jaxflow.metrics.features import Others, Samples, compared, root, rows
from jaxflow.types import Array, Float, Key

__all__ = ["energy_distance", "median_distance", "mmd_squared", "sliced_wasserstein", "wasserstein"]

CHUNK = 256
MEDIAN_ROWS = 1000


def wasserstein(x: Samples, y: Others, *, order: float = 1.0) -> Float[Array, "*event"]:
    """The exact distance (1) of two samples on the line, in the units of the data.

    Args:
        x: numbers along the first axis; further axes are separate problems.
        y: the same, in any number.
        order: p, at least 1.

    Raises:
        ValueError: for an order below 1, no numbers, or further axes that differ.

    Biased upwards as an estimate of the distance of the distributions.

    >>> float(wasserstein(jnp.array([0.0, 1.0]), jnp.array([2.0])))
    1.5

    Reference: Peyré and Cuturi, Computational Optimal Transport, 2019, arXiv:1803.00567,
    remark 2.30.
    """
    _check_order(order)
    x, y = compared(x, y)
    return root(_wasserstein_power(x, y, order), order)


def sliced_wasserstein(
    key: Key, x: Samples, y: Others, *, order: float = 2.0, projections: int = 256
) -> Float[Array, ""]:
    """The distance (2) over random directions, in the units of the data.

    Args:
        key: draws the directions; one key gives one set of directions.
        x: samples, `[n, *event]`.
        y: samples of the same event, in any number.
        order: p, at least 1.
        projections: how many directions; their mean of `W_p^p` is unbiased in the directions.

    Raises:
        ValueError: for an order or a number of projections below 1, or events that differ.

    Biased upwards by the finite samples. For two Gaussians that differ by a shift, `SW_2` is the
    length of the shift over `sqrt(d)`.

    Reference: Bonneel, Rabin, Peyré and Pfister, Sliced and Radon Wasserstein Barycenters of
    Measures, 2015, Journal of Mathematical Imaging and Vision 51.
    """
    _check_order(order)
    if projections < 1:
        raise ValueError(f"projections is {projections}: at least one direction is needed")
    x, y = compared(x, y)
    return _sliced(key, rows(x), rows(y), order, projections)


def mmd_squared(
    x: Samples, y: Others, *, bandwidths: ArrayLike | Sequence[float] | None = None
) -> Float[Array, ""]:
    """The squared maximum mean discrepancy (3); no units, between about 0 and 2.

    The kernel is the mean of `exp(-|x - y|^2 / 2 h^2)` over the bandwidths `h`.

    Args:
        x: samples, `[n, *event]`, at least two.
        y: samples of the same event, at least two.
        bandwidths: in the units of the data; by default the median distance of the pooled samples
            (NaN results where that is zero).

    Raises:
        ValueError: for a bandwidth that is not positive, fewer than two samples, or events that
            differ.

    Unbiased for fixed bandwidths; a bandwidth read from the same samples gives up strict
    unbiasedness. Pairs are taken a few rows at a time, so memory grows with `n + m` alone.

    Reference: Gretton et al., A Kernel Two-Sample Test, 2012, Journal of Machine Learning Research
    13, equation 3.
    """
    x, y = compared(x, y, at_least=2)
    if bandwidths is None:
        return _mmd_squared(rows(x), rows(y), median_distance(x, y)[None])
    positive = [float(bandwidth) > 0 for bandwidth in np.atleast_1d(bandwidths)]
    if not positive or not all(positive):
        raise ValueError(f"bandwidths is {bandwidths}: give one or more positive numbers")
    return _mmd_squared(rows(x), rows(y), jnp.atleast_1d(jnp.asarray(bandwidths, x.dtype)))


def energy_distance(x: Samples, y: Others) -> Float[Array, ""]:
    """The energy distance (4), in the units of the data; zero only for equal distributions.

    Args:
        x: samples, `[n, *event]`, at least two.
        y: samples of the same event, at least two.

    Raises:
        ValueError: for fewer than two samples, or events that differ.

    Unbiased, hence negative at times. Some authors call the square root of (4) by this name.

    Reference: Székely and Rizzo, Energy statistics: a class of statistics based on distances,
    2013, Journal of Statistical Planning and Inference 143, section 2.
    """
    x, y = compared(x, y, at_least=2)
    return _energy_distance(rows(x), rows(y))


def median_distance(x: Samples, y: Others) -> Float[Array, ""]:
    """The median distance between samples of `x` and `y` pooled.

    Of more than 1,000 in a set, 1,000 are taken by a fixed random choice, so that no order of the
    samples, such as classes in turn, is met.

    Raises:
        ValueError: for no samples, or events that differ.
    """
    x, y = compared(x, y)
    choice = np.random.default_rng(0)
    chosen = [
        z if len(z) <= MEDIAN_ROWS else z[choice.choice(len(z), MEDIAN_ROWS, replace=False)]
        for z in (rows(x), rows(y))
    ]
    return _median_distance(jnp.concatenate(chosen))


def _check_order(order: float) -> None:
    if not 1 <= order < math.inf:
        raise ValueError(f"order is {order}: a Wasserstein distance has an order of at least 1")


@jax.jit
def _median_distance(pooled: Array) -> Array:
    i, j = np.triu_indices(len(pooled), k=1)
    return jnp.median(root(squared_distances(pooled, pooled)[i, j]))


def _wasserstein_power(x: Array, y: Array, order: float) -> Array:
    """(1), where both quantile functions are steps: exact in the common refinement."""
    n, m = len(x), len(y)
    levels = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(levels, prepend=0) / (n * m)
    x = jnp.sort(x, axis=0)[-(-levels // m) - 1]
    y = jnp.sort(y, axis=0)[-(-levels // n) - 1]
    return jnp.tensordot(jnp.asarray(widths, x.dtype), jnp.abs(x - y) ** order, axes=1)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _sliced(key: Key, x: Array, y: Array, order: float, projections: int) -> Array:
    directions = jax.random.normal(key, (x.shape[1], projections), x.dtype)
    directions /= jnp.linalg.norm(directions, axis=0)
    x, y = (jnp.matmul(z, directions, precision="highest") for z in (x, y))
    return root(jnp.mean(_wasserstein_power(x, y, order)), order)


@jax.jit
def _mmd_squared(x: Array, y: Array, bandwidths: Array) -> Array:
    def kernel(squared: Array) -> Array:
        return jnp.mean(jnp.exp(-squared[..., None] / (2 * bandwidths**2)), axis=-1)

    within, across = _pair_means(kernel, x, y)
    return within - 2 * across


@jax.jit
def _energy_distance(x: Array, y: Array) -> Array:
    within, across = _pair_means(root, x, y)
    return 2 * across - within


def _pair_means(f: Callable[[Array], Array], x: Array, y: Array) -> tuple[Array, Array]:
    """`E f(x, x') + E f(y, y')` over distinct pairs, and `E f(x, y)`."""
    centre = jax.lax.stop_gradient(jnp.mean(x, axis=0))
    x, y = x - centre, y - centre
    within = _pair_mean(f, x, x, distinct=True) + _pair_mean(f, y, y, distinct=True)
    return within, _pair_mean(f, x, y, distinct=False)


def _pair_mean(f: Callable[[Array], Array], x: Array, y: Array, *, distinct: bool) -> Array:
    """The mean of `f(|x_i - y_j|^2)`, a chunk of rows at a time."""

    def row(i: Array, xi: Array) -> Array:
        values = f(squared_distances(xi[None], y)[0])
        if distinct:
            values = jnp.where(jnp.arange(len(y)) == i, 0, values)
        return jnp.sum(values) / (len(y) - distinct)

    means = jax.lax.map(lambda pair: row(*pair), (jnp.arange(len(x)), x), batch_size=CHUNK)
    return jnp.mean(means)
