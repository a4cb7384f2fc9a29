r"""A path with its time warped, more of it spent at the noise or at the data.

(1) $s(t) = \dfrac{t}{t + k (1 - t)}$, which is $u \mapsto k u / (1 + (k - 1) u)$ of $u = 1 - t$

(2) $\alpha_k(t) = \alpha(s(t))$ and $\sigma_k(t) = \sigma(s(t))$

On the linear path (1) multiplies the noise-to-signal ratio by $k$ at every time.
"""

import math
from typing import Any

from jaxflow.paths.affine import Affine, affine
from jaxflow.paths.diffusion import time_at
from jaxflow.paths.ends import schedule_of
from jaxflow.paths.schedules import At
from jaxflow.records import record, static
from jaxflow.types import Interval, Path, Schedule

__all__ = ["Shifted", "shifted"]


@record
class Shifted:
    """A schedule at the times (1)."""

    schedule: Schedule
    shift: float = static()

    @property
    def interval(self) -> Interval:
        """That of the schedule, as seen through (1)."""
        low, high = self.schedule.interval
        return _warped(low, 1 / self.shift), _warped(high, 1 / self.shift)

    def alpha(self, t: At) -> At:
        """Share of the data."""
        return self.schedule.alpha(_warped(t, self.shift))

    def sigma(self, t: At) -> At:
        """Share of the noise."""
        return self.schedule.sigma(_warped(t, self.shift))

    def time_of_log_snr(self, value: At) -> At:
        """The time at which the log signal-to-noise ratio is `value`."""
        return _warped(time_at(self.schedule, value), 1 / self.shift)


def _warped(t: Any, shift: float) -> Any:
    return t / (t + shift * (1 - t))


def shifted(path: Path, shift: float) -> Affine:
    """The same path with its time shifted towards the noise (`shift > 1`) or the data.

    What `sampling.grids.shifted` does to the steps of a sampler, done to the path: uniform times
    on the shifted path are shifted ones on the path itself. Esser et al., Scaling Rectified Flow
    Transformers, 2024, arXiv:2403.03206, eq. 23, whose t is our 1 - t.

    Args:
        path: an affine path.
        shift: $k$ of (1).

    Raises:
        ValueError: where `shift <= 0`, or the path has no schedule.

    >>> from jaxflow import paths
    >>> import jax.numpy as jnp
    >>> shifted(paths.linear(), 3.0).schedule.sigma(jnp.array([0.5]))
    Array([0.75], dtype=float32)
    """
    if not 0 < shift < math.inf:
        raise ValueError(f"shifted needs shift > 0; got {shift}")
    return affine(Shifted(schedule_of(path), shift))
