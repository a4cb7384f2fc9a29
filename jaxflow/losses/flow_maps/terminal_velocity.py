r"""Terminal velocity matching: a flow map's end moves with the velocity, which its pair teaches.

(1) $\big\| u_\theta(t, r, x_t) + (r - t)\, \partial_r u_\theta(t, r, x_t) -
    \mathrm{sg}\big(u(r, r, X(t, r, x_t))\big) \big\|^2 + \| u_\theta(r, r, x_r) - u_r \|^2$,

the Lagrangian condition and flow matching at the end of the same pair, $x_r$ with its velocity
$u_r$. The sum bounds the squared Wasserstein distance of the map's samples from the data.
"""

import jax

from jaxflow.losses.flow_maps.condition import Point, Sides, flow_map_loss
from jaxflow.losses.flow_maps.operators import carried, forwards
from jaxflow.losses.flow_maps.teachers import check_self, itself, learnt
from jaxflow.records import record, static
from jaxflow.types import Loss, Network, Path

__all__ = ["terminal_velocity"]


@record
class TerminalVelocity:
    """The condition of (1)."""

    path: Path
    by: str = static()

    def __call__(self, point: Point) -> Sides:
        t, r, batch = point.t, point.r, point.batch
        average, speed = forwards(point.u, t, r, point.x)
        end = jax.lax.stop_gradient(carried(point.x, r - t, average))
        last = self.path(r, batch["x0"], batch["x1"], batch.get("z"))
        return Sides(
            {"speed": speed, "velocity": point.u(r, r, last.x)},
            {"speed": itself(point, self.by)(r, r, end), "velocity": last.u},
        )

    def at_rest(self, point: Point) -> Sides:
        return learnt(None, point)


def terminal_velocity(
    network: Network,
    path: Path,
    *,
    by: str = "parameters",
    power: float = 0.0,
    offset: float = 0.01,
) -> Loss:
    """Terminal velocity matching (1): every pair teaches the map and the velocity at its end.

    The batch is completed by `draws.chain(draws.standard(path), draws.spans(times, equal=0.0))`: no
    example needs `r = t`. A step costs `lagrangian`'s and a call.

    Args:
        network: predicts the average velocity, `(params, t, x, *, r, key=None, **cond) -> u`.
        path: joins `x0` and `x1`, with a velocity.
        by: the velocity at the end of the map is by the network's "parameters", or their "average"
            called ema.
        power: p of the adaptive weight; 0 for a plain sum of squares.
        offset: c of the adaptive weight.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for an unknown `by`, or a weight that is none.

    Zhou, Parger, Haque and Song, Terminal Velocity Matching, 2025, arXiv:2511.19797, its objective,
    mirrored in time; its scaled parametrisation and guidance are left out.
    """
    check_self("terminal_velocity", by)
    condition = TerminalVelocity(path, by)
    return flow_map_loss("terminal_velocity", network, path, condition, power, offset)
