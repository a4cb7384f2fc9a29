r"""The flow map that a network with two times defines.

(1) $X(s, t, x) = x + (t - s)\, u(s, t, x)$, with $u$ the average velocity from $s$ to $t$

(2) $v(s, x) = u(s, s, x)$, since the average over no time is the velocity itself
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand, parameter_summary
from jaxflow.checks import check_network
from jaxflow.records import record, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Key, Network, Params, Path, Time, Velocity
from jaxflow.velocities.network import from_network

__all__ = ["NetworkFlowMap", "flow_map"]


@record
class NetworkFlowMap:
    """The map (1) of a network; its parameters are the leaves."""

    network: Network
    params: Params
    path: Path | None

    evaluations = 1

    def __call__(self, s: Time, t: Time, x: Any, **cond: Any) -> Any:
        """`x` at time `s`, carried to time `t`; both are `[batch]`."""
        s, t = at_least_float32(s), at_least_float32(t)
        u = self.network(self.params, s, x, r=t, **cond)
        return jax.tree.map(lambda a, b: (a + expand(t - s, a) * b).astype(a.dtype), x, u)

    @property
    def velocity(self) -> Velocity:
        """The velocity (2)."""
        return from_network(Instantaneous(self.network), self.params, path=self.path)

    def __repr__(self) -> str:
        return f"NetworkFlowMap({self.network!r}, {parameter_summary(self.params)})"


@record
class Instantaneous:
    """A network of two times, at equal times."""

    network: Network

    gathers = gathering("network")

    def __call__(
        self, params: Params, t: Time, x: Any, *, key: Key | None = None, **cond: Any
    ) -> Any:
        t = jnp.asarray(t)
        return self.network(params, t, x, r=t, key=key, **cond)


def flow_map(network: Network, params: Params, *, path: Path | None = None) -> NetworkFlowMap:
    """The flow map `(s, t, x, **cond) -> x at t` of a network that was trained for it.

    Args:
        network: predicts the average velocity from its `t`, where `x` lies, to `r`:
            `(params, t, x, *, r, key=None, **cond)`, as every network of `jaxflow.networks`.
        params: its parameters, the leaves of the map.
        path: the path it was trained on, for the posterior mean of its velocity.

    Returns:
        A flow map with `.velocity`, the flow that it solves.

    Raises:
        TypeError: for a module that no adapter has taken.

    Geng et al., Mean Flows for One-step Generative Modeling, 2025, arXiv:2505.13447, eq. 12,
    mirrored in time; Boffi et al., Flow Map Matching, 2025, arXiv:2406.07507, eq. 5.

    The average velocity of `dx/dt = -x`, whose map is `exp(s - t)`:

    >>> def decay(params, t, x, *, r, key=None):
    ...     return x * (jnp.expm1(t - r) / (r - t))[:, None]
    >>> flow_map(decay, None)(jnp.zeros(1), jnp.ones(1), jnp.ones((1, 1)))
    Array([[0.36787945]], dtype=float32)
    """
    check_network(network)
    return NetworkFlowMap(traceable(network), params, traceable(path))
