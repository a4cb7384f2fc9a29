r"""The velocity under guidance, in the place of a pair's own in the target of a flow map.

(1) $\omega\, u_t + \kappa\, u_\theta(t, t, x \mid c) + (1 - \omega - \kappa)\,
    u_\theta(t, t, x \mid \varnothing)$,

whose mean is the velocity under classifier-free guidance of scale $\omega / (1 - \kappa)$: so one
call, later, is a guided one. Where the scale $s$ and the times of guidance $[a, b]$ are conditions
of each example, $\omega = 1$ and $\kappa = 1 - 1 / s_t$, of the scale $s_t = s$ for $a \le t < b$
and $1$ at other times,

(2) $u_t + (1 - \tfrac1{s_t})\, (u_\theta(t, t, x \mid c, s_t) - u_\theta(t, t, x \mid
    \varnothing, 1))$, whose mean is the velocity at scale $s_t$,

with both velocities told of guidance at all times, which is what examples at rest teach.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxflow.arrays import expand, null_like, where_rows
from jaxflow.losses.flow_maps.condition import Point
from jaxflow.losses.flow_maps.operators import average_velocity
from jaxflow.records import record, static
from jaxflow.types import Array

__all__ = ["Guidance", "Velocities", "guidance_of"]


class Velocities(NamedTuple):
    """Held fixed: what the map is taught at a point, and the network's own velocity there."""

    taught: Any
    own: Any


@runtime_checkable
class Guidance(Protocol):
    """What a loss of flow maps asks of guidance."""

    def taught(self, point: Point) -> Any:
        """The velocity in the place of the pair's own, held fixed."""
        ...

    def both(self, point: Point) -> Velocities:
        """That, and the network's own under the same guidance."""
        ...


@record
class Unguided:
    """The pair's own velocity."""

    def taught(self, point: Point) -> Any:
        return point.own

    def both(self, point: Point) -> Velocities:
        return Velocities(point.own, jax.lax.stop_gradient(point.u(point.t, point.t, point.x)))


@record
class Guided:
    """The velocity (1); the null is one of each condition's."""

    null: Mapping[str, Any]
    scale: float = static()
    mix: float = static()

    def taught(self, point: Point) -> Any:
        within = point.u(point.t, point.t, point.x) if self.mix else None
        return self._taught(point, within)

    def both(self, point: Point) -> Velocities:
        within = point.u(point.t, point.t, point.x)
        return Velocities(self._taught(point, within), jax.lax.stop_gradient(within))

    def _taught(self, point: Point, within: Any) -> Any:
        cond, nulls = _conditions(point, self.null)
        without = _at_rest(point, {**cond, **nulls})
        rest = 1 - self.scale - self.mix
        guided = jax.tree.map(lambda a, b: self.scale * a + rest * b, point.own, without)
        if self.mix:
            guided = jax.tree.map(lambda a, b: a + self.mix * b, guided, within)
        return _unless_null(point, cond, nulls, guided)


@record
class GuidedAsTold:
    """The velocity (2), of the condition `guidance`."""

    null: Mapping[str, Any]

    def taught(self, point: Point) -> Any:
        return self.both(point).taught

    def both(self, point: Point) -> Velocities:
        cond, nulls = _conditions(point, self.null)
        if "guidance" not in cond:
            raise ValueError(
                "scale=None is of a batch with the condition 'guidance': draw it by "
                "draws.chain(draws.standard(path), draws.spans(times), draws.guidance())"
            )
        scale, low, high = jnp.moveaxis(cond["guidance"], -1, 0)
        t = point.t
        is_guided = (low <= t) & ((t < high) | (high >= 1))
        scale = jnp.where(is_guided, scale, 1.0)
        ones = jnp.ones_like(scale)
        always = jnp.stack([scale, 0 * ones, ones], axis=-1)
        never = jnp.stack([ones, 0 * ones, ones], axis=-1)
        wanted = _at_rest(point, {**cond, "guidance": always})
        unwanted = _at_rest(point, {**cond, **nulls, "guidance": never})
        share = 1 - 1 / scale
        guided = jax.tree.map(
            lambda own, a, b: own + expand(share, own).astype(own.dtype) * (a - b),
            point.own,
            wanted,
            unwanted,
        )
        taught = _unless_null(point, cond, nulls, guided)
        return Velocities(taught, jax.lax.stop_gradient(wanted))


def _conditions(point: Point, null: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The conditions of the batch, and the nulls of some.

    Raises:
        ValueError: where the batch has no such condition.
    """
    cond = dict(point.batch.get("cond", {}))
    missing = sorted(set(null) - set(cond))
    if missing:
        raise ValueError(
            f"the null of guidance is of {', '.join(missing)}, but the batch has the "
            f"conditions {sorted(cond)}"
        )
    return cond, {name: null_like(name, value, cond[name]) for name, value in null.items()}


def _at_rest(point: Point, cond: Mapping[str, Any]) -> Any:
    """The network's velocity at a point, under other conditions."""
    u = average_velocity(point.network, point.params, point.key, {"cond": cond})
    return u(point.t, point.t, point.x)


def _unless_null(
    point: Point, cond: Mapping[str, Any], nulls: Mapping[str, Any], guided: Any
) -> Any:
    """The guided velocity, and the pair's own where its conditions are the null already."""
    alike = [
        jnp.all((a == b).reshape(len(a), -1), axis=1)
        for name, null in nulls.items()
        for a, b in zip(*map(jax.tree.leaves, (cond[name], null)), strict=True)
    ]
    is_null: Array = jnp.all(jnp.stack(alike), axis=0)
    return jax.lax.stop_gradient(where_rows(is_null, point.own, guided))


def guidance_of(
    name: str, scale: float | None, mix: float, null: Mapping[str, Any] | None
) -> Guidance:
    """The guidance of a loss: none at scale 1, (1) at another, (2) where it is None.

    Raises:
        ValueError: for guidance without a null, or a `mix` outside [0, 1) or beside `scale=None`.
    """
    if not 0 <= mix < 1:
        raise ValueError(f"{name} needs 0 <= mix < 1, the share of the network's own; got {mix}")
    if scale is None and mix:
        raise ValueError(
            f"{name} with scale=None has its mix from each example's scale: leave mix={mix} out"
        )
    if scale == 1 and not mix:
        return Unguided()
    if not null:
        raise ValueError(
            f"{name} with scale={scale} and mix={mix} guides its target, which needs the null of a "
            'condition: give null={"label": 10}, say, as draws.drop'
        )
    return (
        GuidedAsTold(dict(null)) if scale is None else Guided(dict(null), float(scale), float(mix))
    )
