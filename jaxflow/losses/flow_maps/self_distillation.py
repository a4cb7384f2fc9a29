r"""Flow maps from what characterises them, along the network's own flow or a teacher's.

A map $X(t, r, x) = x + (r - t)\, u$ is that of the flow $v$ where one of these holds for all times:

(1) Lagrangian: $\partial_r X(t, r, x) = v(r, X(t, r, x))$

(2) Eulerian: $u(t, r, x) = v(t, x) + (r - t)\, \big(\partial_t u + (v \cdot \nabla)\, u\big)$

(3) semigroup: $X(t, r, x) = X(s, r, X(t, s, x))$ for $s$ between, which is
    $u(t, r, x) = \gamma\, u(t, s, x) + (1 - \gamma)\, u(s, r, X(t, s, x))$ with
    $\gamma = (s - t) / (r - t)$

and $u(t, t, x) = v(t, x)$, which (3) does not say by itself. Each loss is the squared difference of
the two sides, the right-hand one held fixed, with $v(t, x) = u_\theta(t, t, x)$ or a teacher's. An
example with $r = t$ learns the velocity: of its pair, or the teacher's.
"""

import jax
import jax.numpy as jnp

from jaxflow.losses.flow_maps.condition import Point, Sides, flow_map_loss
from jaxflow.losses.flow_maps.operators import (
    Field,
    along,
    average_velocity,
    carried,
    forwards,
)
from jaxflow.losses.flow_maps.teachers import check_self, checked, frozen_of, itself, learnt, taught
from jaxflow.records import record, static
from jaxflow.types import Loss, Network, Path

__all__ = ["eulerian", "lagrangian", "semigroup"]


@record
class Lagrangian:
    """The condition (1)."""

    teacher: Network | None

    def __call__(self, point: Point) -> Sides:
        t, r, x, u = point.t, point.r, point.x, point.u
        average, speed = forwards(u, t, r, x)
        end = jax.lax.stop_gradient(carried(x, r - t, average))
        v = u(r, r, end) if self.teacher is None else taught(self.teacher, point, r, end)
        return Sides(speed, v)

    def at_rest(self, point: Point) -> Sides:
        return learnt(self.teacher, point)


@record
class Eulerian:
    """The condition (2)."""

    teacher: Network | None

    def __call__(self, point: Point) -> Sides:
        t, r, x, u = point.t, point.r, point.x, point.u
        if self.teacher is None:
            v = jax.lax.stop_gradient(u(t, t, x))
        else:
            v = taught(self.teacher, point, t, x)
        average, rate = along(u, t, r, x, v)
        return Sides(average, carried(v, r - t, rate))

    def at_rest(self, point: Point) -> Sides:
        return learnt(self.teacher, point)


@record
class Semigroup:
    """The condition (3); the two steps take no dropout."""

    teacher: Network | None
    by: str = static()

    def __call__(self, point: Point) -> Sides:
        t, r, x, s = point.t, point.r, point.x, jnp.asarray(point.batch["s"])
        step = self._steps(point)
        first = step(t, s, x)
        second = step(s, r, carried(x, s - t, first))
        share = jnp.where(r > t, (s - t) / jnp.where(r > t, r - t, 1.0), 1.0)
        target = carried(second, share, jax.tree.map(jnp.subtract, first, second))
        return Sides(point.u(t, r, x), target)

    def at_rest(self, point: Point) -> Sides:
        t, x = point.t, point.x
        v = point.own if self.teacher is None else self._steps(point)(t, t, x)
        return Sides(point.u(t, t, x), v)

    def _steps(self, point: Point) -> Field:
        """The average velocity that the two steps are taken by."""
        if self.teacher is None:
            return itself(point, self.by)
        frozen = jax.lax.stop_gradient(frozen_of(point.held))
        return average_velocity(self.teacher, frozen, None, point.batch)


def lagrangian(
    network: Network,
    path: Path,
    *,
    teacher: Network | None = None,
    power: float = 0.0,
    offset: float = 0.01,
) -> Loss:
    """The Lagrangian loss of a flow map: its end moves with the flow (1).

    The batch is completed by `draws.chain(draws.standard(path), draws.spans(times))`. No derivative
    by `x` is taken; the one by `r` is differentiated.

    Args:
        network: predicts the average velocity, `(params, t, x, *, r, key=None, **cond) -> u`.
        path: joins `x0` and `x1`, with a velocity.
        teacher: a network that predicts the velocity, `(params, t, x, **cond) -> v`, whose
            parameters the state holds frozen; the network itself, at equal times, where None.
        power: p of the adaptive weight; 0 for a plain sum of squares.
        offset: c of the adaptive weight.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for a weight that is none.

    Boffi, Albergo and Vanden-Eijnden, How to Build a Consistency Model: Learning Flow Maps via
    Self-Distillation, 2025, arXiv:2505.18825; with a teacher, the same authors' Flow Map Matching,
    2025, arXiv:2406.07507.
    """
    condition = Lagrangian(checked(teacher))
    return flow_map_loss("lagrangian", network, path, condition, power, offset)


def eulerian(
    network: Network,
    path: Path,
    *,
    teacher: Network | None = None,
    power: float = 0.0,
    offset: float = 0.01,
) -> Loss:
    """The Eulerian loss of a flow map: it does not change as its start moves along the flow (2).

    `mean_flow` along the network's velocity, or a teacher's, in the place of the pair's.

    Args:
        network: as in `lagrangian`, as is every other argument.
        path: as there.
        teacher: as there.
        power: as there.
        offset: as there.

    Raises:
        TypeError: as `lagrangian`.
        ValueError: as `lagrangian`.

    Boffi et al., 2025, arXiv:2505.18825 and arXiv:2406.07507; with a teacher also Sabour, Fidler
    and Kreis, Align Your Flow, 2025, arXiv:2506.14603, without its normalised tangent.
    """
    condition = Eulerian(checked(teacher))
    return flow_map_loss("eulerian", network, path, condition, power, offset)


def semigroup(
    network: Network,
    path: Path,
    *,
    teacher: Network | None = None,
    by: str = "parameters",
    power: float = 0.0,
    offset: float = 0.01,
) -> Loss:
    """The semigroup loss of a flow map: one step is two (3); no derivative is taken.

    With `draws.spans` it is interval splitting; with `draws.dyadic()` and `by="average"` it trains
    shortcut models; with a teacher it is progressive distillation.

    Args:
        network: as in `lagrangian`.
        path: as there.
        teacher: a network of two times as `network` is, of which the two steps are; one that
            ignores `r` takes Euler's.
        by: the two steps are taken by the network's "parameters", or by their "average" called ema.
        power: as there.
        offset: as there.

    Raises:
        TypeError: as `lagrangian`.
        ValueError: as `lagrangian`, for an unknown `by`, or a teacher beside `by="average"`.

    Boffi et al., 2025, arXiv:2505.18825; Frans et al., One Step Diffusion via Shortcut Models,
    2024, arXiv:2410.12557, eq. 5, whose targets are the average's; Guo et al., SplitMeanFlow, 2025,
    arXiv:2507.16884; Salimans and Ho, Progressive Distillation, 2022, arXiv:2202.00512.
    """
    check_self("semigroup", by)
    if teacher is not None and by == "average":
        raise ValueError(
            'semigroup takes its targets by a teacher, or by="average" of its own parameters; '
            "got both"
        )
    condition = Semigroup(checked(teacher), by)
    return flow_map_loss("semigroup", network, path, condition, power, offset)
