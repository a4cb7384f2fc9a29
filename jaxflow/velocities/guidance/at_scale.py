"""A network that was trained at every scale of guidance, at one of them."""

from typing import Any

import jax.numpy as jnp

from jaxflow.checks import check_network
from jaxflow.records import record, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Interval, Key, Network, Params, Time
from jaxflow.velocities.guidance.scales import as_during

__all__ = ["at_scale"]


@record
class AtScale:
    """The network, told a scale and an interval of guidance."""

    network: Network
    guidance: Array

    gathers = gathering("network")

    def __call__(
        self, params: Params, t: Time, x: Any, *, key: Key | None = None, **cond: Any
    ) -> Any:
        told = jnp.broadcast_to(self.guidance, (jnp.shape(t)[0], 3))
        return self.network(params, t, x, key=key, guidance=told, **cond)


def at_scale(network: Network, scale: float, interval: Interval = (0.0, 1.0)) -> Network:
    """A network that learned with `draws.guidance`, at one scale of guidance: one call a step.

    `velocities.flow_map(velocities.at_scale(network, 3.0), params)` is its map, and
    `velocities.from_network` of it at equal times its velocity. The scale and the interval are
    leaves, so that others compile nothing again.

    Args:
        network: `(params, t, x, *, r, key=None, guidance, **cond) -> u`.
        scale: from 1, no guidance, to the `most` that was drawn.
        interval: guidance from its first time on, of at most 1/2, to before its second, of at least
            1/2 (to the end where that is 1), and none at other times.

    Raises:
        TypeError: for what is no network.
        ValueError: unless `1 <= scale < inf` and `0 <= low <= 1/2 <= high <= 1`.
    """
    check_network(network)
    as_during(interval)
    low, high = interval
    if not 1 <= scale < float("inf"):
        raise ValueError(f"at_scale needs scale >= 1, where 1 is no guidance; got {scale}")
    if not low <= 0.5 <= high:
        raise ValueError(
            f"the interval of guidance is {interval}, but draws.guidance teaches those that begin "
            "by 1/2 and end after it"
        )
    return AtScale(traceable(network), jnp.asarray([scale, low, high], jnp.float32))
