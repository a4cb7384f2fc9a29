"""A pair of fields, and what a rule makes of it."""

from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import at_least_float32
from jaxflow.checks import check_made
from jaxflow.records import record, traceable
from jaxflow.types import Array, Interval, Path
from jaxflow.velocities.guidance.parts import by_part, held_inside
from jaxflow.velocities.guidance.rules import plain
from jaxflow.velocities.guidance.scales import Scale, as_during, as_scale, inside, scale_at

__all__ = ["Guided", "guided"]


@record
class Guided:
    """What `rule` makes of the pair inside `during`, and the wanted field alone outside it.

    `pair(t, x, **cond)` gives both fields. Both are computed at all times, so that a call costs the
    same everywhere; `evaluations` counts both.
    """

    pair: Any
    scale: Any
    rule: Any
    during: tuple[Any, Any] | None

    @property
    def evaluations(self) -> int:
        """Those of both fields, also at times without guidance."""
        return self.pair.evaluations

    @property
    def interval(self) -> Interval:
        """Where both fields are finite."""
        return self.pair.interval

    @property
    def path(self) -> Path | None:
        """That of the wanted field."""
        return self.pair.path

    def __call__(self, t: Any, x: Any, **cond: Any) -> Any:
        t = held_inside(t, self.interval)
        return by_part(self._combined, self.path, t, x, *self.pair(t, x, **cond))

    def _combined(self, path: Path | None, t: Any, x: Any, wanted: Any, unwanted: Any) -> Array:
        scale, dtype = scale_at(self.scale, t, wanted), wanted.dtype
        rule = self.rule.along(path) if hasattr(self.rule, "along") else self.rule
        wanted, unwanted = at_least_float32(wanted), at_least_float32(unwanted)
        v = rule(t, x, wanted, unwanted, scale)
        if jnp.shape(v) != wanted.shape:
            raise ValueError(
                f"the rule of guidance returns shape {jnp.shape(v)} for fields of shape "
                f"{wanted.shape}: a rule is (t, x, wanted, unwanted, scale) -> field"
            )
        if self.during is not None:
            v = jnp.where(inside(self.during, t, wanted), v, wanted)
        return v.astype(dtype)


def guided(pair: Any, scale: Scale, rule: Any, interval: Interval) -> Guided:
    """The velocity of a pair and a rule, `plain()` where None.

    Raises:
        ValueError: for a scale of more axes, an interval outside [0, 1], or a rule that needs the
            path of a velocity that has none.
    """
    check_made("rule", rule)
    rule = plain() if rule is None else traceable(rule)
    if hasattr(rule, "along") and pair.path is None:
        raise ValueError(
            f"{rule!r} reads the posterior mean of the data, and the velocity has no path: build "
            "it by from_network(network, params, path=...)"
        )
    return Guided(pair, as_scale(scale), rule, as_during(interval))
