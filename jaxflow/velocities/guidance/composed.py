r"""Guidance by several conditions, each with its own weight.

(1) $v(t, x) = v(t, x \mid \emptyset) + \sum_i s_i\,(v(t, x \mid c_i) - v(t, x \mid \emptyset))$

with all other conditions at their null where one, $c_i$, is given. It is the velocity of the scores
of $p_t(x) \prod_i (p_t(x \mid c_i) / p_t(x))^{s_i}$: with all $s_i = 1$, of the conditions together
where each is independent of the others given $x$.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.names import check_known
from jaxflow.records import record
from jaxflow.types import Array, Interval, Path, PyTree, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.guidance.parts import by_part, held_inside
from jaxflow.velocities.guidance.rows import call_beside, nulls_of
from jaxflow.velocities.guidance.scales import Scale, as_scale, scale_at

__all__ = ["composed"]


@record
class Composed:
    """The sum (1), in one call of the velocity on `1 + n` rows a sample."""

    velocity: Velocity
    scales: dict[str, Any]
    null: dict[str, Any]

    @property
    def evaluations(self) -> int:
        """`1 + n` times those of the velocity."""
        return (1 + len(self.scales)) * self.velocity.evaluations

    @property
    def interval(self) -> Interval:
        """That of the velocity."""
        return self.velocity.interval

    @property
    def path(self) -> Path | None:
        """That of the velocity."""
        return self.velocity.path

    def __call__(self, t: Any, x: Any, **cond: Any) -> Any:
        t, none = held_inside(t, self.interval), {**cond, **nulls_of(self.null, cond)}
        each = [{**none, name: cond[name]} for name in self.scales]
        return by_part(self._sum, None, t, x, *call_beside(self.velocity, t, x, none, *each))

    def _sum(self, path: None, t: Any, x: Any, none: Array, *each: Array) -> Array:
        base = at_least_float32(none)
        total = base
        for scale, v in zip(self.scales.values(), each, strict=True):
            total = total + scale_at(scale, t, v) * (at_least_float32(v) - base)
        return total.astype(none.dtype)


def composed(
    velocity: Velocity | Callable[..., PyTree],
    *,
    scales: Mapping[str, Scale],
    null: Mapping[str, Any],
) -> Velocity:
    """Several conditions (1), each with its own scale, as `{"label": 2.0, "text": 5.0}`.

    With one condition it is `classifier_free`. A negative scale leads away from a condition.

    Args:
        velocity: trained with each condition dropped by itself (`draws.drop` with a rate each).
        scales: $s_i$ by condition: one number, one a sample, `[batch]`, or a function of `t`.
        null: the value of each of these conditions that means "none". Conditions without one are
            kept on all rows.

    Raises:
        ValueError: for no scale, scales and nulls of other names, a condition that the call lacks,
            or a scale of another shape.

    Liu et al., Compositional Visual Generation with Composable Diffusion Models, 2022,
    arXiv:2206.01714, whose noise predictions are combined as our velocities.

    >>> velocity = lambda t, x, a, b: x * (a + 10 * b)[:, None]
    >>> both = composed(velocity, scales={"a": 1.0, "b": 2.0}, null={"a": 0.0, "b": 0.0})
    >>> both(jnp.zeros(1), jnp.ones((1, 1)), a=jnp.ones(1), b=jnp.ones(1)), both.evaluations
    (Array([[21.]], dtype=float32), 3)
    """
    if not scales:
        raise ValueError("composed needs the scale of a condition, as {'label': 2.0}")
    for name in scales:
        check_known("a scale of composed guidance", name, null)
    for name in null:
        check_known("a null of composed guidance", name, scales)
    return Composed(
        as_velocity(velocity),
        {name: as_scale(scale) for name, scale in scales.items()},
        jax.tree.map(jnp.asarray, dict(null)),
    )
