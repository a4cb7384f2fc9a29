r"""Distributions over training times, each given by its quantile function.

With $u \sim U[0, 1)$, $t = q(u)$ has density $p(t) = 1 / q'(q^{-1}(t))$. Time is ours: noise at
`t = 0`, data at `t = 1`. Papers with noise at 1 are mirrored by `t -> 1 - t`.
"""

import math
from abc import ABC, abstractmethod

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, logit, ndtri
from jax.typing import ArrayLike

from jaxflow.arrays import as_floats, bisect
from jaxflow.records import record, static
from jaxflow.types import AnyArray, Array, Float, Key, Shaped, Times

__all__ = ["ByQuantile", "beta", "cosine_map", "logit_normal", "mode", "uniform"]

Vector = Float[Array, "n"]
Shares = Shaped[AnyArray, "n"]


class ByQuantile(ABC):
    """Draws by pushing uniform numbers through the quantile function."""

    def __call__(self, key: Key, n: int) -> Vector:
        return self.quantile(jax.random.uniform(key, (n,)))

    @abstractmethod
    def quantile(self, u: Shares) -> Vector:
        """The time below which a share `u` of the distribution lies."""


@record
class Uniform(ByQuantile):
    """Uniform on [0, 1)."""

    def quantile(self, u: Shares) -> Vector:
        """`q(u) = u`."""
        return as_floats(u)

    def log_prob(self, t: Vector) -> Vector:
        """Zero nats inside [0, 1]."""
        return jnp.where((t >= 0) & (t <= 1), 0.0, -jnp.inf)


@record
class LogitNormal(ByQuantile):
    """`logit(t) ~ N(mean, std^2)`."""

    mean: float = static()
    std: float = static()

    def quantile(self, u: Shares) -> Vector:
        """`q(u) = sigmoid(mean + std ndtri(u))`."""
        return jax.nn.sigmoid(self.mean + self.std * ndtri(as_floats(u)))

    def log_prob(self, t: Vector) -> Vector:
        """Log-density in nats."""
        inside = (t > 0) & (t < 1)
        s = jnp.where(inside, t, 0.5)
        value = jax.scipy.stats.norm.logpdf(logit(s), self.mean, self.std) - jnp.log(s * (1 - s))
        return jnp.where(inside, value, -jnp.inf)


@record
class Mode(ByQuantile):
    """Heavy at the middle for a positive scale, at the ends for a negative one."""

    scale: float = static()

    def quantile(self, u: Shares) -> Vector:
        """`q(u) = u + scale (cos^2(pi u / 2) - 1 + u)`."""
        u = as_floats(u)
        return u + self.scale * (jnp.cos(jnp.pi * u / 2) ** 2 - 1 + u)

    def log_prob(self, t: Vector) -> Vector:
        """Log-density in nats, by inverting the quantile function."""
        u = bisect(self.quantile, jnp.clip(t, 0, 1), 0.0, 1.0)
        slope = 1 + self.scale * (1 - jnp.pi / 2 * jnp.sin(jnp.pi * u))
        return jnp.where((t >= 0) & (t <= 1), -jnp.log(jnp.maximum(slope, 0)), -jnp.inf)


@record
class CosineMap(ByQuantile):
    """Uniform angles on the cosine path, read as times of the linear one."""

    def quantile(self, u: Shares) -> Vector:
        """`q(u) = sin(pi u / 2) / (sin(pi u / 2) + cos(pi u / 2))`."""
        a = jnp.pi * as_floats(u) / 2
        return jnp.sin(a) / (jnp.sin(a) + jnp.cos(a))

    def log_prob(self, t: Vector) -> Vector:
        """`log(2 / (pi (1 - 2 t + 2 t^2)))` nats."""
        value = jnp.log(2 / jnp.pi) - jnp.log(1 - 2 * t + 2 * t**2)
        return jnp.where((t >= 0) & (t <= 1), value, -jnp.inf)


@record
class Beta(ByQuantile):
    """The beta distribution."""

    a: ArrayLike = static()
    b: ArrayLike = static()

    def __call__(self, key: Key, n: int) -> Vector:
        return jax.random.beta(key, self.a, self.b, (n,))

    def quantile(self, u: Shares) -> Vector:
        """The inverse of the regularised incomplete beta function."""
        return bisect(lambda t: betainc(self.a, self.b, t), u, 0.0, 1.0)

    def log_prob(self, t: Vector) -> Vector:
        """Log-density in nats."""
        return jax.scipy.stats.beta.logpdf(t, self.a, self.b)


def uniform() -> Times:
    """Uniform times, `t ~ U[0, 1)`."""
    return Uniform()


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Times:
    """Times with `logit(t) ~ N(mean, std^2)`: more of the middle than of the ends.

    A positive mean leans to the data. Esser et al., Scaling Rectified Flow Transformers, 2024,
    arXiv:2403.03206, eq. 19, mirrored: their mean m is our -m.

    Raises:
        ValueError: where `mean` is not finite, or `std` not positive and finite.
    """
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise ValueError(
            f"logit_normal needs a finite mean and std > 0; got mean={mean}, std={std}"
        )
    return LogitNormal(mean, std)


def mode(scale: float) -> Times:
    """Times with their mode in the middle (`scale > 0`) or at both ends (`scale < 0`).

    Esser et al., Scaling Rectified Flow Transformers, 2024, arXiv:2403.03206, eq. 20, mirrored.

    Raises:
        ValueError: where the map is not monotone, outside `-1 <= scale <= 2 / (pi - 2)`.
    """
    if not -1 <= scale <= 2 / (math.pi - 2):
        raise ValueError(f"mode needs -1 <= scale <= {2 / (math.pi - 2):.4f}; got {scale}")
    return Mode(scale)


def cosine_map() -> Times:
    """Times whose log signal-to-noise ratio on the linear path is that of the cosine path.

    Esser et al., Scaling Rectified Flow Transformers, 2024, arXiv:2403.03206, eq. 21
    (symmetric, so its mirror image is itself).
    """
    return CosineMap()


def beta(a: float, b: float) -> Times:
    """Beta distributed times; `a > b` leans to the data, `a < b` to the noise.

    Raises:
        ValueError: where `a` or `b` is not positive and finite.
    """
    if not (0 < a < math.inf and 0 < b < math.inf):
        raise ValueError(f"beta needs a > 0 and b > 0; got a={a}, b={b}")
    return Beta(a, b)
