r"""Guidance: a velocity made of others.

(1) $v_w(t, x \mid c) = v(t, x \mid \emptyset) + w\,(v(t, x \mid c) - v(t, x \mid \emptyset))$
"""

from collections.abc import Mapping

import jax.numpy as jnp

from jaxflow.records import record
from jaxflow.types import Array, Data, Interval, Path, Time, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["classifier_free"]


@record
class ClassifierFree:
    """The combination (1), in one call of the velocity on twice the batch."""

    velocity: Velocity
    scale: Array
    null: dict[str, Array]

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

    def __call__(self, t: Time, x: Data, **cond: Array) -> Data:
        missing = sorted(set(self.null) - set(cond))
        if missing:
            raise ValueError(
                f"guidance has a null value for {missing[0]!r}, but the conditions are "
                f"{sorted(cond)}: pass cond={{{missing[0]!r}: ...}} to the sampler"
            )
        both = {
            name: jnp.concatenate([value, self._null(name, value)]) for name, value in cond.items()
        }
        doubled = jnp.concatenate([x, x])
        conditional, unconditional = jnp.split(
            self.velocity(jnp.concatenate([t, t]), doubled, **both), 2
        )
        scale = jnp.asarray(self.scale, conditional.dtype)
        return unconditional + scale * (conditional - unconditional)

    def _null(self, name: str, value: Array) -> Array:
        if name not in self.null:
            return value
        return jnp.broadcast_to(self.null[name], value.shape).astype(value.dtype)


def classifier_free(velocity: Velocity, *, scale: float, null: Mapping[str, Array]) -> Velocity:
    """Classifier-free guidance (1): `scale` 0 ignores the conditions, 1 obeys them, more insists.

    Args:
        velocity: trained with conditions dropped (`draws.drop`).
        scale: $w$.
        null: the value of each condition that means "none", by name, as `{"label": 10}`;
            conditions without one are kept on both sides.

    Raises:
        ValueError: where `null` is empty, or names a condition that the call lacks.

    Ho & Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598, eq. 6, whose w is
    our w - 1.
    """
    if not null:
        raise ValueError("classifier_free needs the null value of a condition, as {'label': 10}")
    return ClassifierFree(
        as_velocity(velocity),
        jnp.asarray(scale),
        {name: jnp.asarray(v) for name, v in null.items()},
    )
