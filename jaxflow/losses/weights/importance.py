r"""The weight by which times of one distribution stand for those of another.

(1) $w(t) = p(t) / q(t)$, so that $E_{t \sim q}[w(t)\,l(t)] = E_{t \sim p}[l(t)]$
"""

import jax.numpy as jnp

from jaxflow import times
from jaxflow.arrays import at_least_float32
from jaxflow.checks import check_made
from jaxflow.records import record
from jaxflow.types import Array, Time, Times

__all__ = ["importance"]


@record
class Importance:
    """The weight (1)."""

    drawn: Times
    wanted: Times

    def __call__(self, t: Time) -> Array:
        flat = at_least_float32(t).ravel()
        log_q, log_p = self.drawn.log_prob(flat), self.wanted.log_prob(flat)
        drawn = jnp.isfinite(log_q)
        log_weight = jnp.where(drawn, log_p - jnp.where(drawn, log_q, 0.0), -jnp.inf)
        return jnp.exp(log_weight).reshape(jnp.shape(t))


def importance(drawn: Times, wanted: Times | None = None) -> Importance:
    """The weight (1) of times `drawn`, for the loss that `wanted` times would have.

    Zero where no time is drawn. Times that are drawn more often where the loss varies most lower
    the variance of its estimate, and with this weight leave its mean as it is.

    Args:
        drawn: the distribution that the draw takes.
        wanted: that of the loss; uniform where None.

    >>> importance(times.beta(2.0, 1.0))(jnp.array([0.5, 1.0])).round(3)
    Array([1. , 0.5], dtype=float32)
    """
    wanted = times.uniform() if wanted is None else wanted
    for each in (drawn, wanted):
        check_made("times", each)
    return Importance(drawn, wanted)
