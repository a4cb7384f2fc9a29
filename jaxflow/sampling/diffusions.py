r"""Diffusion coefficients: how much noise a stochastic sampler adds, and takes away by the score.

For any $g(t)$ the equation

(1) $dX = (v + \frac{g^2}{2} s)\, dt + g\, dW$

has the marginals of the flow $dX = v\, dt$, with $s$ their score. So $g$ is free, and may be
chosen after training: a number, any function of the times `[batch]`, or one of

| name | $g^2$ |
|---|---|
| sigma | $a\, \sigma(t)$ |
| sine | $a \sin^2(\pi t)$ |
| noising | $2 \sigma\, (\dot\alpha \sigma - \alpha \dot\sigma) / \alpha$ |

The first two are finite wherever the path starts, and vanish as the noise does, with which the
score grows. The last is the rate of the path's own noising, whose time reversal (1) then is; for
`vp` it is $\beta$.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxflow.paths.ends import nonzero_interval, schedule_of
from jaxflow.paths.schedules import coefficients
from jaxflow.records import record, traceable
from jaxflow.types import Array, Path, Time

__all__ = ["as_diffusion", "noising", "sigma", "sine"]


@record
class Constant:
    """The same at all times."""

    value: Any

    def __call__(self, t: Time) -> Time:
        return jnp.full_like(t, self.value)


@record
class Sigma:
    """By the noise that is left on a path."""

    path: Path
    scale: Any

    def __call__(self, t: Time) -> Time:
        return _root(self.scale * schedule_of(self.path).sigma(t))


@record
class Sine:
    """None at both ends."""

    scale: Any

    def __call__(self, t: Time) -> Time:
        return jnp.sqrt(self.scale) * jnp.abs(jnp.sin(jnp.pi * t))


@record
class Noising:
    """That of a path."""

    path: Path

    def __call__(self, t: Time) -> Time:
        alpha, sigma, alpha_dot, sigma_dot = coefficients(schedule_of(self.path), t)
        return _root(2 * sigma * (alpha_dot * sigma - alpha * sigma_dot) / alpha)


def _root(square: Array) -> Array:
    """With a gradient at zero."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def as_diffusion(diffusion: Any) -> Callable[[Time], Time]:
    """A number as a function of time; a function as it is.

    Raises:
        ValueError: for a number that is negative or not finite.
        TypeError: for what is neither.

    >>> as_diffusion(0.5)(jnp.zeros(2))
    Array([0.5, 0.5], dtype=float32)
    """
    if callable(diffusion):
        return traceable(diffusion)
    is_array = hasattr(diffusion, "dtype") and jnp.shape(diffusion) == ()
    if not (is_array or isinstance(diffusion, int | float)):
        raise TypeError(
            "diffusion is a number or a function of the times, as sampling.diffusions.sigma(path); "
            f"got {diffusion!r}"
        )
    if isinstance(diffusion, int | float) and not 0 <= diffusion < math.inf:
        raise ValueError(f"diffusion must not be negative, and finite; got {diffusion}")
    return Constant(diffusion)


def sigma(path: Path, scale: float = 1.0) -> Callable[[Time], Time]:
    r"""$g^2 = a\, \sigma(t)$: noise in step with what is left of it.

    Args:
        path: an affine path.
        scale: $a$.

    Raises:
        ValueError: where the path has no schedule, or the scale is not positive and finite.

    Ma et al., SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant
    Transformers, 2024, arXiv:2401.08740, whose $w$ is $g^2$.

    >>> from jaxflow import paths
    >>> sigma(paths.linear())(jnp.array([0.0, 0.75, 1.0]))
    Array([1. , 0.5, 0. ], dtype=float32)
    """
    schedule_of(path)
    _check_scale("sigma", scale)
    return Sigma(traceable(path), scale)


def sine(scale: float = 1.0) -> Callable[[Time], Time]:
    r"""$g^2 = a \sin^2(\pi t)$: no noise at either end.

    Args:
        scale: $a$.

    Raises:
        ValueError: where the scale is not positive and finite.

    Ma et al., SiT, 2024, arXiv:2401.08740, whose $w$ is $g^2$.
    """
    _check_scale("sine", scale)
    return Sine(scale)


def noising(path: Path) -> Callable[[Time], Time]:
    r"""$g^2 = 2 \sigma\, (\dot\alpha \sigma - \alpha \dot\sigma) / \alpha$: the path's own noising.

    With it $x = \alpha x_1 + \sigma x_0$ has the law of $dx = \frac{\dot\alpha}{\alpha} x\, dt$ and
    noise of rate $g$, run from data to noise; for `vp`, $g^2 = \beta$.

    Args:
        path: an affine path that begins with some data, as `vp`.

    Raises:
        ValueError: where the path has no schedule, or begins with pure noise, where the rate is
            infinite.

    Song et al., Score-Based Generative Modeling through SDEs, 2021, arXiv:2011.13456, eq. 6.
    """
    schedule = schedule_of(path)
    if nonzero_interval(schedule, "alpha")[0] > schedule.interval[0]:
        raise ValueError(
            f"the noising of {path!r} is infinitely fast at t = {schedule.interval[0]}, where the "
            "path has no data: take sampling.diffusions.sigma(path) or a number"
        )
    return Noising(traceable(path))


def _check_scale(name: str, scale: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(f"{name} needs a positive and finite scale; got {scale}")
