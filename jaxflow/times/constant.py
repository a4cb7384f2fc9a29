"""One time for every example."""

import jax.numpy as jnp

from jaxflow.arrays import as_floats
from jaxflow.records import record, static
from jaxflow.times.distributions import ByQuantile, Shares, Vector
from jaxflow.types import Times

__all__ = ["constant"]


@record
class Constant(ByQuantile):
    """All of the mass at one time."""

    time: float = static()

    def quantile(self, u: Shares) -> Vector:
        """`q(u) = time`."""
        u = as_floats(u)
        return jnp.where(jnp.isnan(u), u, self.time).astype(u.dtype)

    def log_prob(self, t: Vector) -> Vector:
        """Of the mass, for there is no density: zero nats at the time itself."""
        return jnp.where(t == self.time, 0.0, -jnp.inf)


def constant(time: float) -> Times:
    """The same time for every example, such as 0 for a student of one step.

    A network that learns at the source alone, from pairs that a flow has made, carries a sample to
    its end in one step of Euler's method. `log_prob` is that of the mass, not of a density.

    Liu, Gong & Liu, Flow Straight and Fast, 2023, arXiv:2209.03003, section 2.2, "distillation".

    Raises:
        ValueError: for a time outside [0, 1].

    >>> import jax
    >>> constant(0.0)(jax.random.key(0), 3)
    Array([0., 0., 0.], dtype=float32)
    """
    if not 0 <= time <= 1:
        raise ValueError(f"constant needs a time in [0, 1]; got {time}")
    return Constant(float(time))
