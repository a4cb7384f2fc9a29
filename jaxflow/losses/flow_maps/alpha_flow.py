r"""alpha-Flow: from flow matching to MeanFlow, and consistency training between.

With $s = t + \alpha\,(r - t)$ and $x_s = x_t + (s - t)\, u_t$ on the pair's own line,

(1) $\alpha^{-1}\, \big\| u_\theta(t, r, x_t) - \mathrm{sg}\big(\alpha\, u_t +
    (1 - \alpha)\, u_\theta(s, r, x_s)\big) \big\|^2$

is flow matching at $\alpha = 1$, the straight line from noise to data being the map, and MeanFlow's
gradient as $\alpha \to 0$: the difference of the two sides is $\alpha$ times MeanFlow's, up to
$\alpha^2$. For $r = 1$ it is consistency training in discrete time, a step of a share $\alpha$ of
what is left; with a teacher's velocity in the place of $u_t$, consistency distillation.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.checks import check_made
from jaxflow.losses.flow_maps.condition import Point, Sides, flow_map_loss
from jaxflow.losses.flow_maps.operators import carried
from jaxflow.losses.flow_maps.teachers import checked, flow_of, learnt
from jaxflow.paths.schedules import Linear
from jaxflow.records import record
from jaxflow.types import Held, Loss, Network, Path

__all__ = ["alpha_flow"]


@record
class AlphaFlow:
    """The condition of (1)."""

    alpha: Any
    teacher: Network | None

    def __call__(self, point: Point) -> Sides:
        t, r, x, u, v = point.t, point.r, point.x, point.u, flow_of(self.teacher, point)
        alpha = self._share(point.held)
        step = alpha * (r - t)
        later = jax.lax.stop_gradient(u(t + step, r, carried(x, step, v)))
        share = jnp.full_like(t, alpha)
        target = carried(later, share, jax.tree.map(jnp.subtract, v, later))
        return Sides(u(t, r, x), target, 1 / alpha)

    def at_rest(self, point: Point) -> Sides:
        return learnt(self.teacher, point)

    def _share(self, held: Held | None) -> Any:
        if not callable(self.alpha):
            return self.alpha
        if held is None:
            raise ValueError("alpha is a function of the step, which a trainer holds; got none")
        schedule: Any = self.alpha
        return at_least_float32(schedule(held.step))


def alpha_flow(
    network: Network,
    path: Path,
    *,
    alpha: Any = 0.1,
    teacher: Network | None = None,
    power: float = 1.0,
    offset: float = 0.01,
) -> Loss:
    """The loss (1), whose target takes one step of a share `alpha` along the pair.

    The batch is completed by `draws.chain(draws.standard(path), draws.spans(times))`. At a fixed
    `alpha` below 1 what is learned is the flow map up to an error of the order of `alpha`. With
    `draws.to_end()` it is consistency training; `power=0.5` is then the gradient of the
    pseudo-Huber distance.

    Args:
        network: predicts the average velocity, `(params, t, x, *, r, key=None, **cond) -> u`.
        path: joins `x0` and `x1`, on straight lines: `paths.linear()`.
        alpha: in (0, 1], or a function of the step that falls from 1, such as a schedule of Optax.
        teacher: a network that predicts the velocity, `(params, t, x, **cond) -> v`, whose
            parameters the state holds frozen: the step is one of Euler's along it.
        power: p of the adaptive weight; 0 for a plain sum of squares.
        offset: c of the adaptive weight.

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for an alpha outside (0, 1], a weight that is none, or a path that is not
            straight.

    Zhang et al., AlphaFlow: Understanding and Improving MeanFlow Models, 2025, arXiv:2510.20771;
    Song et al., Consistency Models, 2023, arXiv:2303.01469, sections 4 and 5; Song and Dhariwal,
    Improved Techniques for Training Consistency Models, 2023, arXiv:2310.14189, section 3.3; Geng
    et al., Consistency Models Made Easy, 2024, arXiv:2406.14548, of steps that are shares.
    """
    check_made("path", path)
    if not callable(alpha) and not 0 < alpha <= 1:
        raise ValueError(f"alpha_flow needs 0 < alpha <= 1; got {alpha}")
    is_straight = isinstance(getattr(path, "schedule", None), Linear)
    if not is_straight:
        raise ValueError(f"alpha_flow steps along straight pairs, of paths.linear(); got {path!r}")
    return flow_map_loss(
        "alpha_flow", network, path, AlphaFlow(alpha, checked(teacher)), power, offset
    )
