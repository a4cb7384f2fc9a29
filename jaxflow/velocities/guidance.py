r"""Guidance: a velocity made of others.

(1) $v_w(t, x \mid c) = v(t, x \mid \emptyset) + w\,(v(t, x \mid c) - v(t, x \mid \emptyset))$
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxflow.arrays import batch_size, expand, null_like
from jaxflow.records import record
from jaxflow.types import Array, Interval, Path, PyTree, Velocity
from jaxflow.velocities.function import as_velocity

__all__ = ["classifier_free"]


@record
class ClassifierFree:
    """The combination (1), in one call of the velocity on twice the batch.

    Each example lies beside its unconditional twin, so that a batch split over devices stays where
    it is.
    """

    velocity: Velocity
    scale: ArrayLike
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

    def __call__(self, t: Any, x: Any, **cond: Any) -> Any:
        missing = sorted(set(self.null) - set(cond))
        if missing:
            raise ValueError(
                f"guidance has a null value for {missing[0]!r}, but the conditions are "
                f"{sorted(cond)}: pass cond={{{missing[0]!r}: ...}} to the sampler"
            )
        n = batch_size(x)
        if jnp.ndim(self.scale) and jnp.shape(self.scale) != (n,):
            raise ValueError(
                f"the scale of guidance has shape {jnp.shape(self.scale)}, and the batch is {n}: "
                "give one number, or one a sample, which adaptive takes with per_sample=False"
            )
        without = {
            k: null_like(k, self.null[k], v) if k in self.null else v for k, v in cond.items()
        }
        both = jax.tree.map(_twins, (t, x, cond), (t, x, without))
        return jax.tree.map(self._combined, self.velocity(*both[:2], **both[2]))

    def _combined(self, v: Array) -> Array:
        conditional, unconditional = jnp.moveaxis(v.reshape(-1, 2, *v.shape[1:]), 1, 0)
        scale = jnp.asarray(self.scale, v.dtype)
        scale = expand(scale, conditional) if scale.ndim else scale
        return unconditional + scale * (conditional - unconditional)


def _twins(a: Array, b: Array) -> Array:
    return jnp.stack([jnp.asarray(a), jnp.asarray(b)], axis=1).reshape(-1, *jnp.shape(a)[1:])


def classifier_free(
    velocity: Velocity | Callable[..., PyTree], *, scale: ArrayLike, null: Mapping[str, Any]
) -> Velocity:
    """Classifier-free guidance (1): `scale` 0 ignores the conditions, 1 obeys them, more insists.

    Args:
        velocity: trained with conditions dropped (`draws.drop`).
        scale: $w$, one number or one a sample, `[batch]`.
        null: the value of each condition that means "none", by name, as `{"label": 10}`: a number,
            an array for one example, or a tree of them. Conditions without one are kept on both
            sides.

    Raises:
        ValueError: where `null` is empty, or names a condition that the call lacks, or `scale` has
            another shape.

    Ho & Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv:2207.12598, eq. 6, whose w is
    our w - 1.
    """
    if not null:
        raise ValueError("classifier_free needs the null value of a condition, as {'label': 10}")
    if jnp.ndim(scale) > 1:
        raise ValueError(
            f"the scale of guidance has shape {jnp.shape(scale)}: give one number, or one a sample"
        )
    return ClassifierFree(
        as_velocity(velocity), jnp.asarray(scale), jax.tree.map(jnp.asarray, dict(null))
    )
