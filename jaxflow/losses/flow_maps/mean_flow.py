r"""MeanFlow: the average velocity, from its identity with the velocity.

The flow map $X(t, r, x)$ does not change when its start moves along the flow. With
$X = x + (r - t)\, u$ that is

(1) $u(t, r, x) = v(t, x) + (r - t)\, \dfrac{D u}{D t}$,
    $\quad \dfrac{D u}{D t} = \partial_t u + (v \cdot \nabla)\, u$

(2) MeanFlow: $\| u_\theta - \mathrm{sg}(u_t + (r - t)\, \frac{D u_\theta}{D t}) \|^2$, along the
    pair's own velocity $u_t$

(3) improved: $\| u_\theta - (r - t)\, \mathrm{sg}(\frac{D u_\theta}{D t}) - u_t \|^2$, along the
    network's velocity $u_\theta(t, t, x)$: a regression on $u_t$ of what depends on $x_t$ alone

Both are weighted as `condition` says. With guidance $u_t$ gives way to

(4) $\omega\, u_t + \kappa\, u_\theta(t, t, x \mid c) + (1 - \omega - \kappa)\,
    u_\theta(t, t, x \mid \varnothing)$,

whose mean is the velocity under classifier-free guidance of scale $\omega / (1 - \kappa)$: so one
call, later, is a guided one.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import null_like, where_rows
from jaxflow.losses.flow_maps.condition import Point, Sides, flow_map_loss
from jaxflow.losses.flow_maps.operators import along, average_velocity, carried
from jaxflow.records import record, static
from jaxflow.types import Array, Loss, Network, Path

__all__ = ["improved_mean_flow", "mean_flow"]


@record
class Guided:
    """The velocity (4) in the place of the pair's own; the null is one of each condition's."""

    null: Mapping[str, Any]
    scale: float = static()
    mix: float = static()

    def __call__(self, point: Point) -> Any:
        """(4); the pair's own velocity where its conditions are the null already.

        Raises:
            ValueError: where the batch has no such condition.
        """
        cond = dict(point.batch.get("cond", {}))
        missing = sorted(set(self.null) - set(cond))
        if missing:
            raise ValueError(
                f"the null of guidance is of {', '.join(missing)}, but the batch has the "
                f"conditions {sorted(cond)}"
            )
        nulls = {name: null_like(name, null, cond[name]) for name, null in self.null.items()}
        bare = {"cond": {**cond, **nulls}}
        unconditional = average_velocity(point.network, point.params, point.key, bare)
        without = unconditional(point.t, point.t, point.x)
        rest = 1 - self.scale - self.mix
        guided = jax.tree.map(lambda a, b: self.scale * a + rest * b, point.own, without)
        if self.mix:
            within = point.u(point.t, point.t, point.x)
            guided = jax.tree.map(lambda a, b: a + self.mix * b, guided, within)
        return jax.lax.stop_gradient(where_rows(_are_alike(cond, nulls), point.own, guided))


def _are_alike(cond: Mapping[str, Any], nulls: Mapping[str, Any]) -> Array:
    """Whether every condition of an example is its null."""
    alike = [
        jnp.all((a == b).reshape(len(a), -1), axis=1)
        for name, null in nulls.items()
        for a, b in zip(*map(jax.tree.leaves, (cond[name], null)), strict=True)
    ]
    return jnp.all(jnp.stack(alike), axis=0)


@record
class MeanFlow:
    """The condition of (2)."""

    guidance: Guided | None

    def __call__(self, point: Point) -> Sides:
        v = self._velocity(point)
        average, rate = along(point.u, point.t, point.r, point.x, v)
        return Sides(average, carried(v, point.r - point.t, rate))

    def at_rest(self, point: Point) -> Sides:
        return Sides(point.u(point.t, point.t, point.x), self._velocity(point))

    def _velocity(self, point: Point) -> Any:
        """The pair's own, or (4)."""
        return point.own if self.guidance is None else self.guidance(point)


@record
class ImprovedMeanFlow(MeanFlow):
    """The condition of (3)."""

    def __call__(self, point: Point) -> Sides:
        own = jax.lax.stop_gradient(point.u(point.t, point.t, point.x))
        average, rate = along(point.u, point.t, point.r, point.x, own)
        output = carried(average, point.t - point.r, jax.lax.stop_gradient(rate))
        return Sides(output, self._velocity(point))


def mean_flow(
    network: Network,
    path: Path,
    *,
    scale: float = 1.0,
    mix: float = 0.0,
    null: Mapping[str, Any] | None = None,
    power: float = 1.0,
    offset: float = 0.01,
) -> Loss:
    """MeanFlow (2): a flow map for one step, from data alone.

    The batch is completed by `draws.chain(draws.standard(path), draws.spans(times))`, and what is
    learned is `velocities.flow_map(network, params, path=path)`. A step costs a forward mode pass
    beside the plain loss.

    Args:
        network: predicts the average velocity, `(params, t, x, *, r, key=None, **cond) -> u`.
        path: joins `x0` and `x1`, with a velocity.
        scale: omega of (4), the share of the pair's own velocity.
        mix: kappa of (4), the share of the network's own; the scale of guidance is
            `scale / (1 - mix)`.
        null: the null of each condition, as `draws.drop` puts it; none for no guidance.
        power: p of the adaptive weight; 0 for a plain sum of squares.
        offset: c of the adaptive weight, of an example's summed squares.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for guidance without a null, a `mix` outside [0, 1), or a weight that is none.

    Geng et al., Mean Flows for One-step Generative Modeling, 2025, arXiv:2505.13447, eq. 6, 10, 11
    and, of guidance, 20 and 21, mirrored in time; the offset is that of its experiments.
    """
    condition = MeanFlow(_guidance("mean_flow", scale, mix, null))
    return flow_map_loss("mean_flow", network, path, condition, power, offset)


def improved_mean_flow(
    network: Network,
    path: Path,
    *,
    scale: float = 1.0,
    mix: float = 0.0,
    null: Mapping[str, Any] | None = None,
    power: float = 1.0,
    offset: float = 0.01,
) -> Loss:
    """Improved MeanFlow (3): the same flow map, by a regression whose target is no network's.

    The tangent is the network's velocity at equal times, one call more than `mean_flow`.

    Args:
        network: as in `mean_flow`, as is every other argument.
        path: as there.
        scale: as there.
        mix: as there.
        null: as there.
        power: as there.
        offset: as there.

    Raises:
        TypeError: as `mean_flow`.
        ValueError: as `mean_flow`.

    Geng et al., Improved Mean Flows: On the Challenges of Fastforward Generative Models, 2025,
    arXiv:2512.02012, mirrored in time. A second head for the velocity, and scales of guidance as
    conditions, are left out here.
    """
    condition = ImprovedMeanFlow(_guidance("improved_mean_flow", scale, mix, null))
    return flow_map_loss("improved_mean_flow", network, path, condition, power, offset)


def _guidance(name: str, scale: float, mix: float, null: Mapping[str, Any] | None) -> Guided | None:
    if not 0 <= mix < 1:
        raise ValueError(f"{name} needs 0 <= mix < 1, the share of the network's own; got {mix}")
    if scale == 1 and not mix:
        return None
    if not null:
        raise ValueError(
            f"{name} with scale={scale} and mix={mix} guides its target, which needs the null of a "
            'condition: give null={"label": 10}, say, as draws.drop'
        )
    return Guided(dict(null), float(scale), float(mix))
