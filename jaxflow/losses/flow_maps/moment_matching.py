r"""Inductive moment matching: two ways to the same time give the same law.

Samples at $t$ and samples at $s$, a little nearer the data, are both carried to $r$:

(1) $L = E\; w(t)\, \mathrm{MMD}^2\big(X_\theta(t, r, x_t),\; \mathrm{sg}\,
    X_\theta(s, r, x_s)\big)$

(2) $\mathrm{MMD}^2(y, z) = \dfrac{1}{m^2} \sum_{ij} k(y_i, y_j) + k(z_i, z_j) - 2\, k(y_i, z_j)$

over groups of $m$ samples that share their times, whose pairs are the same at $t$ and at $s$, with

(3) $k(y, z) = \exp\Big(-\dfrac{\| y - z \|}{d\, (r - t)}\Big)$, flat where both are the same

(4) $\sigma(s) / \alpha(s) = \sigma(t) / \alpha(t) - \eta$, but no further than $r$

(5) $w(t) = \tfrac12\, \mathrm{sigmoid}(b - \lambda)\, \dot\lambda\, \dfrac{\alpha}{\alpha^2 +
    \sigma^2}$ with $\lambda = \log(\alpha^2 / \sigma^2)$

By induction from $r$, where $X(r, r, x) = x$ is exact, the law at $r$ is right from every $t$.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import root
from jaxflow.checks import check_made
from jaxflow.losses.flow_maps.condition import check_two_times
from jaxflow.losses.flow_maps.groups import flattened, regrouped
from jaxflow.losses.flow_maps.operators import average_velocity, carried
from jaxflow.paths.diffusion import time_of_log_snr
from jaxflow.paths.ends import schedule_of
from jaxflow.paths.schedules import coefficients
from jaxflow.records import record, static, traceable
from jaxflow.sharding import gathering
from jaxflow.types import Array, Batch, Held, Key, Loss, Network, Params, Path, Time

__all__ = ["moment_matching"]

SAME = 1e-8  # nearer than this there is no direction


@record
class MomentMatching:
    """The loss (1) of a network on an affine path."""

    network: Network
    path: Path
    gap: float = static()
    bias: float = static()

    prediction = "velocity"

    gathers = gathering("network")

    def __call__(
        self, params: Params, key: Key | None, batch: Batch, held: Held | None = None
    ) -> tuple[Array, Mapping[str, Any]]:
        """The mean over groups, and the weighted discrepancy of each, `per_example [groups]`.

        Raises:
            ValueError: where the batch is not in groups, or lacks `r`.
        """
        flat, shape = flattened("moment_matching", batch)
        if "r" not in flat:
            raise ValueError(
                "the batch lacks the times r: draws.groups(size, draws.spans(times, equal=0.0))"
            )
        t, r = flat["t"], flat["r"]
        s = self._nearer(t, r)
        start, later = (self.path(a, flat["x0"], flat["x1"], flat.get("z")).x for a in (t, s))
        u = average_velocity(self.network, params, key, flat)
        fixed = average_velocity(self.network, jax.lax.stop_gradient(params), None, flat)
        y = regrouped(carried(start, r - t, u(t, r, start)), shape)
        z = jax.lax.stop_gradient(regrouped(carried(later, r - s, fixed(s, r, later)), shape))
        width, weight = (
            a.reshape(shape)[:, 0] for a in (jnp.maximum(r - t, 1e-6), self._weight(t))
        )
        per_group = weight * jax.vmap(_discrepancy)(y, z, y.shape[-1] * width)
        return jnp.mean(per_group), {"per_example": per_group}

    def _nearer(self, t: Time, r: Time) -> Array:
        """The time (4)."""
        schedule = schedule_of(self.path)
        alpha, sigma, *_ = coefficients(schedule, t)
        left = sigma - self.gap * alpha
        some = (alpha > 0) & (left > 0)
        ratio = jnp.where(some, alpha, 1.0) / jnp.where(some, left, 1.0)
        s = time_of_log_snr(self.path, 2 * jnp.log(ratio))
        return jnp.clip(jnp.where(some, s, jnp.where(alpha > 0, r, t)), t, r)

    def _weight(self, t: Time) -> Array:
        """(5), with what would be infinite at the ends written out."""
        alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule_of(self.path), t)
        strong = math.exp(self.bias) * jnp.square(sigma)
        change = alpha_dot * sigma - alpha * sigma_dot
        share = math.exp(self.bias) * sigma / (strong + jnp.square(alpha))
        return share * change / (jnp.square(alpha) + jnp.square(sigma))


def _discrepancy(y: Array, z: Array, width: Array) -> Array:
    """(2) of a group, by differences: both ways end close to each other."""

    def mean(a: Array, b: Array) -> Array:
        squares = jnp.sum(jnp.square(a[:, None] - b), axis=-1)
        distances = root(jnp.where(squares > SAME**2, squares, 0.0))
        return jnp.mean(jnp.exp(-distances / width))

    return mean(y, y) + mean(z, z) - 2 * mean(y, z)


def moment_matching(
    network: Network, path: Path, *, gap: float = 160 / 2**12, bias: float = 5.0
) -> Loss:
    """Inductive moment matching (1): a flow map for few steps, from data alone.

    The batch is completed by `draws.chain(draws.standard(path), draws.groups(4,
    draws.spans(times, equal=0.0)))`. The velocity itself is not learned, so the map is sampled by
    `sampling.flow_map` alone. A step costs a call beside the plain loss; no derivative is taken.

    Args:
        network: predicts the average velocity, `(params, t, x, *, r, key=None, **cond) -> u`.
        path: an affine one, which joins `x0` and `x1`.
        gap: eta of (4), by which the ratio of noise to data falls from `t` to `s`.
        bias: b of (5).

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for a path without a schedule, or a gap that is not positive; (when called) for
            a batch that is not in groups.

    Zhou, Ermon and Song, Inductive Moment Matching, 2025, arXiv:2503.07565, eq. 8 to 13, mirrored
    in time, with its map on straight lines in the place of the one scaled by the path.
    """
    check_two_times("moment_matching", network)
    check_made("path", path)
    schedule_of(path)
    if not 0 < gap < float("inf"):
        raise ValueError(f"moment_matching needs a gap > 0; got {gap}")
    network, path = traceable((network, path))
    return MomentMatching(network, path, float(gap), float(bias))
