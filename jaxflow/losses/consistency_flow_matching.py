r"""Consistency flow matching: one velocity that leads to the same end from all of a straight piece.

The times are cut into $K$ pieces. Within one, that ends at $e$, a velocity leads to

(1) $f(t, x) = x + (e - t)\, v(t, x)$

and with $r = t + \delta$, no further than $e$, on the same pair,

(2) $L = \big\| f_\theta(t, x_t) - \mathrm{sg} f_\theta(r, x_r) \big\|^2 + \alpha\, \big\|
    v_\theta(t, x_t) - \mathrm{sg}\, v_\theta(r, x_r) \big\|^2$, with $f(e, x) = x$,

the second part where $r < e$. At $\alpha = 0$ and $\delta \to 0$ the minimum is the average
velocity of the flow from $t$ to $e$; the second part makes it constant along the way, which that of
a flow is only where it is straight.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, event_mean, where_rows
from jaxflow.checks import check_made, check_network
from jaxflow.losses.flow_maps.operators import carried
from jaxflow.losses.flow_matching import check_alike, check_complete
from jaxflow.paths.ends import interval_of
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path

__all__ = ["consistency_flow_matching"]


@record
class ConsistencyFlowMatching:
    """The loss (2) of a network on a path."""

    network: Network
    path: Path
    segments: int = static()
    step: float = static()
    alpha: float = static()

    prediction = "velocity"

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over examples, and `{"per_example": [batch]}`.

        Raises:
            ValueError: where the network's output differs from the data in shape, the batch was not
                completed by a draw, or it has a mask.
        """
        check_complete(batch)
        if "mask" in batch:
            raise ValueError(
                "consistency_flow_matching takes no mask: leave batch['mask'] out, or train by "
                "losses.flow_matching"
            )
        t: Any = at_least_float32(batch["t"])
        end = self._end(t)
        r = jnp.minimum(t + self.step, end)
        pair = batch["x0"], batch["x1"], batch.get("z")
        here, later = (self.path(a, *pair).x for a in (t, r))
        cond = batch.get("cond", {})
        v = self.network(params, t, here, key=key, **cond)
        check_alike(v, here)
        fixed = jax.lax.stop_gradient(params)
        v_later = jax.lax.stop_gradient(self.network(fixed, r, later, key=key, **cond))
        f_later = where_rows(r < end, carried(later, end - r, v_later), later)
        error = _squared(carried(here, end - t, v), f_later)
        error += self.alpha * jnp.where(r < end, _squared(v, v_later), 0.0)
        return jnp.mean(error), {"per_example": error}

    def _end(self, t: Array) -> Array:
        """Where the piece ends that `t` lies in."""
        low, high = interval_of(self.path)
        each = (high - low) / self.segments
        piece = jnp.clip(jnp.floor((t - low) / each), 0, self.segments - 1)
        return jnp.minimum(low + (piece + 1) * each, high)


def _squared(a: Any, b: Any) -> Array:
    """The mean squared difference of each example, parts added."""
    squares = jax.tree.map(lambda a, b: event_mean(jnp.square(a - b)), a, b)
    return jnp.sum(jnp.stack(jax.tree.leaves(squares)), axis=0)


def consistency_flow_matching(
    network: Network,
    path: Path,
    *,
    segments: int = 2,
    step: float = 1e-3,
    alpha: float = 1e-5,
) -> Loss:
    """Consistency flow matching (2): a velocity for as many Euler steps as there are pieces.

    The network has one time, as a plain flow's, and is sampled by `fixed_step` with `euler()` on
    `grids.uniform(segments)`; it is no velocity of the flow, so no finer grid is more exact.

    Args:
        network: predicts the velocity, `(params, t, x, *, key=None, **cond) -> v`.
        path: joins `x0` and `x1`.
        segments: K, the pieces.
        step: delta, from `t` to the time that it is compared with.
        alpha: of (2).

    Raises:
        TypeError: for a network or path that is none.
        ValueError: unless `segments >= 1`, `0 < step < 1` and `alpha >= 0`.

    Yang et al., Consistency Flow Matching: Defining Straight Flows with Velocity Consistency, 2024,
    arXiv:2407.02398, eq. 6 and 9; targets are by the parameters as they are.
    """
    check_network(network)
    check_made("path", path)
    if not (isinstance(segments, int) and segments >= 1 and 0 < step < 1 and alpha >= 0):
        raise ValueError(
            "consistency_flow_matching needs segments >= 1, a whole number, 0 < step < 1 and "
            f"alpha >= 0; got segments={segments!r}, step={step} and alpha={alpha}"
        )
    network, path = traceable((network, path))
    return ConsistencyFlowMatching(network, path, segments, float(step), float(alpha))
