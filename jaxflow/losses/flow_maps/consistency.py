r"""Consistency in continuous time: the end of a flow map does not change as its start moves.

Along a velocity $v$ the end of $X(t, r, x) = x + (r - t)\, u(t, r, x)$ moves at the rate

(1) $g = v - u + k\, (r - t)\, \big(\partial_t u + (v \cdot \nabla)\, u\big)$, with $k = 1$,

which vanishes for the flow map of $v$. The network follows it by a step of bounded length,

(2) $\tfrac12 \Big\| u_\theta(t, r, x_t) - \mathrm{sg}\Big(u_\theta + \dfrac{g}{\|g\| + c}\Big)
    \Big\|^2$,

and $k$ grows from 0 to 1 while training warms up, so that the velocity is learned first.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import event_sum, root
from jaxflow.losses.flow_maps.condition import Point, Sides, flow_map_loss
from jaxflow.losses.flow_maps.operators import along, carried
from jaxflow.losses.flow_maps.teachers import checked, flow_of
from jaxflow.records import record, static
from jaxflow.types import Array, Held, Loss, Network, Path

__all__ = ["consistency"]


@record
class Consistency:
    """The condition of (2)."""

    teacher: Network | None
    warmup: int = static()
    offset: float = static()

    def __call__(self, point: Point) -> Sides:
        t, r, v = point.t, point.r, flow_of(self.teacher, point)
        average, rate = along(point.u, t, r, point.x, v)
        return self._step(average, carried(v, self._warmth(point.held) * (r - t), rate))

    def at_rest(self, point: Point) -> Sides:
        return self._step(point.u(point.t, point.t, point.x), flow_of(self.teacher, point))

    def _step(self, average: Any, ahead: Any) -> Sides:
        """A bounded step of the average velocity towards `ahead`, which is `g` away."""
        here = jax.lax.stop_gradient(average)
        g = jax.tree.map(jnp.subtract, ahead, here)
        squares = [event_sum(jnp.square(a)) for a in jax.tree.leaves(g)]
        norm = root(jnp.sum(jnp.stack(squares), axis=0))
        return Sides(average, carried(here, 1 / (norm + self.offset), g), 0.5)

    def _warmth(self, held: Held | None) -> Array | float:
        if not self.warmup:
            return 1.0
        if held is None:
            raise ValueError("a warm-up follows the step, which a trainer holds; got none")
        return jnp.minimum(held.step / self.warmup, 1.0)


def consistency(
    network: Network,
    path: Path,
    *,
    teacher: Network | None = None,
    warmup: int = 10_000,
    offset: float = 0.1,
) -> Loss:
    """The consistency loss (2) in continuous time, of data or of a teacher.

    With `draws.to_end()`, where every map ends at the data, it is consistency training, of a
    teacher consistency distillation; with `draws.spans(times)` and a teacher it is Align Your Flow.
    With the pair's own velocity the bounded step weighs pairs by how well they are met.

    Args:
        network: predicts the average velocity, `(params, t, x, *, r, key=None, **cond) -> u`.
        path: joins `x0` and `x1`, with a velocity.
        teacher: a network that predicts the velocity, `(params, t, x, **cond) -> v`, whose
            parameters the state holds frozen; the pair's own velocity where None.
        warmup: steps over which k of (1) grows from 0 to 1.
        offset: c of (2).

    Raises:
        TypeError: for a network or path that is none.
        ValueError: for a negative warm-up, or an offset that is not positive; (when called) for a
            warm-up without a trainer.

    Lu and Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models, 2024,
    arXiv:2410.11081, sections 4.1 and 4.2, on any path in the place of its own and without a
    learned weight; Sabour, Fidler and Kreis, Align Your Flow, 2025, arXiv:2506.14603, section 3.
    """
    if not (isinstance(warmup, int) and warmup >= 0 and 0 < offset < float("inf")):
        raise ValueError(
            f"consistency needs warmup >= 0, in steps, and offset > 0; got {warmup!r} and {offset}"
        )
    condition: Any = Consistency(checked(teacher), warmup, float(offset))
    return flow_map_loss("consistency", network, path, condition, 0.0, 1.0)
