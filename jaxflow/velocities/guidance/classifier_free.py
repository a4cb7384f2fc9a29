r"""Guidance by the same network without its conditions.

(1) $v_s(t, x \mid c) = v(t, x \mid \emptyset) + s\,(v(t, x \mid c) - v(t, x \mid \emptyset))$

On any path of a standard normal source this is the velocity of the scores' combination, that of
$p_t(x)\,(p_t(x \mid c) / p_t(x))^s$ at each $t$ alone: for $s$ other than 0 and 1 these are not the
marginals of one flow, and samples are not those of the tilted data.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.records import record
from jaxflow.types import Interval, Path, PyTree, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.guidance.pair import guided
from jaxflow.velocities.guidance.rows import call_beside, nulls_of
from jaxflow.velocities.guidance.scales import Scale

__all__ = ["classifier_free"]


@record
class WithAndWithout:
    """The pair of a velocity with conditions and without, in one call on twice the batch."""

    velocity: Velocity
    null: dict[str, Any]

    @property
    def evaluations(self) -> int:
        """Twice those of the velocity."""
        return 2 * self.velocity.evaluations

    @property
    def interval(self) -> Interval:
        """That of the velocity."""
        return self.velocity.interval

    @property
    def path(self) -> Path | None:
        """That of the velocity."""
        return self.velocity.path

    def __call__(self, t: Any, x: Any, **cond: Any) -> list[Any]:
        return call_beside(self.velocity, t, x, cond, {**cond, **nulls_of(self.null, cond)})


def classifier_free(
    velocity: Velocity | Callable[..., PyTree],
    *,
    scale: Scale,
    null: Mapping[str, Any],
    rule: Callable[..., Any] | None = None,
    interval: Interval = (0.0, 1.0),
) -> Velocity:
    """Classifier-free guidance (1): `scale` 0 ignores the conditions, 1 obeys them, more insists.

    Args:
        velocity: trained with conditions dropped (`draws.drop`).
        scale: $s$, one number, one a sample, `[batch]`, or a function of `t`.
        null: the value of each condition that means "none", by name, as `{"label": 10}`: a number,
            an array for one example, or a tree of them. Conditions without one are kept on both
            sides.
        rule: what becomes of the pair, `(t, x, wanted, unwanted, scale) -> field`; (1) where None.
        interval: guidance from its first time on to before its second (to the end where that is 1),
            and the conditional field alone at other times. Both fields are computed all the same:
            a call costs two of the network at all times, and `evaluations` says so. To save the
            second, solve in pieces (docs/guidance.md).

    Raises:
        ValueError: where `null` is empty, or names a condition that the call lacks, `scale` has
            another shape, `interval` is not inside [0, 1], or a rule needs a path that the velocity
            lacks.

    Ho & Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598, eq. 6, whose w is
    our s - 1; Kynkäänniemi et al., Applying Guidance in a Limited Interval Improves Sample and
    Distribution Quality in Diffusion Models, 2024, arXiv:2404.07724, whose noise level is
    `sigma / alpha`: on a straight line, levels from h down to l are `(1 / (1 + h), 1 / (1 + l))`.

    >>> velocity = lambda t, x, label: x * label[:, None]
    >>> strong = classifier_free(velocity, scale=3.0, null={"label": 0.0})
    >>> strong(jnp.zeros(1), jnp.ones((1, 2)), label=jnp.array([2.0]))
    Array([[6., 6.]], dtype=float32)
    """
    if not null:
        raise ValueError("classifier_free needs the null value of a condition, as {'label': 10}")
    pair = WithAndWithout(as_velocity(velocity), jax.tree.map(jnp.asarray, dict(null)))
    return guided(pair, scale, rule, interval)
