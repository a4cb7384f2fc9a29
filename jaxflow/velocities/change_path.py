r"""The same flow on another schedule, after training.

Two affine paths of one coupling meet at equal ratios of signal to noise. With
$r = \alpha / (\alpha + \sigma)$ and $m = \alpha + \sigma$, the point $x$ of the new path at $t$ is
$c\,y$ with $y$ on the old path at $s$, where

(1) $r_{old}(s) = r_{new}(t)$ and $c(t) = m_{new}(t) / m_{old}(s)$

(2) $v_{new}(t, x) = \dfrac{\dot c}{c}\, x + c\,\dot s\; v_{old}(s, x / c)$
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, expand
from jaxflow.paths.ends import nonzero_interval, schedule_of
from jaxflow.paths.schedules import signal, time_of_signal
from jaxflow.records import record, static
from jaxflow.types import Array, Data, Interval, Path, PyTree, Time, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["change_path"]


@record
class ChangedPath:
    """The velocity (2); `interval` is where both paths have the signal-to-noise ratio."""

    velocity: Velocity
    old: Path
    path: Path
    interval: Interval = static()

    @property
    def evaluations(self) -> int:
        """Those of the velocity."""
        return self.velocity.evaluations

    def __call__(self, t: Time, x: Data, **cond: Any) -> Data:
        t = jnp.clip(at_least_float32(t), *self.interval)
        r, m, r_dot, m_dot = signal(schedule_of(self.path), t)
        s = time_of_signal(schedule_of(self.old), r)
        _, m_old, r_old_dot, m_old_dot = signal(schedule_of(self.old), s)
        s_dot = r_dot / r_old_dot
        c = m / m_old
        c_rate = m_dot / m - m_old_dot * s_dot / m_old
        v = self.velocity(s, (x / expand(c, x)).astype(x.dtype), **cond)
        return (expand(c_rate, x) * x + expand(c * s_dot, x) * v).astype(x.dtype)


def change_path(
    velocity: Velocity | Callable[..., PyTree], old_path: Path, new_path: Path
) -> Velocity:
    """The flow of `velocity`, learned on `old_path`, as it runs on `new_path`: (2).

    Both start from one source and end at one distribution, so samples agree; the way between
    differs, and with it the cost of solving.

    Args:
        velocity: learned on `old_path`.
        old_path, new_path: affine paths.

    Returns:
        A velocity whose `interval` leaves out the times whose signal-to-noise ratio the old path
        (less the velocity's own ends) does not reach.

    Raises:
        ValueError: where a path has no schedule.

    Karras et al., Elucidating the Design Space, 2022, arXiv:2206.00364, appendix B; Pokle et al.,
    Training-free Linear Image Inverses via Flows, 2024, arXiv:2310.04432, lemma 2.
    """
    velocity = as_velocity(velocity)
    return ChangedPath(velocity, old_path, new_path, _common_interval(velocity, old_path, new_path))


def _common_interval(velocity: Velocity, old: Path, new: Path) -> Interval:
    """Where the new path's signal lies inside the range on which the old velocity is finite."""
    low, high = nonzero_interval(schedule_of(old), "determinant")
    first, last = velocity.interval
    low, high = max(low, first), min(high, last)
    new_low, new_high = schedule_of(new).interval

    def share(path: Path, t: float) -> Array:
        return signal(schedule_of(path), jnp.asarray([t]))[0]

    def meets(r: Array) -> float:
        return float(time_of_signal(schedule_of(new), r)[0])

    with jax.ensure_compile_time_eval():
        r_low, r_high = share(old, low), share(old, high)
        starts_late = bool(r_low[0] > share(new, new_low)[0])
        stops_early = bool(r_high[0] < share(new, new_high)[0])
        return meets(r_low) if starts_late else new_low, meets(r_high) if stops_early else new_high
