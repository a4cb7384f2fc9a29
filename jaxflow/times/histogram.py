r"""Times of a piecewise constant density, as one that follows the loss of a run.

(1) $p(t) = m_b / (e_{b+1} - e_b)$ for $e_b \le t < e_{b+1}$

(2) $p(t) \propto \sqrt{E[L^2 \mid t]}$, under which $L / p$ has the least variance of all densities
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from jaxflow.arrays import as_floats
from jaxflow.records import record
from jaxflow.times.distributions import ByQuantile, Shares, Vector
from jaxflow.types import AnyArray, Array, Float, Times

__all__ = ["fitted", "histogram"]

UNIFORM_SHARE = 0.05  # of the mass of a fitted density, so that no weight exceeds 20


@record
class Histogram(ByQuantile):
    """The density (1)."""

    edges: Float[Array, "_"]
    masses: Float[Array, "bins"]

    def quantile(self, u: Shares) -> Vector:
        """Linear within each bin."""
        below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(self.masses)[:-1], jnp.ones(1)])
        return jnp.interp(as_floats(u), below, self.edges)

    def log_prob(self, t: Vector) -> Vector:
        """Log-density in nats."""
        b = jnp.clip(jnp.searchsorted(self.edges, t, side="right") - 1, 0, len(self.masses) - 1)
        value = jnp.log(self.masses[b]) - jnp.log(self.edges[b + 1] - self.edges[b])
        return jnp.where((t >= 0) & (t <= 1), value, -jnp.inf)


def histogram(edges: Sequence[float] | AnyArray, masses: Sequence[float] | AnyArray) -> Times:
    """Times of the density (1), whose edges and masses are leaves.

    Args:
        edges: of the bins, from 0 to 1.
        masses: of each bin; positive, and brought to a sum of 1.

    Raises:
        ValueError: where edges do not increase from 0 to 1, or masses are not one positive number
            a bin.
    """
    e, m = np.asarray(edges, np.float64), np.asarray(masses, np.float64)
    if e.ndim != 1 or len(e) < 2 or (e[0], e[-1]) != (0, 1) or not np.all(np.diff(e) > 0):
        raise ValueError(f"the edges of a histogram increase from 0 to 1; got {edges}")
    if m.shape != (len(e) - 1,) or not (np.all(m > 0) and np.all(np.isfinite(m))):
        raise ValueError(f"masses are one positive number for each of {len(e) - 1} bins; got {m}")
    return Histogram(jnp.asarray(e, jnp.result_type(float)), as_floats(m / m.sum()))


def fitted(t: Real[AnyArray, "n"], loss: Real[AnyArray, "n"], bins: int = 32) -> Times:
    """Times that follow the loss, (2), in bins that hold as many of the given times each.

    A loss under them is that under the old times once each example is weighed by
    `losses.weights.importance(new, old)`. A twentieth of the mass is uniform.

    Args:
        t: times of examples that were seen.
        loss: of each of them, as `aux["per_example"]`.
        bins: how many.

    Raises:
        ValueError: where there are fewer examples than bins, times outside [0, 1], or losses that
            are not finite.

    Nichol & Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021, arXiv:2102.09672,
    section 3.3, for continuous times.
    """
    t, loss = np.asarray(t, np.float64), np.asarray(loss, np.float64)
    if not 1 <= bins <= len(t) or len(t) != len(loss):
        raise ValueError(
            f"{bins} bins need as many times at least, and a loss for each; got {len(t)} times and "
            f"{len(loss)} losses"
        )
    if not (np.all((t >= 0) & (t <= 1)) and np.all(np.isfinite(loss))):
        raise ValueError("times lie in [0, 1] and losses are finite: drop the examples that do not")
    inner = np.unique(np.quantile(t, np.arange(1, bins) / bins))
    edges = np.concatenate([[0.0], inner[(inner > 0) & (inner < 1)], [1.0]])
    which = np.clip(np.searchsorted(edges, t, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(which, minlength=len(edges) - 1)
    squares = np.bincount(which, loss**2, minlength=len(edges) - 1)
    width = np.diff(edges)
    masses = np.sqrt(squares / np.maximum(count, 1)) * width
    total = masses.sum() or 1.0
    return histogram(edges, (1 - UNIFORM_SHARE) * masses / total + UNIFORM_SHARE * width)
