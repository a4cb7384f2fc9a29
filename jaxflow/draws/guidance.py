"""Scales and intervals of guidance, as conditions of the examples that learn them."""

import math

import jax
import jax.numpy as jnp

from jaxflow.records import record, static
from jaxflow.types import Array, Batch, Draw, Held, Key

__all__ = ["guidance"]


@record
class Guidance:
    """Sets the condition `guidance`: a scale, and the first and last times of guidance."""

    most: float = static()
    power: float = static()

    def __call__(self, key: Key, batch: Batch, held: Held | None = None) -> Batch:
        if "r" not in batch:
            raise ValueError(
                "draws.guidance is of losses of flow maps: it comes after the draw of their times, "
                "draws.chain(draws.standard(path), draws.spans(times), draws.guidance())"
            )
        cond = dict(batch.get("cond", {}))
        if "guidance" in cond:
            raise ValueError("the batch has a condition 'guidance' already: give it another name")
        keys, t = jax.random.split(key, 3), batch["t"]
        scale = self._scale(jax.random.uniform(keys[0], t.shape))
        low = jax.random.uniform(keys[1], t.shape, maxval=0.5)
        high = jax.random.uniform(keys[2], t.shape, minval=0.5)
        rests = batch["r"] == t
        told = scale, jnp.where(rests, 0.0, low), jnp.where(rests, 1.0, high)
        return {**batch, "cond": {**cond, "guidance": jnp.stack(told, axis=-1)}}

    def _scale(self, u: Array) -> Array:
        """The quantile `u` of the density `scale^-power` on `[1, most]`."""
        if self.power == 1:
            return jnp.exp(u * math.log(self.most))
        rest = 1 - self.power
        return (1 + u * (self.most**rest - 1)) ** (1 / rest)


def guidance(most: float = 8.0, *, power: float = 1.0) -> Draw:
    """Sets the condition `guidance`, `[batch, 3]`: the scale, and the first and last times of it.

    Scales have the density `scale^-power` on `[1, most]`; the first time is uniform on [0, 1/2],
    the last on [1/2, 1], and an example at rest (`r = t`) is guided at all times. A network that
    learns with it (`losses.mean_flow` and `losses.improved_mean_flow` with `scale=None`) is sampled
    at any of them, by `velocities.at_scale`. Comes after the draw of pairs of times,
    `draws.chain(draws.standard(path), draws.spans(times), draws.guidance())`.

    Args:
        most: the largest scale.
        power: how much more often small scales are drawn.

    Raises:
        ValueError: unless `1 < most < inf` and `power` is finite; (when called) for a batch without
            spans, or with a condition of this name.

    Geng et al., Improved Mean Flows: On the Challenges of Fastforward Generative Models, 2025,
    arXiv:2512.02012, mirrored in time, with the scales and intervals of its published code.
    """
    if not (1 < most < math.inf and math.isfinite(power)):
        raise ValueError(
            f"draws.guidance needs most > 1, the largest scale, and a finite power; got {most} and "
            f"{power}"
        )
    return Guidance(float(most), float(power))
