r"""Guidance by the gradient of a log-density: a classifier, or an energy with its sign turned.

By Bayes' rule the score of $p_t(x \mid y)$ is that of $p_t(x)$ plus $\nabla \log p_t(y \mid x)$.
With $D = \alpha\dot\sigma - \sigma\dot\alpha$

(1) $v_s(t, x) = v(t, x) + s\,c(t)\,\nabla_x \log p_t(y \mid x)$ with $c = -\sigma D / \alpha$

| path | $c(t)$ |
|---|---|
| $\alpha = t,\ \sigma = 1 - t$ | $(1 - t) / t$ |
| $\alpha^2 + \sigma^2 = 1$ | $\dot\alpha / \alpha$ |
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxflow.arrays import at_least_float32, batch_size
from jaxflow.records import record, static, traceable
from jaxflow.types import Array, Interval, Path, PyTree, Velocity
from jaxflow.velocities.function import as_velocity
from jaxflow.velocities.guidance.parts import by_part, common, held_inside, velocity_of_score
from jaxflow.velocities.guidance.rows import without
from jaxflow.velocities.guidance.scales import Scale, as_scale, scale_at
from jaxflow.velocities.prediction import conversion_interval

__all__ = ["guided_by"]


@record
class GuidedBy:
    """A velocity and the gradient (1)."""

    velocity: Velocity
    log_prob: Callable[..., Any]
    scale: Any
    path: Path
    withheld: tuple[str, ...] = static()

    @property
    def evaluations(self) -> int:
        """Those of the velocity, and of `log_prob` where it names some."""
        return self.velocity.evaluations + getattr(self.log_prob, "evaluations", 0)

    @property
    def interval(self) -> Interval:
        """Where the velocity is finite, and a score can be read as a velocity."""
        return common(self.velocity.interval, conversion_interval(self.path, "score", "velocity"))

    def __call__(self, t: Any, x: Any, **cond: Any) -> Any:
        t = held_inside(t, self.interval)
        own = without(cond, self.withheld)
        v, slope = self.velocity(t, x, **own), self._slope(t, x, cond)
        return by_part(self._moved, self.path, t, x, v, slope)

    def _slope(self, t: Any, x: Any, cond: Any) -> Any:
        value, pull = jax.vjp(lambda x: self.log_prob(t, x, **cond), x)
        if jnp.shape(value) != (batch_size(x),):
            raise ValueError(
                f"log_prob returns shape {jnp.shape(value)} for a batch of {batch_size(x)}: it is "
                "(t, x, **cond) -> log-density, one number a sample"
            )
        return pull(jnp.ones_like(value))[0]

    def _moved(self, path: Path, t: Any, x: Any, v: Array, slope: Array) -> Array:
        c = scale_at(self.scale, t, x) * velocity_of_score(path, t, x)
        return (at_least_float32(v) + c * at_least_float32(slope)).astype(v.dtype)


def guided_by(
    velocity: Velocity | Callable[..., PyTree],
    log_prob: Callable[..., Any],
    *,
    scale: Scale = 1.0,
    path: Path | None = None,
    withheld: Sequence[str] = (),
) -> Velocity:
    """Adds the gradient of a log-density to the score that a velocity tells (1).

    For a classifier `log p(y | x_t)` at scale 1 it is the velocity given `y`, exactly. An energy
    `E(t, x)` is the log-density `-E`, up to a constant that has no gradient.

    Args:
        velocity: learned from a standard normal source that is independent of the data, as only
            then (1) holds.
        log_prob: `(t, x, **cond) -> [batch]`, of noisy points; differentiated here. Arrays that it
            needs are fields of a record or arguments of a `jax.tree_util.Partial`.
        scale: $s$, one number, one a sample, `[batch]`, or a function of `t`; 0 changes nothing.
        path: an affine path, or a product of them; the velocity's own where None.
        withheld: conditions that `log_prob` alone takes, as `("label",)` for a velocity that knows
            no labels.

    Returns:
        A velocity that is finite where `alpha` is not zero: at the noise, `c` is infinite and the
        gradient zero. `evaluations` counts the network of the velocity; `log_prob` runs once
        forwards and once backwards a call, and is counted where it has `evaluations` of its own.

    Raises:
        ValueError: where no path is known, one has no schedule, or a log-density is not one number
            a sample.

    Dhariwal & Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021, arXiv:2105.05233, whose
    noise prediction moves by `-sigma` times the gradient; Song et al., Score-Based Generative
    Modeling through SDEs, 2021, arXiv:2011.13456, section 5.

    >>> from jaxflow import paths
    >>> pulled = guided_by(
    ...     lambda t, x: -x, lambda t, x: -jnp.sum(x**2, 1) / 2, path=paths.linear()
    ... )
    >>> pulled(jnp.full(1, 0.5), jnp.ones((1, 2)))
    Array([[-2., -2.]], dtype=float32)
    """
    velocity = as_velocity(velocity)
    path = velocity.path if path is None else path
    if path is None:
        raise ValueError(
            "guidance by a gradient needs the path, to read a score as a velocity: give path=..., "
            "or build the velocity by from_network(network, params, path=...)"
        )
    if not callable(log_prob):
        raise TypeError(
            f"log_prob is a function (t, x, **cond) -> [batch]; got {type(log_prob).__name__}"
        )
    made = GuidedBy(
        velocity, traceable(log_prob), as_scale(scale), traceable(path), tuple(withheld)
    )
    _ = made.interval
    return made
