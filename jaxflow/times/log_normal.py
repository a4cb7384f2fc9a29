r"""Times at which the noise-to-signal ratio of a path is log-normal.

(1) $\ln \frac{\sigma(t)}{\alpha(t)} \sim N(m, s^2)$

With the signal's share $r = \alpha / (\alpha + \sigma)$, $\operatorname{logit} r = -\ln(\sigma /
\alpha)$ is normal, so $t = r^{-1}(\operatorname{sigmoid}(-m + s\,\Phi^{-1}(u)))$. Where a path does
not reach all ratios, (1) is cut off at its ends.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logit, ndtr, ndtri

from jaxflow.arrays import as_floats, bisect
from jaxflow.records import record, static
from jaxflow.times.distributions import ByQuantile, Shares, Vector
from jaxflow.types import Array, Path, Schedule, Times

__all__ = ["log_normal"]


@record
class LogNormal(ByQuantile):
    """Times of (1)."""

    schedule: Schedule
    mean: float = static()
    std: float = static()

    def quantile(self, u: Shares) -> Vector:
        """By inverting the signal's share."""
        first, last = self._ends()
        z = ndtri(first + (last - first) * as_floats(u))
        return bisect(self._share, jax.nn.sigmoid(-self.mean + self.std * z), *self._interval)

    def log_prob(self, t: Vector) -> Vector:
        """Log-density in nats."""
        low, high = self._interval
        inside = (t > low) & (t < high)
        t = jnp.where(inside, t, (low + high) / 2)
        r, slope = jax.jvp(self._share, (t,), (jnp.ones_like(t),))
        normal = jax.scipy.stats.norm.logpdf(logit(r), -self.mean, self.std)
        first, last = self._ends()
        value = normal + jnp.log(slope) - jnp.log(r * (1 - r)) - jnp.log(last - first)
        return jnp.where(inside, value, -jnp.inf)

    @property
    def _interval(self) -> tuple[float, float]:
        return self.schedule.interval

    def _share(self, t: Array) -> Array:
        alpha = self.schedule.alpha(t)
        return jnp.asarray(alpha / (alpha + self.schedule.sigma(t)))

    def _ends(self) -> Array:
        """The shares of (1) that lie before the ends of the path."""
        share = self._share(jnp.asarray(self._interval))
        return ndtr((logit(share) + self.mean) / self.std)


def log_normal(path: Path, mean: float = -1.2, std: float = 1.2) -> Times:
    """Times with a log-normal noise-to-signal ratio, (1); on the linear path they are logit-normal.

    Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
    arXiv:2206.00364, table 1, whose sigma is this ratio.

    Args:
        path: an affine path.
        mean, std: of the logarithm.

    Raises:
        ValueError: for a path without schedule, or where `mean` is not finite or `std` not positive
            and finite.
    """
    schedule = getattr(path, "schedule", None)
    if schedule is None:
        raise ValueError(f"log_normal needs an affine path, with a schedule; {path!r} has none")
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise ValueError(f"log_normal needs a finite mean and std > 0; got mean={mean}, std={std}")
    return LogNormal(schedule, mean, std)
