r"""Running averages of parameters.

(1) $\bar\theta' = d_n \bar\theta + (1 - d_n)\, \theta'$ with $d_n = \min(d, (1 + n) / (w + n))$

after $n$ updates. With a warm-up $w > 1$ the average forgets its start; with $w = 1$ it decays by
$d$ from the first step on, as target networks do.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxflow.records import record, static
from jaxflow.types import Array, Params

__all__ = ["Average", "as_averages", "average"]


@record
class Average:
    """A running average (1)."""

    decay: float = static()
    warmup: float = static(default=10.0)

    def decay_at(self, updates: Array | int) -> Array:
        """$d_n$ of (1) after so many updates."""
        n = jnp.asarray(updates, jnp.float32)
        return jnp.minimum(self.decay, (1.0 + n) / (self.warmup + n))

    def moved(self, before: Params, params: Params, updates: Array) -> Params:
        """The average (1) after one update more, to `params`."""
        d = self.decay_at(updates)
        return jax.tree.map(lambda e, p: d * e + (1 - d) * p, before, params)


def average(decay: float, *, warmup: float = 10.0) -> Average:
    """A running average (1) of the parameters.

    Args:
        decay: $d$; 0 makes the average the parameters themselves.
        warmup: $w$; 1 for none.

    Raises:
        ValueError: for a decay outside [0, 1) or a warm-up below 1.

    >>> [round(float(average(0.9).decay_at(n)), 3) for n in (0, 1, 1000)]
    [0.1, 0.182, 0.9]
    """
    if not 0 <= decay < 1:
        raise ValueError(f"the decay of an average must lie in [0, 1); got {decay}")
    if not warmup >= 1:
        raise ValueError(f"the warm-up of an average is at least 1, which is none; got {warmup}")
    return Average(decay, warmup)


def as_averages(given: float | Average | Mapping[str, float | Average]) -> dict[str, Average]:
    """Averages by name; a single one is called "ema"."""
    several = given if isinstance(given, Mapping) else {"ema": given}
    return {k: a if isinstance(a, Average) else average(a) for k, a in several.items()}
