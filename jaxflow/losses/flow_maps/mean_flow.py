r"""MeanFlow: the average velocity, from its identity with the velocity.

The flow map $X(t, r, x)$ does not change when its start moves along the flow. With
$X = x + (r - t)\, u$ that is

(1) $u(t, r, x) = v(t, x) + (r - t)\, \dfrac{D u}{D t}$,
    $\quad \dfrac{D u}{D t} = \partial_t u + (v \cdot \nabla)\, u$

(2) MeanFlow: $\| u_\theta - \mathrm{sg}(u_t + (r - t)\, \frac{D u_\theta}{D t}) \|^2$, along the
    pair's own velocity $u_t$

(3) improved: $\| u_\theta - (r - t)\, \mathrm{sg}(\frac{D u_\theta}{D t}) - u_t \|^2$, along the
    network's velocity $u_\theta(t, t, x)$: a regression on $u_t$ of what depends on $x_t$ alone

Both are weighted as `condition` says. With guidance $u_t$ gives way to (1) or (2) of `guidance`.
"""

from collections.abc import Mapping
from typing import Any

import jax

from jaxflow.losses.flow_maps.condition import Point, Sides, flow_map_loss
from jaxflow.losses.flow_maps.guidance import Guidance, guidance_of
from jaxflow.losses.flow_maps.operators import along, carried
from jaxflow.records import record
from jaxflow.types import Loss, Network, Path

__all__ = ["improved_mean_flow", "mean_flow"]


@record
class MeanFlow:
    """The condition of (2)."""

    guidance: Guidance

    def __call__(self, point: Point) -> Sides:
        v = self.guidance.taught(point)
        average, rate = along(point.u, point.t, point.r, point.x, v)
        return Sides(average, carried(v, point.r - point.t, rate))

    def at_rest(self, point: Point) -> Sides:
        return Sides(point.u(point.t, point.t, point.x), self.guidance.taught(point))


@record
class ImprovedMeanFlow(MeanFlow):
    """The condition of (3)."""

    def __call__(self, point: Point) -> Sides:
        taught, own = self.guidance.both(point)
        average, rate = along(point.u, point.t, point.r, point.x, own)
        output = carried(average, point.t - point.r, jax.lax.stop_gradient(rate))
        return Sides(output, taught)


def mean_flow(
    network: Network,
    path: Path,
    *,
    scale: float | None = 1.0,
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
        scale: omega of (1) of `guidance`, the share of the pair's own velocity; None for a scale
            and an interval of each example's own, by (2), which `draws.guidance` draws.
        mix: kappa of (1) there, the share of the network's own; the scale of guidance is
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
    condition = MeanFlow(guidance_of("mean_flow", scale, mix, null))
    return flow_map_loss("mean_flow", network, path, condition, power, offset)


def improved_mean_flow(
    network: Network,
    path: Path,
    *,
    scale: float | None = 1.0,
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
    arXiv:2512.02012, mirrored in time. The velocity is the network's at equal times (its "boundary
    condition"), and not a second head's.
    """
    condition = ImprovedMeanFlow(guidance_of("improved_mean_flow", scale, mix, null))
    return flow_map_loss("improved_mean_flow", network, path, condition, power, offset)
