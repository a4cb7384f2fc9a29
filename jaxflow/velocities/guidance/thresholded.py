r"""A velocity whose estimate of the data keeps within bounds.

(1) static: $\hat x_1' = \mathrm{clip}(\hat x_1, -b, b)$

(2) dynamic: $\hat x_1' = \mathrm{clip}(\hat x_1, -m, m)\, b / m$ with $m$ the larger of $b$ and the
    percentile of $|\hat x_1|$ over the event

(3) $v' = v + (\hat x_1' - \hat x_1) / k$ with the slope $k = d\hat x_1 / dv$, $1 - t$ on a straight
    line; so that what keeps within the bounds stays as it is.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxflow.arrays import as_floats, at_least_float32, expand
from jaxflow.records import record, traceable
from jaxflow.types import Array, Interval, Path, PyTree, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.guidance.parts import by_part, common, data_rate, held_inside
from jaxflow.velocities.prediction import conversion_interval, convert

__all__ = ["thresholded"]


@record
class Thresholded:
    """The velocity (3) with the bounds (1), or (2) where there is a percentile."""

    velocity: Velocity
    path: Path
    bound: Any
    percentile: Any

    @property
    def evaluations(self) -> int:
        """Those of the velocity."""
        return self.velocity.evaluations

    @property
    def interval(self) -> Interval:
        """Where the velocity is finite, and data can be read as a velocity and back."""
        return common(
            self.velocity.interval,
            conversion_interval(self.path, "velocity", "data"),
            conversion_interval(self.path, "data", "velocity"),
        )

    def __call__(self, t: Any, x: Any, **cond: Any) -> Any:
        t = held_inside(t, self.interval)
        return by_part(self._bounded, self.path, t, x, self.velocity(t, x, **cond))

    def _bounded(self, path: Path, t: Any, x: Any, v: Array) -> Array:
        wide = at_least_float32(v)
        data = convert(wide, t, at_least_float32(x), path=path, source="velocity", target="data")
        change = (self._clipped(data) - data) / data_rate(path, t, x)
        return (wide + change).astype(v.dtype)

    def _clipped(self, data: Array) -> Array:
        if self.percentile is None:
            return jnp.clip(data, -self.bound, self.bound)
        size = jnp.percentile(jnp.abs(data).reshape(len(data), -1), self.percentile, axis=1)
        m = expand(jnp.maximum(size, self.bound), data)
        return jnp.clip(data, -m, m) * (self.bound / m)


def thresholded(
    velocity: Velocity | Callable[..., PyTree],
    *,
    bound: float = 1.0,
    percentile: float | None = None,
    path: Path | None = None,
) -> Velocity:
    """A velocity whose estimate of the data is clipped, for strong guidance: (1), (2).

    Around guidance, as `thresholded(classifier_free(...))`. On a sample of several parts all are
    clipped.

    Args:
        velocity: of data scaled to [-bound, bound].
        bound: of every number of the data.
        percentile: None for static thresholds; for dynamic ones, in (0, 100], as 99.5: where that
            percentile of a sample's absolute values exceeds the bound, the sample is clipped there
            and scaled back.
        path: an affine path, or a product of them; the velocity's own where None.

    Returns:
        A velocity that is finite where the noise is not zero: a grid to `t = 1` ends on the clipped
        posterior mean.

    Raises:
        ValueError: where no path is known, or for a bound or percentile outside its range.

    Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding,
    2022, arXiv:2205.11487, section 2.3, with bound 1.

    >>> from jaxflow import paths
    >>> far = thresholded(lambda t, x: 10 + 0 * x, path=paths.linear())
    >>> far(jnp.full(1, 0.5), jnp.zeros((1, 1)))  # to 1 in the time that is left, not to 5
    Array([[2.]], dtype=float32)
    """
    velocity = as_velocity(velocity)
    path = velocity.path if path is None else path
    if path is None:
        raise ValueError(
            "thresholds are of the data, which needs the path: give path=..., or build the "
            "velocity by from_network(network, params, path=...)"
        )
    if not bound > 0:
        raise ValueError(f"thresholded needs a positive bound; got {bound}")
    if percentile is not None and not 0 < percentile <= 100:
        raise ValueError(f"thresholded needs a percentile in (0, 100], as 99.5; got {percentile}")
    made = Thresholded(
        velocity,
        traceable(path),
        as_floats(bound),
        None if percentile is None else as_floats(percentile),
    )
    _ = made.interval
    return made
