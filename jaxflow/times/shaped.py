r"""Times made of other times: moved towards an end, or drawn together so that they cover evenly.

(1) shifted: $1 - t' = \frac{s\,(1 - t)}{1 + (s - 1)(1 - t)}$

(2) stratified: $t_i = q((\pi(i) + u_i) / n)$ for a random order $\pi$

(3) antithetic: $t_i = q(u_i)$ and $t_{i + n/2} = q(1 - u_i)$
"""

import math

import jax
import jax.numpy as jnp

from jaxflow.arrays import as_floats
from jaxflow.checks import check_made
from jaxflow.records import record, static
from jaxflow.times.distributions import ByQuantile, Shares, Vector
from jaxflow.types import Array, Key, Times

__all__ = ["antithetic", "shifted", "stratified"]


@record
class Shifted(ByQuantile):
    """Times moved by (1)."""

    times: Times
    shift: float = static()

    def __call__(self, key: Key, n: int) -> Vector:
        return _shift(self.times(key, n), self.shift)

    def quantile(self, u: Shares) -> Vector:
        """`q'(u)` is `q(u)`, moved."""
        return _shift(self.times.quantile(u), self.shift)

    def log_prob(self, t: Vector) -> Vector:
        """Log-density in nats, by the slope of the way back, which is the shift by `1 / s`."""
        before = _shift(t, 1 / self.shift)
        slope = jnp.log(self.shift) - 2 * jnp.log1p((self.shift - 1) * (1 - jnp.clip(before, 0, 1)))
        return self.times.log_prob(before) - slope


def _shift(t: Vector, shift: float) -> Vector:
    u = 1 - as_floats(t)
    return 1 - shift * u / (1 + (shift - 1) * u)


@record
class Stratified:
    """One draw in each of `n` strata of equal probability, in random order: (2)."""

    times: Times

    def __call__(self, key: Key, n: int) -> Vector:
        inside, order = jax.random.split(key)
        u = (jnp.arange(n) + jax.random.uniform(inside, (n,))) / n
        return self.times.quantile(jax.random.permutation(order, _below_one(u)))

    def quantile(self, u: Shares) -> Vector:
        """Of a single time, which has the distribution that is stratified."""
        return self.times.quantile(u)

    def log_prob(self, t: Vector) -> Vector:
        """Of a single time, in nats."""
        return self.times.log_prob(t)


@record
class Antithetic:
    """Pairs of opposite quantiles: (3)."""

    times: Times

    def __call__(self, key: Key, n: int) -> Vector:
        u = jax.random.uniform(key, ((n + 1) // 2,))
        return self.times.quantile(_below_one(jnp.concatenate([u, 1 - u])[:n]))

    def quantile(self, u: Shares) -> Vector:
        """Of a single time, which has the distribution that is paired."""
        return self.times.quantile(u)

    def log_prob(self, t: Vector) -> Vector:
        """Of a single time, in nats."""
        return self.times.log_prob(t)


def _below_one(u: Array) -> Array:
    return jnp.minimum(u, 1 - jnp.finfo(u.dtype).epsneg)


def shifted(times: Times, shift: float) -> Times:
    """Times moved towards the noise for `shift > 1`, as wanted for larger images: (1).

    Esser et al., Scaling Rectified Flow Transformers, 2024, arXiv:2403.03206, eq. 23, mirrored. A
    sampler's grid is shifted by `grids.shifted`.

    Raises:
        ValueError: where `shift` is not positive and finite.

    >>> from jaxflow.times import uniform
    >>> shifted(uniform(), 3.0).quantile(jnp.array([0.5]))
    Array([0.25], dtype=float32)
    """
    check_made("times", times)
    if not 0 < shift < math.inf:
        raise ValueError(f"shifted needs shift > 0; got {shift}")
    return Shifted(times, shift)


def stratified(times: Times) -> Times:
    """The same distribution with one time in each of `n` equally probable strata: (2).

    Each time alone has the distribution of `times`; together they cover it evenly, which lowers
    the variance of the loss. The order is random, so that no example is tied to a stratum.
    """
    check_made("times", times)
    return Stratified(times)


def antithetic(times: Times) -> Times:
    """The same distribution in pairs of opposite quantiles: (3).

    Each time alone has the distribution of `times`, and of an even number the mean is that of the
    distribution where it is symmetric. What is monotone in time has a lower variance so.

    Hammersley & Morton, A new Monte Carlo technique: antithetic variates, 1956, Proc. Cambridge
    Philos. Soc. 52(3).
    """
    check_made("times", times)
    return Antithetic(times)
